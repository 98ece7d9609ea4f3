"""What it costs that a sharded layer's rate is measured along its whole direction once in an interval: LNGD on a GPT."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn
from torch.optim import Optimizer

from lngd_bench.competitors.optimizers import OPTIMIZERS, Setting
from lngd_bench.studies.language.runs import TASKS, Wanted, measured

TASK, METHOD, RATES, SEEDS = "gpt-240", "lngd", (0.25, 0.5), (0, 1, 2)
PROCESSES = 2


def ends() -> dict[float, tuple[Sequence[float], Sequence[float]]]:
    """By lr, the validation losses of each seed: in one process, and sharded in two."""
    with tempfile.TemporaryDirectory() as folder:
        for sharded in (False, True):
            size = PROCESSES if sharded else 1
            spawn(_work, (size, folder, sharded), nprocs=size)
        alone, apart = (torch.load(Path(folder) / f"{sharded}.pt") for sharded in (False, True))
    return {lr: (alone[lr], apart[lr]) for lr in RATES}


def _work(rank: int, processes: int, folder: str, sharded: bool) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    store = Path(folder) / f"store-{sharded}"
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)
    found = {lr: _ends(lr, sharded=sharded) for lr in RATES}
    if rank == 0:
        torch.save(found, Path(folder) / f"{sharded}.pt")
    distributed.destroy_process_group()


def _ends(lr: float, *, sharded: bool) -> list[float]:
    found = []
    for seed in SEEDS:
        build = _sharded if sharded else None
        found.append(measured(Wanted(task=TASKS[TASK], optimizer=METHOD, lr=lr, rest=1.0, seed=seed, build=build))["loss"])
    return found


def _sharded(model: nn.Module, setting: Setting) -> Optimizer:
    fully_shard(model, mesh=init_device_mesh("cpu", (PROCESSES,)))
    return OPTIMIZERS[METHOD].build(model, setting)
