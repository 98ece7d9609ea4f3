"""How Φ̂⁻¹ is applied and kept between refreshes: as factors, packed, in 16 bits, for many layers at once.

Errors are those of the direction against float64. Rounding errs in proportion to the largest entries of Φ̂⁻¹, which belong to the
smallest eigenvalues of Φ; the gradient lies along the largest, where Φ̂⁻¹ is small. `eigendirection` is the largest
‖(K̃ − K) v‖ / ‖K v‖ over eigenvectors v. float16 has a narrow range, so K is scaled by the damping, to eigenvalues up to one.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from lngd_bench.studies.kernels.factors import EXPONENTS, SIZES, Factor, error, factor, generator, name_of
from lngd_bench.studies.kernels.stopwatch import Record, Work, found, timed

HALF_PRODUCT_LIMIT = 512
"""Inputs above which the product in float16 is left out: without hardware for it, it takes seconds."""
LAYERS, SIDES = (6, 24), (128, 384)
Product = Callable[[Tensor], Tensor]


def applications() -> Iterator[Record]:
    """Φ̂⁻¹ = L⁻ᵀL⁻¹ as a product, as two triangular solves and as two products."""
    for o, i in SIZES:
        phi = factor(i, EXPONENTS[-1])
        gradient, exact = phi.gradient(o, power=0.5)
        L = torch.linalg.cholesky(phi.matrix())
        K = torch.cholesky_inverse(L).contiguous()
        root = torch.linalg.solve_triangular(L, torch.eye(i), upper=False)
        once = partial(torch.matmul, gradient, K)
        ideas: dict[str, Callable[[], Tensor]] = {
            "two triangular solves with L": partial(_solved, gradient, L),
            "two products, L⁻ᵀ and L⁻¹": partial(_twice, gradient, root),
        }
        for idea, new in ideas.items():
            figures = {"error": error(new(), exact), "error of one product": error(once(), exact)}
            yield timed(idea, name_of((o, i)), "one product with Φ̂⁻¹", (once, new), figures)


def _solved(gradient: Tensor, L: Tensor) -> Tensor:
    half = torch.linalg.solve_triangular(L.T, gradient, upper=True, left=False)
    return torch.linalg.solve_triangular(L, half, upper=False, left=False)


def _twice(gradient: Tensor, root: Tensor) -> Tensor:
    return gradient @ root.T @ root


def packings() -> Iterator[Record]:
    """Half of Φ̂⁻¹ kept, the other half made at each step; bytes are a share of the whole matrix."""
    for o, i in SIZES:
        K = factor(i, EXPONENTS[-1]).inverse
        gradient, _ = factor(i, EXPONENTS[-1]).gradient(o, power=0.5)
        once = partial(torch.matmul, gradient, K)
        ideas = {"two triangles in a rectangle, unpacked": _rectangle(K), "4 × 4 tiles, multiplied as they are": _tiles(K, 4)}
        for idea, (kept, apply) in ideas.items():
            share = sum(tensor.nbytes for tensor in kept) / K.nbytes
            figures = {"bytes kept": share, "difference": error(apply(gradient), once().double())}
            yield timed(idea, name_of((o, i)), "one product with Φ̂⁻¹", (once, partial(apply, gradient)), figures)


def _rectangle(K: Tensor) -> tuple[tuple[Tensor, ...], Product]:
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


def _tiles(K: Tensor, count: int) -> tuple[tuple[Tensor, ...], Product]:
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


def precisions() -> Iterator[Record]:
    """Φ̂⁻¹ and the product with it in 16 bits: errors for each spectrum, then what a step saves."""
    for o, i in SIZES:
        for exponent in EXPONENTS:
            yield from _rounding(o, factor(i, exponent))
        phi = factor(i, EXPONENTS[-1])
        gradient, _ = phi.gradient(o, power=0.5)
        K = phi.inverse * phi.damping
        for idea, product in _products(K).items():
            if idea != "float16 kept, float16 product" or i <= HALF_PRODUCT_LIMIT:
                pair = partial(torch.matmul, gradient, K), partial(product, gradient)
                yield timed(idea, name_of((o, i)), "float32", pair, {"bytes kept": 0.5})


def _products(K: Tensor) -> dict[str, Product]:
    bf16, half = K.bfloat16(), K.half()
    return {
        "bfloat16 kept, float32 product": lambda gradient: gradient @ bf16.float(),
        "float16 kept, float32 product": lambda gradient: gradient @ half.float(),
        "bfloat16 kept, bfloat16 product": lambda gradient: (gradient.bfloat16() @ bf16).float(),
        "float16 kept, float16 product": lambda gradient: (gradient.half() @ half).float(),
    }


def _rounding(o: int, phi: Factor) -> Iterator[Record]:
    """Of the direction for a coloured (∇ = Z Φ^½) and a white gradient, and of the kept matrix itself."""
    K = phi.inverse * phi.damping
    problems = {name: phi.gradient(o, power=power) for name, power in (("coloured", 0.5), ("white", 0.0))}
    for dtype in (torch.bfloat16, torch.float16):
        stored = K.to(dtype).float()
        figures = {f"error, {name}": error(g @ stored / phi.damping, exact) for name, (g, exact) in problems.items()}
        wrong = (stored.double() - K.double()).float() @ phi.basis.float()
        length = phi.damping / (phi.values + phi.damping)
        figures["eigendirection"] = float((wrong.norm(dim=0) / length).max())
        figures["positive definite"] = not bool(torch.linalg.cholesky_ex(stored)[1])
        idea = f"error: {str(dtype).removeprefix('torch.')} kept, float32 product"
        yield found(idea, f"{name_of((o, phi.n))}, k^-{phi.exponent}", figures)


def stacked() -> Iterator[Record]:
    """One batched call for layers of n × n against one call a layer; the factors of a batch stand stacked already."""
    for n in SIDES:
        for count in LAYERS:
            for idea, pair in _stacked(factor(n, 2), count).items():
                yield timed(idea, f"{count} layers of {name_of((n, n))}", "one by one", pair)


def _stacked(phi: Factor, count: int) -> dict[str, tuple[Work, Work]]:
    gradients = [torch.randn(phi.n, phi.n, generator=generator()) for _ in range(count)]
    separate = [phi.inverse.clone() for _ in range(count)]
    singles = [phi.matrix() for _ in range(count)]
    lower = [torch.linalg.cholesky(matrix) for matrix in singles]
    batch, inverses, matrices, factors = map(torch.stack, (gradients, separate, singles, lower))
    one_by_one: Work = lambda: [g @ K for g, K in zip(gradients, separate, strict=True)]  # noqa: E731
    return {
        "bmm": (one_by_one, lambda: batch @ inverses),
        "stacking and bmm": (one_by_one, lambda: torch.stack(gradients) @ inverses),
        "batched Cholesky": (
            lambda: [torch.linalg.cholesky_ex(S) for S in singles],
            lambda: torch.linalg.cholesky_ex(matrices),
        ),
        "batched inverse of a Cholesky factor": (
            lambda: [torch.cholesky_inverse(L) for L in lower],
            lambda: torch.cholesky_inverse(factors),
        ),
    }
