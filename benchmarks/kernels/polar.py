"""Idea 7: the polar factor U Vᵀ of a gradient G = U Σ Vᵀ by products only, in the usual form and on the Gram matrix.

Figures: the smallest and largest singular value of what comes out (1 is exact), and ‖X − U Vᵀ‖ / √k, each for a Gaussian G and
for one with σₖ = 1/k.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from benchmarks.kernels.minimax import MUON, Quintic, schedule
from benchmarks.kernels.spectra import generator, name_of, orthogonal
from benchmarks.kernels.stopwatch import Case, Row
from torch import Tensor

SIZES = ((384, 384), (384, 1536), (512, 4608), (1024, 1024))
LOW = {3: 1e-2, 4: 3e-3, 5: 1e-3}
"""The smallest singular value that so many iterations are made for, the largest being 1."""
MUON_5 = (MUON,) * 5
Polar = Callable[[Tensor], Tensor]


def usual(G: Tensor, quintics: tuple[Quintic, ...]) -> Tensor:
    """Muon's form: X ← aX + (bA + cA²)X with A = XXᵀ, from G/‖G‖."""
    X: Tensor = G / G.norm()
    for quintic in quintics:
        X = iterated(X, X @ X.T, quintic)
    return X


def tightly_scaled(G: Tensor, quintics: tuple[Quintic, ...]) -> Tensor:
    """The same from G/√‖GGᵀ‖, which lies nearer to σ_max than ‖G‖ does; GGᵀ then serves the first iteration."""
    N = G @ G.T
    square = N.norm()
    X, first, *rest = G / square.sqrt(), *quintics
    X = iterated(X, N / square, first)
    for quintic in rest:
        X = iterated(X, X @ X.T, quintic)
    return X


def iterated(X: Tensor, A: Tensor, quintic: Quintic) -> Tensor:
    """p(X), A being XXᵀ."""
    a, b, c = quintic
    p: Tensor = torch.addmm(X, torch.addmm(A, A, A, beta=b, alpha=c), X, beta=a)
    return p


def on_gram(G: Tensor, quintics: tuple[Quintic, ...]) -> Tensor:
    """Q ← PQ, R ← P²R with P = aI + bR + cR², from R = GGᵀ/‖GGᵀ‖ and Q = I; then QG. Only the ends see G itself."""
    N = G @ G.T
    square = N.norm()
    R, Q = N / square, torch.eye(len(N), dtype=G.dtype)
    for step, quintic in enumerate(quintics):
        P = polynomial(R, quintic)
        Q = P @ Q if step else P
        if step < len(quintics) - 1:
            R = P @ (P @ R)
    X: Tensor = Q @ (G / square.sqrt())
    return X


def polynomial(R: Tensor, quintic: Quintic) -> Tensor:
    """aI + bR + cR²."""
    a, b, c = quintic
    P: Tensor = torch.addmm(R, R, R, beta=b, alpha=c)
    P.diagonal().add_(a)
    return P


def by_eigenvectors(G: Tensor) -> Tensor:
    """(GGᵀ)^-½ G."""
    values, vectors = torch.linalg.eigh(G @ G.T)
    X: Tensor = (vectors * values.clamp(min=torch.finfo(G.dtype).tiny).rsqrt()) @ (vectors.T @ G)
    return X


def in_bfloat16(polar: Polar, G: Tensor) -> Tensor:
    return polar(G.bfloat16()).float()


def ideas() -> dict[str, Polar]:
    """By name; the first is what the others replace."""
    best = {count: schedule(count, low)[0] for count, low in LOW.items()}
    rows: dict[str, Polar] = {"Muon's 5": partial(usual, quintics=MUON_5)}
    rows["Muon's 5 in bfloat16"] = partial(in_bfloat16, rows["Muon's 5"])
    rows |= {f"Muon's {n}, tightly scaled": partial(tightly_scaled, quintics=(MUON,) * n) for n in (4, 5)}
    rows["Muon's 5 on the Gram matrix"] = partial(on_gram, quintics=MUON_5)
    rows["Muon's 5 on the Gram matrix in bfloat16"] = partial(in_bfloat16, rows["Muon's 5 on the Gram matrix"])
    rows |= {f"minimax {n}, tightly scaled": partial(tightly_scaled, quintics=q) for n, q in best.items()}
    rows |= {f"minimax {n} on the Gram matrix": partial(on_gram, quintics=q) for n, q in best.items()}
    return rows | {"eigenvectors of GGᵀ": by_eigenvectors}


def cases() -> Iterator[Case | Row]:
    """The coefficients, then each size. The first idea against itself shows the noise."""
    for count, low in LOW.items():
        quintics, worst = schedule(count, low)
        text = " ".join(f"({a:.4f}, {b:.4f}, {c:.4f})" for a, b, c in quintics)
        yield Row(
            idea=f"coefficients: minimax {count}", size=f"σ in [{low:g}, 1]", figures={"max |1 − σ|": worst, "a, b, c": text}
        )
    rows = ideas()
    first = next(iter(rows))
    for k, m in SIZES:
        problems = {"Gaussian": gaussian(k, m), "1/k": power_law(k, m)}
        G = problems["Gaussian"][0]
        for name, polar in rows.items():
            figures = {
                f"{key}, {kind}": v for kind, (g, exact) in problems.items() for key, v in quality(polar(g), exact).items()
            }
            old, new = partial(rows[first], G), partial(polar, G)
            yield Case(idea=name, size=name_of((k, m)), against=first, old=old, new=new, figures=figures)


def gaussian(k: int, m: int) -> tuple[Tensor, Tensor]:
    """G in float32 and its polar factor in float64."""
    G = torch.randn(k, m, generator=generator())
    return G, by_eigenvectors(G.double())


def power_law(k: int, m: int) -> tuple[Tensor, Tensor]:
    """The same with σₖ = 1/k."""
    left, right = orthogonal(k), orthogonal(m)[:, :k].T
    return ((left / torch.arange(1, k + 1)) @ right).float(), left @ right


def quality(X: Tensor, exact: Tensor) -> dict[str, float]:
    """How orthogonal, and how far from the polar factor."""
    X = X.double()
    if not X.isfinite().all():
        return {"σ min": math.nan, "σ max": math.nan, "error": math.nan}
    squares = torch.linalg.eigvalsh(X @ X.T).clamp(min=0)
    return {
        "σ min": float(squares[0].sqrt()),
        "σ max": float(squares[-1].sqrt()),
        "error": float((X - exact).norm()) / math.sqrt(len(X)),
    }
