"""Seconds of a step in one and in several processes of gloo, and a model of them.

A step is what each process computes on its own batch, and its share of the preconditioning where that is shared out, and what it
sends. Processes that share a core take turns.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

import lngd
from lngd.optimizer.curved_layer import CurvedLayer
from lngd_bench.tasks.models.gpt import GPT

STEPS, WARM, BATCH, LENGTH, VOCABULARY = 48, 8, 8, 64, 256
REPEATS = 12
SIZES = 2**10, 2**20
"""Numbers of the all-reduces that latency and bandwidth are read from."""


@dataclass(frozen=True)
class Measured:
    """Of one number of processes: medians over steps, of the process that takes longest.

    Attributes:
        step: wall seconds.
        preconditioning: CPU seconds of directions and inverses, a mean over steps.
        computing: CPU seconds of the rest of a step.
        latency: seconds of a small all-reduce.
        bandwidth: bytes a second of a large one.
    """

    step: float
    preconditioning: float
    computing: float
    latency: float
    bandwidth: float


def measured(processes: int) -> Measured:
    """SpectralLNGD on a small GPT, in so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        store, results = Path(folder) / "store", Path(folder) / "results.pt"
        spawn(_work, (processes, str(store), str(results)), nprocs=processes)
        return Measured(**torch.load(results))


def predicted(alone: Measured, here: Measured, processes: int, cores: int) -> float:
    """A step of several processes, from one process's costs and the links' as they are with so many.

    An all-reduce of the gradients, and an all-gather of everybody's directions, half as much.
    """
    turns = max(1.0, processes / cores)
    gradients = 4 * sum(p.numel() for p in model().parameters())
    sent = 1.5 * gradients / here.bandwidth + 3 * here.latency
    return turns * (alone.computing + alone.preconditioning / processes) + sent


def model() -> nn.Module:
    torch.manual_seed(0)
    return GPT(VOCABULARY, LENGTH, 256, heads=4, layers=3)


def _work(rank: int, processes: int, store: str, results: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)
    spent = _Spent()
    for method in ("direction", "has_inverses"):
        setattr(CurvedLayer, method, spent.on(getattr(CurvedLayer, method)))
    whole: nn.Module = model()
    optimizer = lngd.SpectralLNGD(whole, mean_over="token")
    if processes > 1:
        whole = DistributedDataParallel(whole)
    generator = torch.Generator().manual_seed(rank)
    walls, computed = [], []
    for step in range(WARM + STEPS):
        tokens = torch.randint(0, VOCABULARY, (BATCH, LENGTH + 1), generator=generator)
        if step == WARM:
            spent.seconds = 0.0
        before, wall, cpu = spent.seconds, time.perf_counter(), time.thread_time()
        optimizer.zero_grad()
        logits = whole(tokens[:, :-1])
        F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
        walls.append(time.perf_counter() - wall)
        computed.append(time.thread_time() - cpu - (spent.seconds - before))
    latency, bandwidth = _links(processes)
    own = {
        "step": statistics.median(walls[WARM:]),
        "preconditioning": spent.seconds / STEPS,
        "computing": statistics.median(computed[WARM:]),
        "latency": latency,
        "bandwidth": bandwidth,
    }
    everybodys: list[Any] = [None] * processes
    distributed.all_gather_object(everybodys, own)
    if rank == 0:
        torch.save({name: max(each[name] for each in everybodys) for name in own}, results)
    distributed.destroy_process_group()


class _Spent:
    """CPU seconds of a thread in some functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*args)
            finally:
                self.seconds += time.thread_time() - start

        return timed


def _links(processes: int) -> tuple[float, float]:
    """Latency and bandwidth of all-reduces; of one process nothing and no limit."""
    if processes == 1:
        return 0.0, float("inf")
    small, large = (_seconds(partial(distributed.all_reduce, torch.zeros(size))) for size in SIZES)
    return small, 4 * SIZES[1] / max(large - small, 1e-9)


def _seconds(call: Callable[[], Any]) -> float:
    found: list[float] = []
    for _ in range(REPEATS):
        distributed.barrier()
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return statistics.median(found)
