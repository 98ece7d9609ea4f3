"""On what a run ran: a time without its machine says nothing."""

import platform
import re
from datetime import UTC, datetime
from pathlib import Path

import torch

from lngd_bench.clock import clock_of
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.training.records import Header
from lngd_bench.training.train import RunSpec

CPUINFO = Path("/proc/cpuinfo")


def header(spec: RunSpec, device: torch.device, command: str) -> Header:
    return Header(
        task=spec.task.name,
        optimizer=spec.optimizer,
        seed=spec.seed,
        lr=spec.lr,
        damping=spec.damping,
        rest=spec.rest,
        defaults=OPTIMIZERS[spec.optimizer].fingerprint,
        scoring=spec.task.scoring,
        config=spec.task.config(),
        torch=str(torch.__version__),
        device=str(device),
        threads=torch.get_num_threads(),
        machine=processor(device),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        clock=clock_of(device),
    )


def processor(device: torch.device) -> str:
    """The name of the device's chip, as its maker gives it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    named = re.search(r"model name\s*:\s*(.+)", CPUINFO.read_text()) if CPUINFO.exists() else None
    return named[1] if named else platform.processor() or platform.machine()
