"""Ideas 1 and 2: how Φ̂⁻¹ is applied, and how it is kept between refreshes.

The error is that of the direction against float64, of a coloured gradient and a spectrum k^-2.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from benchmarks.kernels.spectra import SIZES, error, factor, name_of
from benchmarks.kernels.stopwatch import Case
from torch import Tensor

EXPONENT = 2


def applications() -> Iterator[Case]:
    """Φ̂⁻¹ = L⁻ᵀL⁻¹ in three forms, and the float32 error of each."""
    for o, i in SIZES:
        phi = factor(i, EXPONENT)
        gradient, exact = phi.gradient(o, power=0.5)
        L = torch.linalg.cholesky(phi.matrix())
        K = torch.cholesky_inverse(L).contiguous()
        root = torch.linalg.solve_triangular(L, torch.eye(i), upper=False)
        forms: dict[str, Callable[[], Tensor]] = {
            "one product with Φ̂⁻¹": partial(torch.matmul, gradient, K),
            "two triangular solves with L": partial(solved, gradient, L),
            "two products, L⁻ᵀ and L⁻¹": partial(twice, gradient, root),
        }
        first, *others = forms
        for name in others:
            figures = {"error": error(forms[name](), exact), "error of one product": error(forms[first](), exact)}
            yield Case(idea=name, size=name_of((o, i)), against=first, old=forms[first], new=forms[name], figures=figures)


def solved(gradient: Tensor, L: Tensor) -> Tensor:
    """∇ L⁻ᵀ L⁻¹."""
    half = torch.linalg.solve_triangular(L.T, gradient, upper=True, left=False)
    direction: Tensor = torch.linalg.solve_triangular(L, half, upper=False, left=False)
    return direction


def twice(gradient: Tensor, root: Tensor) -> Tensor:
    """∇ L⁻ᵀ L⁻¹, L⁻¹ at hand."""
    return gradient @ root.T @ root


def packings() -> Iterator[Case]:
    """Half of Φ̂⁻¹ kept, the other half made at each step; bytes are a share of the whole matrix."""
    for o, i in SIZES:
        K = factor(i, EXPONENT).inverse
        gradient, _ = factor(i, EXPONENT).gradient(o, power=0.5)
        whole = gradient @ K
        for name, (kept, apply) in forms_of(K).items():
            figures = {
                "bytes kept": sum(t.nbytes for t in kept) / K.nbytes,
                "difference": error(apply(gradient), whole.double()),
            }
            yield Case(
                idea=name,
                size=name_of((o, i)),
                against="one product with Φ̂⁻¹",
                old=partial(torch.matmul, gradient, K),
                new=partial(apply, gradient),
                figures=figures,
            )


Packing = tuple[tuple[Tensor, ...], Callable[[Tensor], Tensor]]
"""What is kept, and the product with it."""


def forms_of(K: Tensor) -> dict[str, Packing]:
    """By name."""
    return {
        "triangle, unpacked by an index": by_index(K),
        "two triangles in a rectangle, unpacked": rectangle(K),
        "4 × 4 tiles, multiplied as they are": tiles(K, 4),
        "8 × 8 tiles, multiplied as they are": tiles(K, 8),
    }


def by_index(K: Tensor) -> Packing:
    """The lower triangle as a vector; the index says where each entry of the whole matrix stands in it."""
    n = len(K)
    rows, columns = torch.tril_indices(n, n)
    index = torch.empty(n, n, dtype=torch.int64)
    index[rows, columns] = index[columns, rows] = torch.arange(len(rows))
    packed = K[rows, columns]
    return (packed, index), lambda gradient: gradient @ packed[index]


def rectangle(K: Tensor) -> Packing:
    """Rectangular full packed format: K = [[A, C], [Cᵀ, B]] as C and, in one h × (h + 1) matrix, half of A and half of B."""
    h = len(K) // 2
    corner = K[:h, h:].contiguous()
    halves = torch.zeros(h, h + 1)
    halves[:, :h] += K[:h, :h].tril()
    halves[:, 1:] += K[h:, h:].triu()

    def apply(gradient: Tensor) -> Tensor:
        lower, upper = halves[:, :h].tril(), halves[:, 1:].triu()
        whole = torch.empty(2 * h, 2 * h)
        torch.add(lower, lower.tril(-1).T, out=whole[:h, :h])
        torch.add(upper, upper.triu(1).T, out=whole[h:, h:])
        whole[:h, h:], whole[h:, :h] = corner, corner.T
        return gradient @ whole

    return (corner, halves), apply


def tiles(K: Tensor, count: int) -> Packing:
    """Panels of rows, each from the diagonal on; a panel serves its rows and, transposed, its columns."""
    width = -(-len(K) // count)
    starts = range(0, len(K), width)
    panels = tuple(K[s : s + width, s:].clone() for s in starts)

    def apply(gradient: Tensor) -> Tensor:
        direction = torch.zeros_like(gradient)
        for s, panel in zip(starts, panels, strict=True):
            here, after = slice(s, s + width), slice(s + width, None)
            direction[:, s:].addmm_(gradient[:, here], panel)
            direction[:, here].addmm_(gradient[:, after], panel[:, width:].T)
        return direction

    return panels, apply
