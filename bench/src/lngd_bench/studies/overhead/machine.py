"""How fast this machine multiplies, convolves, factorises and reads memory: a few seconds of calibration in the same run."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from lngd_bench.clock import clock

REPEATS = 5
SIZE = 1024
"""Rows of the matrices."""
CHANNELS, IMAGE, SAMPLES = 128, 16, 16
NUMBERS = 2**22
"""16 MiB: no core's cache holds it, and a large layer has so many."""


@dataclass(frozen=True)
class Machine:
    """Operations a second of each kind, and bytes a second."""

    products: float
    convolutions: float
    factorisations: float
    bandwidth: float

    def __str__(self) -> str:
        giga = [f"{1e-9 * rate:.1f}" for rate in (self.products, self.convolutions, self.factorisations, self.bandwidth)]
        return "products {}, convolutions {}, factorisations {} Gop/s, memory {} GB/s".format(*giga)


def calibrated(repeats: int = REPEATS) -> Machine:
    """Of torch's threads in float32, at sizes that layers have; medians."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(SIZE, SIZE, generator=generator)
    x = torch.randn(SAMPLES, CHANNELS, IMAGE, IMAGE, generator=generator, requires_grad=True)
    kernel = torch.randn(CHANNELS, CHANNELS, 3, 3, generator=generator, requires_grad=True)
    spd = matrix @ matrix.T + SIZE * torch.eye(SIZE)
    vector, other = torch.ones(NUMBERS), torch.ones(NUMBERS)
    convolved = 3 * 2.0 * SAMPLES * IMAGE**2 * CHANNELS**2 * 9
    return Machine(
        2.0 * SIZE**3 / _seconds(lambda: matrix @ matrix, repeats),
        convolved / _seconds(lambda: functional.conv2d(x, kernel, padding=1).sum().backward(), repeats),
        float(SIZE**3) / _seconds(lambda: torch.cholesky_inverse(torch.linalg.cholesky_ex(spd)[0]), repeats),
        3.0 * vector.nbytes / _seconds(lambda: vector + other, repeats),
    )


def _seconds(work: Callable[[], object], repeats: int) -> float:
    work()
    return statistics.median(_once(work) for _ in range(repeats))


def _once(work: Callable[[], object]) -> float:
    start = clock()
    work()
    return clock() - start
