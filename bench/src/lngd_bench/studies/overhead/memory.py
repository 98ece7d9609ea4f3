"""What an optimizer keeps in bytes, and how high training with it rises in memory.

The peak is that of a process of its own: where others have trained before, freed memory that the allocator keeps would count.
"""

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lngd.optimizer import NaturalGradient
from lngd_bench.studies.overhead.asdl import AsdlTrainee
from lngd_bench.studies.overhead.overhead import ASDL, STATELESS, WARM_UP, Trainee
from lngd_bench.studies.overhead.workloads import Workload

STATUS = Path("/proc/self/status")
KIB = 2**10
STEPS = 12
"""Those that hold one of every kind: at least a measuring step with all state in place, and a peer's first refresh."""


def state_bytes(trainee: Trainee) -> int:
    """Of every tensor that the optimizer keeps: moments, statistics, inverses, averages. Each memory counts once."""
    known = {p.untyped_storage().data_ptr() for p in trainee.model.parameters()}
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors_in(trainee.kept())}
    return sum(size for place, size in storages.items() if place not in known)


def tensors_in(thing: Any) -> Iterator[Tensor]:
    """Every tensor in containers, and in objects that are no containers."""
    if isinstance(thing, Tensor):
        yield thing
    for part in _parts(thing):
        yield from tensors_in(part)


def _parts(thing: Any) -> Iterable[Any]:
    if isinstance(thing, dict):
        return thing.values()
    if isinstance(thing, list | tuple):
        return thing
    plain = isinstance(thing, type | Tensor) or callable(thing)
    return () if plain else getattr(thing, "__dict__", {}).values()


def trainee_of(workload: Workload, method: str) -> Trainee:
    """A method's, whether it is a row of the competitors or runs by itself."""
    return AsdlTrainee(workload) if method == ASDL else Trainee(workload, method)


def parameter_count(model: nn.Module) -> int:
    """Of all parameters."""
    return sum(p.numel() for p in model.parameters())


def peak_bytes(workload: Workload, method: str) -> int | None:
    """The highest resident memory of a few steps, model and batch included, Python and torch not; None where Linux is missing."""
    if not STATUS.exists():
        return None
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        return processes.submit(rise, workload, method, torch.get_num_threads()).result()


def rise(workload: Workload, method: str, threads: int) -> int:
    """Bytes by which the steps make this process grow."""
    torch.set_num_threads(threads)
    trainee_of(Workload("mlp", 2, 2), method)  # imports what is imported when it is built
    before = resident("VmRSS")
    trainee = trainee_of(workload, method)
    known = method in STATELESS or isinstance(trainee.optimizer, NaturalGradient)
    for _ in range(WARM_UP.get(method, 2) + 1 if known else STEPS):
        trainee.step()
    return resident("VmHWM") - before


def resident(kind: str) -> int:
    """Bytes: `VmRSS`, now, or `VmHWM`, the most so far. `ru_maxrss` would begin with what the parent process had."""
    found = re.search(rf"^{kind}:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * KIB
