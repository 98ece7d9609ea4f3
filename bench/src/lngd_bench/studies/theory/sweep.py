"""The two-layer recursions behind the picture and the tables of Theorems 2–3: every width, seed, α and rate."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lngd_bench.studies.theory.proof import Verdict, conditions, extremes, initial_limits, judge
from lngd_bench.studies.theory.two_layer import (
    Net,
    Problem,
    Rate,
    best_rate,
    diagonal_kernel,
    error_shares,
    kernel,
    linear_residuals,
    random_net,
    random_problem,
    trajectory,
    unit_rate,
    unsigned_kernel,
    wide_kernel,
)

SAMPLES, INPUTS = 32, 8
ALPHAS = (0.03, 0.1, 0.2, 0.32, 0.66)
CONDITIONS_ALPHA = 0.1
"""The α at which the proof's conditions are followed along the recursion."""
RATES: dict[str, Rate] = {"none": unit_rate, "eq. 12": best_rate}
NET_SEEDS = 1_000_000
"""Seeds of the nets count from here, so that no net shares its random numbers with a problem."""


@dataclass(frozen=True)
class Run:
    """One recursion; `width` is infinite where J was held constant."""

    width: float
    seed: int
    alpha: float
    rate: str
    shares: Float[Tensor, " steps"]

    @property
    def verdict(self) -> Verdict:
        """Whether the theorem's bound held."""
        return judge(self.shares, self.alpha)


def problem(seed: int) -> Problem:
    """The data of a seed, the same for all widths."""
    return random_problem(SAMPLES, INPUTS, torch.Generator().manual_seed(seed))


def net(width: int, seed: int) -> Net:
    return random_net(width, INPUTS, torch.Generator().manual_seed(NET_SEEDS + seed))


def recursions(widths: Sequence[int], seeds: int, steps: int) -> Iterator[Run]:
    """Of real nets; then for m → ∞, from the residuals that the widest of them starts with."""
    for width, seed, (name, rate), alpha in product(widths, range(seeds), RATES.items(), ALPHAS):
        visits = trajectory(problem(seed), net(width, seed), alpha, rate)
        yield Run(width, seed, alpha, name, error_shares((visit.residual for visit in visits), steps))
    for seed, (name, rate), alpha in product(range(seeds), RATES.items(), ALPHAS):
        data = problem(seed)
        residual = net(max(widths), seed).outputs(data.X) - data.y
        residuals = linear_residuals(wide_kernel(data.X), residual, alpha, rate)
        yield Run(math.inf, seed, alpha, name, error_shares(residuals, steps))


def start(width: int, seed: int, steps: int) -> dict[str, Any]:
    """What the proof needs to know of one net: its limits and the kernel's extremes at θ₀, its conditions along the recursion."""
    data, first = problem(seed), net(width, seed)
    G = first.gates(data.X)
    followed = conditions(trajectory(data, first, CONDITIONS_ALPHA, unit_rate), data, steps)
    kernels = {
        "proof": extremes(kernel(data.X, G)),
        "unsigned": extremes(unsigned_kernel(data.X, G, first.signs)),
        "diagonal": extremes(diagonal_kernel(data.X, G)),
    }
    return {"width": width, "seed": seed, **asdict(initial_limits(data.X, first)), **asdict(followed), **kernels}
