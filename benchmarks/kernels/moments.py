"""Idea 6: second moments Σ w a aᵀ over 2,048 rows, 128 samples of 16 positions.

Rows are coloured (spectrum k^-1), so that the error of a sub-batch is that of a real factor's kind.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from benchmarks.kernels.spectra import SIZES, Factor, error, factor, generator, name_of
from benchmarks.kernels.stopwatch import Case
from torch import Tensor

from lngd.linalg import second_moments

SAMPLES, POSITIONS, FEWER = 128, 16, 32
DECAY = 0.95


def cases() -> Iterator[Case]:
    """Against one product over all rows, or against the library's panels."""
    for i in sorted({i for _, i in SIZES}):
        rows = rows_of(factor(i, 1))
        weights = torch.rand(len(rows), generator=generator())
        accumulator, fewer = torch.zeros(i, i), FEWER * POSITIONS
        panels = partial(second_moments, rows, weights)
        part = partial(second_moments, rows[:fewer], weights[:fewer])
        full = partial(whole, rows, weights)
        difference = {"difference": error(panels(), full().double())}
        off = {"error, ‖Φ₃₂ − Φ₁₂₈‖/‖Φ₁₂₈‖": error(part() * SAMPLES / FEWER, full().double())}
        size = name_of((len(rows), i))
        yield Case(idea="four panels", size=size, against="one product", old=full, new=panels, figures=difference)
        yield Case(idea="32 of 128 samples", size=size, against="four panels of all", old=panels, new=part, figures=off)
        yield accumulating(size, full, rows, weights, accumulator)


def rows_of(phi: Factor) -> Tensor:
    """`[n·s, i]`."""
    z = torch.randn(SAMPLES * POSITIONS, phi.n, generator=generator())
    return (z * phi.values.sqrt().float()) @ phi.basis.T.float()


def whole(rows: Tensor, weights: Tensor) -> Tensor:
    """Every entry computed, though half of them is known from the other half."""
    return (rows * weights.unsqueeze(-1)).T @ rows


def accumulating(size: str, full: Callable[[], Tensor], rows: Tensor, weights: Tensor, accumulator: Tensor) -> Case:
    """Product and moving average in one call; two passes over Φ less."""
    average = torch.zeros_like(accumulator)
    return Case(
        idea="addmm into the average",
        size=size,
        against="one product, then lerp",
        old=lambda: average.lerp_(full(), 1 - DECAY),
        new=lambda: accumulator.addmm_((rows * weights.unsqueeze(-1)).T, rows, beta=DECAY, alpha=1 - DECAY),
    )
