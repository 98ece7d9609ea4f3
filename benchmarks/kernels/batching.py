"""Ideas 4 and 5: many tensors in one call. Layers of equal shape stacked, and torch's `_foreach` functions."""

from collections.abc import Callable, Iterator

import torch
from benchmarks.kernels.spectra import factor, generator, name_of
from benchmarks.kernels.stopwatch import Case
from torch import Tensor

COUNTS, SIDES = (6, 24), (128, 384)
TENSORS, ENTRIES = 40, (10_000, 1_000_000)
Pair = tuple[Callable[[], object], Callable[[], object]]


def stacked() -> Iterator[Case]:
    """One batched call for `count` layers n × n against one call a layer; the factors of a batch stand stacked already."""
    for n in SIDES:
        phi, inverse = factor(n, 2).matrix(), factor(n, 2).inverse
        for count in COUNTS:
            for name, (old, new) in stacked_pairs(phi, inverse, count).items():
                yield Case(idea=name, size=f"{count} layers of {name_of((n, n))}", against="one by one", old=old, new=new)


def stacked_pairs(phi: Tensor, inverse: Tensor, count: int) -> dict[str, Pair]:
    """By name."""
    gradients = [torch.randn(phi.shape, generator=generator()) for _ in range(count)]
    batch, inverses, matrices = (
        torch.stack(gradients),
        inverse.expand(count, -1, -1).contiguous(),
        phi.expand(count, -1, -1).contiguous(),
    )
    factors = torch.linalg.cholesky(matrices)
    separate, lower = list(inverses.unbind()), [L.contiguous() for L in factors.unbind()]
    singles = [phi.clone() for _ in range(count)]

    def one_by_one() -> object:
        return [g @ K for g, K in zip(gradients, separate, strict=True)]

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


def foreach() -> Iterator[Case]:
    """40 tensors in one call against one call a tensor, and in place against out of place."""
    for entries in ENTRIES:
        xs = [torch.randn(entries, generator=generator()) for _ in range(TENSORS)]
        ys = [x.clone() for x in xs]
        for (name, against), (old, new) in foreach_pairs(xs, ys).items():
            yield Case(idea=name, size=f"{TENSORS} tensors of {entries:,}", against=against, old=old, new=new)


def foreach_pairs(xs: list[Tensor], ys: list[Tensor]) -> dict[tuple[str, str], Pair]:
    """By the names of both. Nothing grows however often it is called."""
    half, zero = torch.tensor(0.5), 0.0

    def each(work: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], object]:
        def one_by_one() -> None:
            for x, y in zip(xs, ys, strict=True):
                work(x, y)

        return one_by_one

    in_place, out = each(lambda x, y: x.lerp_(y, 0.5)), each(lambda x, y: x.lerp(y, 0.5))
    return {
        ("_foreach_lerp_", "lerp_ a tensor"): (in_place, lambda: torch._foreach_lerp_(xs, ys, 0.5)),
        ("_foreach_add_", "add_ a tensor"): (
            each(lambda x, y: x.add_(y, alpha=zero)),
            lambda: torch._foreach_add_(xs, ys, alpha=zero),
        ),
        ("_foreach_mul_", "mul_ a tensor"): (each(lambda x, _: x.mul_(1.0)), lambda: torch._foreach_mul_(xs, 1.0)),
        ("lerp_ in place", "lerp out of place"): (out, in_place),
        ("lerp, share on the host", "lerp, share a tensor"): (each(lambda x, y: x.lerp(y, half)), out),
        ("_foreach_norm, largest", "norm a tensor"): (
            each(lambda x, _: torch.linalg.vector_norm(x, ord=torch.inf)),
            lambda: torch._foreach_norm(xs, ord=torch.inf),
        ),
    }
