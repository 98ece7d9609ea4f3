"""The polar factor U Vᵀ of a gradient G = U Σ Vᵀ by products only, in the usual form and on the Gram matrix.

Figures: the smallest and largest singular value of what comes out (1 is exact), and ‖X − U Vᵀ‖ / √k, each for a Gaussian G and
for one with σₖ = 1/k. A minimax quintic is the best odd polynomial of degree 5 where the iteration before it left off; their
composition is then the best of its degree on [l, 1] (Polar Express, Amsel, Persson, Musco & Gower 2025, arXiv 2505.16932).
"""

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lngd.linalg import inverse_root_of_symmetric
from lngd.linalg.polar import inverse_root
from lngd_bench.studies.kernels.passes import Record, generator, orthogonal, timed

Quintic = tuple[float, float, float]
"""a, b, c of ax + bx³ + cx⁵."""
Polar = Callable[[Tensor], Tensor]
SIZES = ((384, 384), (384, 1536), (512, 4608), (1024, 1024))
LOW = {3: 1e-2, 4: 3e-3, 5: 1e-3}
"""The smallest singular value that so many iterations are made for, the largest being 1."""
MUON: Quintic = (3.4445, -4.7750, 2.0315)
EXCHANGES, TOLERANCE = 100, 1e-12


def best_quintic(low: float, high: float) -> tuple[Quintic, float]:
    """The odd quintic with the least max |1 − p(x)| on [low, high], and that error, by Remez exchange.

    p(x) − 1 takes ∓E in turn at four points: both ends and the two extrema of p between them.
    """
    points = np.array([low, low + (high - low) / 4, low + 3 * (high - low) / 4, high])
    signs, before = np.array([1.0, -1.0, 1.0, -1.0]), np.inf
    for _ in range(EXCHANGES):
        a, b, c, error = np.linalg.solve(np.column_stack([points[:, None] ** [1, 3, 5], signs]), np.ones(4))
        points[1:3] = np.sqrt(np.sort(np.roots([5 * c, 3 * b, a]).real))
        if abs(error - before) < TOLERANCE:
            break
        before = error
    return (float(a), float(b), float(c)), float(error)


def schedule(iterations: int, low: float) -> tuple[tuple[Quintic, ...], float]:
    """One quintic an iteration for singular values in [low, 1], and the largest distance from 1 that remains."""
    high, error, found = 1.0, 1.0, []
    for _ in range(iterations):
        quintic, error = best_quintic(low, high)
        found.append(quintic)
        low, high = 1 - error, 1 + error
    return tuple(found), error


def usual(G: Tensor, quintics: tuple[Quintic, ...]) -> Tensor:
    """Muon's form: X ← aX + (bA + cA²)X with A = XXᵀ, from G/‖G‖."""
    X: Tensor = G / G.norm()
    for a, b, c in quintics:
        A = X @ X.T
        X = torch.addmm(X, torch.addmm(A, A, A, beta=b, alpha=c), X, beta=a)
    return X


def on_gram(G: Tensor, quintics: tuple[Quintic, ...]) -> Tensor:
    """Q ← PQ, R ← P²R with P = aI + bR + cR², from R = GGᵀ/‖GGᵀ‖ and Q = I; then QG. Only the ends see G itself."""
    N = G @ G.T
    square = N.norm()
    R, Q = N / square, torch.eye(len(N), dtype=G.dtype)
    for step, (a, b, c) in enumerate(quintics):
        P = torch.addmm(R, R, R, beta=b, alpha=c)
        P.diagonal().add_(a)
        Q = P @ Q if step else P
        if step < len(quintics) - 1:
            R = P @ (P @ R)
    X: Tensor = Q @ (G / square.sqrt())
    return X


def by_eigenvectors(G: Tensor) -> Tensor:
    """(GGᵀ)^-½ G."""
    values, vectors = torch.linalg.eigh(G @ G.T)
    X: Tensor = (vectors * values.clamp(min=torch.finfo(G.dtype).tiny).rsqrt()) @ (vectors.T @ G)
    return X


def by_root(root: Callable[[Tensor], Tensor]) -> Polar:
    """(GGᵀ)^-½ G with a root of the library's."""
    return lambda G: root(G @ G.T) @ G


def ideas() -> dict[str, Polar]:
    """By name; the first is what the others replace."""
    rows: dict[str, Polar] = {
        "Muon's 5": partial(usual, quintics=(MUON,) * 5),
        "Muon's 5 on the Gram matrix": partial(on_gram, quintics=(MUON,) * 5),
    }
    rows |= {f"minimax {n} on the Gram matrix": partial(on_gram, quintics=schedule(n, low)[0]) for n, low in LOW.items()}
    return rows | {
        "the library's by products": by_root(inverse_root),
        "the library's by Cholesky": by_root(inverse_root_of_symmetric),
    }


def cases() -> Iterator[Record]:
    """The coefficients, then each size. The first idea against itself shows the noise."""
    for count, low in LOW.items():
        quintics, worst = schedule(count, low)
        text = " ".join(f"({a:.4f}, {b:.4f}, {c:.4f})" for a, b, c in quintics)
        figures = {"max |1 − σ|": worst, "a, b, c": text}
        yield {"idea": f"coefficients: minimax {count}", "size": f"σ in [{low:g}, 1]", "ratio": None, "figures": figures}
    rows = ideas()
    first = next(iter(rows))
    for k, m in SIZES:
        G = torch.randn(k, m, generator=generator())
        left, right = orthogonal(k), orthogonal(m)[:, :k].T
        spread = ((left / torch.arange(1, k + 1)) @ right).float()
        exact = {"Gaussian": (G, by_eigenvectors(G.double())), "1/k": (spread, left @ right)}
        for name, polar in rows.items():
            ends = {kind: _quality(polar(g), factor) for kind, (g, factor) in exact.items()}
            figures = {f"{key}, {kind}": value for kind, values in ends.items() for key, value in values.items()}
            yield timed(name, f"{k}×{m}", first, (partial(rows[first], G), partial(polar, G)), figures)


def _quality(X: Tensor, exact: Tensor) -> dict[str, float | None]:
    """How orthogonal, and how far from the polar factor; None where it diverged."""
    X = X.double()
    if not X.isfinite().all():
        return {"σ min": None, "σ max": None, "error": None}
    squares = torch.linalg.eigvalsh(X @ X.T).clamp(min=0)
    error = float((X - exact).norm()) / math.sqrt(len(X))
    return {"σ min": float(squares[0].sqrt()), "σ max": float(squares[-1].sqrt()), "error": error}
