"""The bound of Theorems 2–3 held against recursions of every width, seed, α and rate, and what its proof needs, measured
(LNGD appendix D).
"""

import math
from collections.abc import Iterator, Sequence
from itertools import islice, product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lngd_bench.studies.theory.two_layer import (
    Inputs,
    Kernel,
    Net,
    Problem,
    Rate,
    Visit,
    best_rate,
    diagonal_kernel,
    error_shares,
    input_factor,
    kernel,
    linear_residuals,
    random_net,
    random_problem,
    trace,
    trajectory,
    unit_rate,
    unsigned_kernel,
    wide_gram,
    wide_kernel,
)

SAMPLES, INPUTS = 32, 8
ALPHAS = (0.03, 0.1, 0.2, 0.32, 0.66)
CONDITIONS_ALPHA = 0.1
"""The α at which the proof's conditions are followed along the recursion."""
RATES: dict[str, Rate] = {"none": unit_rate, "eq. 12": best_rate}
NET_SEEDS = 1_000_000
"""Seeds of the nets count from here, so that no net shares its random numbers with a problem."""
FLOOR = 1e-24
"""Squared errors below this share are rounding: a bound below it is not held against them."""
SLACK = 1e-9
"""How far rounding may lift an error over the bound."""

Shares = Float[Tensor, " steps"]


def problem(seed: int) -> Problem:
    """The data of a seed, the same for all widths."""
    return random_problem(SAMPLES, INPUTS, torch.Generator().manual_seed(seed))


def net(width: int, seed: int) -> Net:
    return random_net(width, INPUTS, torch.Generator().manual_seed(NET_SEEDS + seed))


def runs(widths: Sequence[int], seeds: int, steps: int) -> Iterator[dict[str, Any]]:
    """A record each: of real nets; then for m → ∞, where J is constant, from the residuals that the widest starts with."""
    for width, seed, rate, alpha in product([*widths, math.inf], range(seeds), RATES, ALPHAS):
        data = problem(seed)
        if width < math.inf:
            residuals: Iterator[Tensor] = (
                visit.residual for visit in trajectory(data, net(int(width), seed), alpha, RATES[rate])
            )
        else:
            start = net(max(widths), seed).outputs(data.X) - data.y
            residuals = linear_residuals(wide_kernel(data.X), start, alpha, RATES[rate])
        shares = error_shares(residuals, steps)
        ratio, first = judge(shares, alpha)
        about = {"width": width, "seed": seed, "alpha": alpha, "rate": rate}
        yield about | {"shares": shares.tolist(), "ratio": ratio, "first": first}


def start_of(width: int, seed: int, steps: int) -> dict[str, Any]:
    """What the proof needs to know of one net: its limits and the kernel's extremes at θ₀, its conditions along the recursion."""
    data, first = problem(seed), net(width, seed)
    X, G = data.X, first.gates(data.X)
    followed = conditions(trajectory(data, first, CONDITIONS_ALPHA, unit_rate), data, steps)
    kernels = {"proof": kernel(X, G), "unsigned": unsigned_kernel(X, G, first.signs), "diagonal": diagonal_kernel(X, G)}
    found = limits(input_factor(X, G), trace(G), kernels["proof"]) | followed
    return {"width": width, "seed": seed} | found | {name: extremes(K) for name, K in kernels.items()}


def bound(alpha: float, steps: int) -> Shares:
    """(1−α)ᵏ."""
    return (1 - alpha) ** torch.arange(steps + 1, dtype=torch.float64)


def judge(shares: Shares, alpha: float) -> tuple[float, int | None]:
    """The largest ‖y − v_k‖² / ((1−α)ᵏ ‖y − v₀‖²) over k ≥ 1, and the first k where it is over 1; None if the bound holds."""
    ratios = (shares / bound(alpha, len(shares) - 1).clamp(min=FLOOR))[1:]
    over = (ratios > 1 + SLACK).nonzero()
    return ratios.max().item(), int(over[0]) + 1 if len(over) else None


def printed_c(alpha: float) -> float:
    """The c at which the printed bound (1−2c)/(1+c)² is α: theorem and proof allow α for any smaller c."""
    return ((1 + 3 * alpha) ** 0.5 - 1 - alpha) / alpha


def limits(Z: Float[Tensor, "d d"], eta: Tensor, K: Kernel) -> dict[str, float]:
    """The largest α by each stage of the proof at c = 0, where the printed (1−2c)/(1+c)² is 1, and by K itself.

    - derived: λ_max(Z)/η, the proof's next-to-last expression;
    - solved: λ_max(Z)/(κ²η), which its last inequality really gives, κ = λ_max(Z)/λ_min(Z);
    - exact: (2λ−1)/λ² at the worst eigenvalue λ of K, from (1−αλ)² ≤ 1−α: with constant J necessary and sufficient for all r;
    - rated: the same with the rate of eq. 12: 2 − (1+q)²/4q, q = κ(K), from cos²(r, Kr) ≥ 4q/(1+q)² (Kantorovich).
    """
    values = torch.linalg.eigvalsh(K)
    derived, spread = extremes(Z)[1] / eta.item(), condition_number(K)
    return {
        "derived": derived,
        "solved": derived / condition_number(Z) ** 2,
        "exact": ((2 * values - 1) / values.square()).min().item(),
        "rated": 2 - (1 + spread) ** 2 / (4 * spread),
    }


def extremes(matrix: Float[Tensor, "k k"]) -> tuple[float, float]:
    """Smallest and largest eigenvalue of a symmetric matrix."""
    values = torch.linalg.eigvalsh(matrix)
    return values[0].item(), values[-1].item()


def condition_number(matrix: Float[Tensor, "k k"]) -> float:
    """κ = λ_max/λ_min of a symmetric matrix."""
    values = torch.linalg.eigvalsh(matrix)
    return (values[-1] / values[0]).item()


def conditions(visits: Iterator[Visit], data: Problem, steps: int) -> dict[str, float]:
    """Conditions 1–2 and Lemmas 4 and 7 along so many steps of a recursion.

    - gram: λ_min(GGᵀ), the least over the steps; Lemma 4 says ≥ √(λ_K/2), its proof gives ≥ λ_K/2;
    - moved: the largest ‖J − J₀‖₂; Condition 2 demands ≤ √2·c·√λ_K/(4κ) with c < ½;
    - c: the c that `moved` would need;
    - travelled: the largest ‖θ − θ₀‖ over Lemma 7's radius 2‖y − v₀‖κ/√(λ_K/2).
    """
    first, *later = islice(visits, steps + 1)
    X, root = data.X, extremes(wide_gram(data.X))[0] ** 0.5  # √λ_K
    kappa = condition_number(input_factor(X, first.G))
    moved = max(_moved(X, visit.G - first.G) for visit in later)
    radius = 2 * first.residual.norm().item() * kappa * 2**0.5 / root
    return {
        "gram": max(0.0, min(extremes(visit.G @ visit.G.T)[0] for visit in (first, *later))),
        "moved": moved,
        "c": moved * 4 * kappa / (2**0.5 * root),
        "travelled": max((visit.net.theta - first.net.theta).norm().item() for visit in later) / radius,
    }


def demanded_width(X: Inputs, nu: float, failure: float) -> float:
    """n⁴κ⁸/(ν²ε³λ_K⁴), the theorem's width without its unknown constant, κ = κ(Z) for m → ∞."""
    return len(X) ** 4 * condition_number(X.T @ X) ** 8 / (nu**2 * failure**3 * extremes(wide_gram(X))[0] ** 4)


def _moved(X: Inputs, difference: Tensor) -> float:
    """‖J − J₀‖₂ from its Gram matrix XXᵀ ∘ (G−G₀)(G−G₀)ᵀ."""
    return max(extremes((X @ X.T) * (difference @ difference.T))[1], 0.0) ** 0.5
