"""The two-layer ReLU net of the convergence proof and the recursion that Theorems 2–3 are about (LNGD sec. 3.4, appendix D).

X is `[n, d]` with unit rows, θ is `[m, d]`, a_r = ±1 is fixed, all in float64. θ_r ~ N(0, ν²I) as in appendix D; sec. 3.4
prints νI. G carries a_r: eq. 17 leaves it out, but only with it is X ⋆ G the Jacobian of eq. 15. "⁺" is the Moore–Penrose
inverse with `RCOND`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

RCOND = 1e-10
"""Eigenvalues below this share of the largest count as zero in a generalised inverse."""
NU = 1.0
"""ν: standard deviation of the first layer's entries."""
RUNAWAY = 1e12
"""A recursion whose squared error has grown by this factor has diverged and is stopped."""

Inputs = Float[Tensor, "n d"]
Gates = Float[Tensor, "n m"]
Kernel = Float[Tensor, "n n"]
Residual = Float[Tensor, " n"]
Rate: TypeAlias = Callable[[Residual, Residual], Tensor]
"""Residual r and change of the outputs along the direction, Jd, to a factor on α."""


@dataclass(frozen=True)
class Problem:
    """Assumption 1: ‖xᵢ‖ = 1, |yᵢ| = O(1), no two inputs parallel."""

    X: Inputs
    y: Residual


@dataclass(frozen=True)
class Net:
    """f(θ, a, x) = (1/√m) Σ_r a_r relu(θ_rᵀx)."""

    theta: Float[Tensor, "m d"]
    signs: Float[Tensor, " m"]

    def outputs(self, X: Inputs) -> Residual:
        """v."""
        return (X @ self.theta.T).relu() @ self.signs / len(self.signs) ** 0.5

    def gates(self, X: Inputs) -> Gates:
        """G_ir = a_r I{xᵢᵀθ_r ≥ 0} / √m (LNGD eq. 17, with eq. 15's a_r)."""
        return (X @ self.theta.T >= 0) * self.signs / len(self.signs) ** 0.5


def random_problem(samples: int, inputs: int, generator: torch.Generator) -> Problem:
    """Directions uniform on the sphere, labels ±1."""
    X = torch.randn(samples, inputs, generator=generator, dtype=torch.float64)
    return Problem(X / X.norm(dim=1, keepdim=True), _signs(samples, generator))


def random_net(width: int, inputs: int, generator: torch.Generator) -> Net:
    """θ_r ~ N(0, ν²I), a_r ~ unif{−1, +1}."""
    theta = NU * torch.randn(width, inputs, generator=generator, dtype=torch.float64)
    return Net(theta, _signs(width, generator))


def input_factor(X: Inputs, G: Gates) -> Float[Tensor, "d d"]:
    """Φ = Z = Xᵀ(GGᵀ ∘ I)X (LNGD eq. 18)."""
    return X.T @ (G.square().sum(1, keepdim=True) * X)


def trace(G: Gates) -> Tensor:
    """η = tr((XXᵀ∘I)∘(GGᵀ∘I)) = ‖G‖², as ‖xᵢ‖ = 1."""
    return G.square().sum()


def pseudo_inverse(matrix: Float[Tensor, "k k"]) -> Float[Tensor, "k k"]:
    """The Moore–Penrose inverse of a positive semi-definite matrix."""
    return torch.linalg.pinv(matrix, rtol=RCOND, hermitian=True)


def natural_direction(X: Inputs, G: Gates, residual: Residual) -> Float[Tensor, "m d"]:
    """[ηZ⁺ ⊗ (GᵀG)⁺] Jᵀr as a matrix: η (GᵀG)⁺ Gᵀ diag(r) X Z⁺, where (GᵀG)⁺Gᵀ = Gᵀ(GGᵀ)⁺ needs no m × m matrix."""
    weighted = (residual[:, None] * X) @ pseudo_inverse(input_factor(X, G))
    return trace(G) * (G.T @ (pseudo_inverse(G @ G.T) @ weighted))


def output_change(X: Inputs, G: Gates, direction: Float[Tensor, "m d"]) -> Residual:
    """Jd."""
    return (G * (X @ direction.T)).sum(1)


def unit_rate(_: Residual, change: Residual) -> Tensor:
    """1: the update that Theorems 2–3 analyse."""
    return change.new_ones(())


def best_rate(residual: Residual, change: Residual) -> Tensor:
    """α_l = ⟨d,∇⟩ / dᵀFd = rᵀJd / ‖Jd‖², of Algorithm 1 (LNGD eq. 12, µ = 0, F = JᵀJ/n)."""
    return residual.dot(change) / change.square().sum().clamp(min=torch.finfo(change.dtype).tiny)


@dataclass(frozen=True)
class Visit:
    """Where a recursion is before a step."""

    net: Net
    G: Gates
    residual: Residual


def trajectory(problem: Problem, net: Net, alpha: float, rate: Rate) -> Iterator[Visit]:
    """θ ← θ − α·rate·[ηZ⁺ ⊗ (GᵀG)⁺]Jᵀ(v − y), without end."""
    X = problem.X
    while True:
        visit = Visit(net, net.gates(X), net.outputs(X) - problem.y)
        yield visit
        direction = natural_direction(X, visit.G, visit.residual)
        scale = alpha * rate(visit.residual, output_change(X, visit.G, direction))
        net = replace(net, theta=net.theta - scale * direction)


def linear_residuals(K: Kernel, residual: Residual, alpha: float, rate: Rate) -> Iterator[Residual]:
    """r ← r − α·rate·Kr, the recursion of a net so wide that J does not move."""
    while True:
        yield residual
        change = K @ residual
        residual = residual - alpha * rate(residual, change) * change


def error_shares(residuals: Iterator[Residual], steps: int) -> Float[Tensor, " steps"]:
    """‖y − v_k‖² / ‖y − v_0‖² for k = 0 … steps; infinite from where the recursion has diverged."""
    start = next(residuals).square().sum()
    shares = [1.0]
    for residual in islice(residuals, steps):
        shares.append((residual.square().sum() / start).item())
        if not shares[-1] < RUNAWAY:
            break
    return torch.tensor(shares + [torch.inf] * (steps + 1 - len(shares)), dtype=torch.float64)


def kernel(X: Inputs, G: Gates) -> Kernel:
    """K = J[ηZ⁺ ⊗ (GᵀG)⁺]Jᵀ = ηXZ⁺Xᵀ ∘ GGᵀ(GGᵀ)⁺: the outputs' step is −αKr (Term 1 of the proof)."""
    gram = G @ G.T
    return _input_part(X, G) * (gram @ pseudo_inverse(gram))


def unsigned_kernel(X: Inputs, G: Gates, signs: Tensor) -> Kernel:
    """K if Ψ is made of eq. 17's G, without a_r, while the gradient has it: S = G diag(a) Gᵀ replaces one GGᵀ on either side."""
    inverse = pseudo_inverse(G @ G.T)
    mixed = (G * signs) @ G.T
    return _input_part(X, G) * (mixed @ inverse @ inverse @ mixed)


def diagonal_kernel(X: Inputs, G: Gates) -> Kernel:
    """K with the algorithm's diagonal Ψ (eq. 5) in place of the proof's dense one."""
    return _input_part(X, G) * ((G / G.square().sum(0).clamp(min=torch.finfo(G.dtype).tiny)) @ G.T)


def wide_kernel(X: Inputs) -> Kernel:
    """K for m → ∞: (GGᵀ)ᵢᵢ → ½, so K = diag(n·hᵢ) with hᵢ = xᵢᵀ(XᵀX)⁺xᵢ, the leverage of a sample. Σhᵢ = d: K is d on average."""
    return len(X) * torch.diag((X @ pseudo_inverse(X.T @ X) * X).sum(1))


def wide_gram(X: Inputs) -> Kernel:
    """K∞ᵢⱼ = P(θᵀxᵢ ≥ 0, θᵀxⱼ ≥ 0) = ½ − arccos(xᵢᵀxⱼ)/2π (the paper's Lemma 1): GGᵀ for m → ∞."""
    return 0.5 - torch.arccos((X @ X.T).clamp(-1, 1).fill_diagonal_(1)) / (2 * torch.pi)


def _input_part(X: Inputs, G: Gates) -> Kernel:
    return trace(G) * X @ pseudo_inverse(input_factor(X, G)) @ X.T


def _signs(count: int, generator: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(0, 2, (count,), generator=generator).double() - 1
