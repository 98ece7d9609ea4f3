"""The bound of Theorems 2–3 held against a recursion, and the constants that its proof needs, measured (LNGD appendix D)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from lngd_bench.studies.theory.two_layer import Inputs, Kernel, Net, Problem, Visit, input_factor, kernel, trace, wide_gram

FLOOR = 1e-24
"""Squared errors below this share are rounding: a bound below it is not held against them."""
SLACK = 1e-9
"""How far rounding may lift an error over the bound."""

Shares = Float[Tensor, " steps"]


@dataclass(frozen=True)
class Verdict:
    """What became of ‖y − v_k‖² ≤ (1−α)ᵏ ‖y − v₀‖².

    Attributes:
        ratio: the largest ‖y − v_k‖² / ((1−α)ᵏ ‖y − v₀‖²) over k ≥ 1.
        first: the first k where it is over 1; None if the bound holds.
    """

    ratio: float
    first: int | None


def bound(alpha: float, steps: int) -> Shares:
    """(1−α)ᵏ."""
    return (1 - alpha) ** torch.arange(steps + 1, dtype=torch.float64)


def judge(shares: Shares, alpha: float) -> Verdict:
    """Holds the errors of a recursion against the bound."""
    ratios = (shares / bound(alpha, len(shares) - 1).clamp(min=FLOOR))[1:]
    over = (ratios > 1 + SLACK).nonzero()
    return Verdict(ratios.max().item(), int(over[0]) + 1 if len(over) else None)


def printed_c(alpha: float) -> float:
    """The c at which the printed bound (1−2c)/(1+c)² is α: theorem and proof allow α for any smaller c."""
    return ((1 + 3 * alpha) ** 0.5 - 1 - alpha) / alpha


@dataclass(frozen=True)
class Limits:
    """The largest α by each stage of the proof at c = 0, its most generous value, and by K itself.

    Attributes:
        derived: λ_max(Z)/η, the proof's next-to-last expression.
        solved: λ_max(Z)/(κ²η), which its last inequality really gives, κ = λ_max(Z)/λ_min(Z).
        exact: (2λ−1)/λ² at the worst eigenvalue λ of K, from (1−αλ)² ≤ 1−α: with constant J necessary and sufficient for all r.
        rated: the same with the rate of eq. 12: 2 − (1+q)²/4q, q = κ(K), from cos²(r, Kr) ≥ 4q/(1+q)² (Kantorovich).
    """

    derived: float
    solved: float
    exact: float
    rated: float


def limits(Z: Float[Tensor, "d d"], eta: Tensor, K: Kernel) -> Limits:
    """All of them; the printed (1−2c)/(1+c)² is 1 at c = 0."""
    values = torch.linalg.eigvalsh(K)
    spread = condition_number(K)
    derived = extremes(Z)[1] / eta.item()
    return Limits(
        derived=derived,
        solved=derived / condition_number(Z) ** 2,
        exact=((2 * values - 1) / values.square()).min().item(),
        rated=2 - (1 + spread) ** 2 / (4 * spread),
    )


def extremes(matrix: Float[Tensor, "k k"]) -> tuple[float, float]:
    """Smallest and largest eigenvalue of a symmetric matrix."""
    values = torch.linalg.eigvalsh(matrix)
    return values[0].item(), values[-1].item()


def condition_number(matrix: Float[Tensor, "k k"]) -> float:
    """κ = λ_max/λ_min of a symmetric matrix."""
    values = torch.linalg.eigvalsh(matrix)
    return (values[-1] / values[0]).item()


@dataclass(frozen=True)
class Conditions:
    """Conditions 1–2 and Lemmas 4 and 7 along a recursion.

    Attributes:
        gram: λ_min(GGᵀ), the least over the steps; Lemma 4 says ≥ √(λ_K/2), its proof gives ≥ λ_K/2.
        moved: the largest ‖J − J₀‖₂; Condition 2 demands ≤ √2·c·√λ_K/(4κ) with c < ½.
        c: the c that `moved` would need.
        travelled: the largest ‖θ − θ₀‖ over Lemma 7's radius 2‖y − v₀‖κ/√(λ_K/2).
    """

    gram: float
    moved: float
    c: float
    travelled: float


def conditions(visits: Iterator[Visit], problem: Problem, steps: int) -> Conditions:
    """Follows a recursion for so many steps."""
    first, *later = islice(visits, steps + 1)
    X, root = problem.X, extremes(wide_gram(problem.X))[0] ** 0.5  # √λ_K
    kappa = condition_number(input_factor(X, first.G))
    moved = max(_moved(X, visit, first) for visit in later)
    radius = 2 * first.residual.norm().item() * kappa * 2**0.5 / root
    return Conditions(
        gram=max(0.0, min(extremes(visit.G @ visit.G.T)[0] for visit in (first, *later))),
        moved=moved,
        c=moved * 4 * kappa / (2**0.5 * root),
        travelled=max(_distance(visit.net, first.net) for visit in later) / radius,
    )


def demanded_width(X: Inputs, nu: float, failure: float) -> float:
    """n⁴κ⁸/(ν²ε³λ_K⁴), the theorem's width without its unknown constant, κ = κ(Z) for m → ∞."""
    return len(X) ** 4 * condition_number(X.T @ X) ** 8 / (nu**2 * failure**3 * extremes(wide_gram(X))[0] ** 4)


def initial_limits(X: Inputs, net: Net) -> Limits:
    """The limits at θ₀."""
    G = net.gates(X)
    return limits(input_factor(X, G), trace(G), kernel(X, G))


def _moved(X: Inputs, visit: Visit, first: Visit) -> float:
    """‖J − J₀‖₂ from its Gram matrix XXᵀ ∘ (G−G₀)(G−G₀)ᵀ."""
    difference = visit.G - first.G
    return max(extremes((X @ X.T) * (difference @ difference.T))[1], 0.0) ** 0.5


def _distance(net: Net, start: Net) -> float:
    return (net.theta - start.theta).norm().item()
