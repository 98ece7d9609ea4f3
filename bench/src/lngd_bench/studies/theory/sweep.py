"""The two-layer recursions behind the figure and the tables of Theorems 2–3: every width, seed, α and rate."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lngd_bench.studies.theory.proof import Conditions, Limits, Verdict, conditions, initial_limits, judge
from lngd_bench.studies.theory.two_layer import (
    Net,
    Problem,
    Rate,
    best_rate,
    error_shares,
    linear_residuals,
    random_net,
    random_problem,
    trajectory,
    unit_rate,
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


@dataclass(frozen=True)
class Start:
    """What the proof needs to know of one net, at θ₀ and along the recursion with `CONDITIONS_ALPHA`."""

    width: int
    seed: int
    limits: Limits
    conditions: Conditions


def problem(seed: int) -> Problem:
    """The data of a seed, the same for all widths."""
    return random_problem(SAMPLES, INPUTS, torch.Generator().manual_seed(seed))


def net(width: int, seed: int) -> Net:
    """The net of a seed."""
    return random_net(width, INPUTS, torch.Generator().manual_seed(NET_SEEDS + seed))


def finite_runs(widths: Sequence[int], seeds: int, steps: int) -> Iterator[Run]:
    """The recursions of real nets."""
    for width in widths:
        for seed in range(seeds):
            yield from _runs(width, seed, steps)


def limit_runs(width: int, seeds: int, steps: int) -> Iterator[Run]:
    """The recursion for m → ∞, from the residual that the net of this width starts with."""
    for seed in range(seeds):
        data = problem(seed)
        residual = net(width, seed).outputs(data.X) - data.y
        for name, rate in RATES.items():
            for alpha in ALPHAS:
                residuals = linear_residuals(wide_kernel(data.X), residual, alpha, rate)
                yield Run(math.inf, seed, alpha, name, error_shares(residuals, steps))


def starts(widths: Sequence[int], seeds: int, steps: int) -> Iterator[Start]:
    """The proof's quantities for every net."""
    for width in widths:
        for seed in range(seeds):
            data, first = problem(seed), net(width, seed)
            followed = conditions(trajectory(data, first, CONDITIONS_ALPHA, unit_rate), data, steps)
            yield Start(width, seed, initial_limits(data.X, first), followed)


def _runs(width: int, seed: int, steps: int) -> Iterator[Run]:
    data = problem(seed)
    for name, rate in RATES.items():
        for alpha in ALPHAS:
            visits = trajectory(data, net(width, seed), alpha, rate)
            shares = error_shares((visit.residual for visit in visits), steps)
            yield Run(width, seed, alpha, name, shares)
