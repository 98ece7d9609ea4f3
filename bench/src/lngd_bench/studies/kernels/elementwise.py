"""Passes over large memory: many tensors in one call, second moments Σ w a aᵀ, and what a step does beside its products."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from lngd.linalg import second_moments
from lngd_bench.studies.kernels.factors import SIZES, error, factor, generator, name_of
from lngd_bench.studies.kernels.stopwatch import Record, Work, timed
from lngd_bench.studies.overhead.workloads import NETWORKS

TENSORS, ENTRIES = 40, (10_000, 1_000_000)
SAMPLES, POSITIONS, FEWER = 128, 16, 32
SHARE = 0.1
Pairs = dict[tuple[str, str], tuple[Work, Work]]
"""Old and new, by the names of the new and the old."""


def _each(work: Callable[..., object], *lists: list[Tensor]) -> Work:
    """One call a tensor."""

    def in_turn() -> None:
        for tensors in zip(*lists, strict=True):
            work(*tensors)

    return in_turn


def foreach() -> Iterator[Record]:
    """40 tensors in one call against one call a tensor, and in place against out of place. Nothing grows."""
    for entries in ENTRIES:
        xs = [torch.randn(entries, generator=generator()) for _ in range(TENSORS)]
        ys = [x.clone() for x in xs]
        in_place = _each(lambda x, y: x.lerp_(y, 0.5), xs, ys)
        pairs: Pairs = {
            ("_foreach_lerp_", "lerp_ a tensor"): (in_place, partial(torch._foreach_lerp_, xs, ys, 0.5)),
            ("lerp_ in place", "lerp out of place"): (_each(lambda x, y: x.lerp(y, 0.5), xs, ys), in_place),
            ("_foreach_norm, largest", "norm a tensor"): (
                _each(partial(torch.linalg.vector_norm, ord=torch.inf), xs),
                partial(torch._foreach_norm, xs, ord=torch.inf),
            ),
        }
        yield from _timed(pairs, f"{TENSORS} tensors of {entries:,}")


def _timed(pairs: Pairs, size: str) -> Iterator[Record]:
    for (idea, against), pair in pairs.items():
        yield timed(idea, size, against, pair)


def moments() -> Iterator[Record]:
    """Over 2,048 rows, 128 samples of 16 positions, coloured (k^-1), so that a sub-batch errs as for a real factor."""
    for i in sorted({i for _, i in SIZES}):
        phi = factor(i, 1)
        z = torch.randn(SAMPLES * POSITIONS, i, generator=generator())
        rows = (z * phi.values.sqrt().float()) @ phi.basis.T.float()
        weights, fewer = torch.rand(len(rows), generator=generator()), FEWER * POSITIONS
        full = partial(_whole, rows, weights)
        panels, part = (partial(second_moments, rows[:count], weights[:count]) for count in (len(rows), fewer))
        same = {"difference": error(panels(), full().double())}
        off = {"error, ‖Φ₃₂ − Φ₁₂₈‖/‖Φ₁₂₈‖": error(part() * SAMPLES / FEWER, full().double())}
        size = name_of((len(rows), i))
        yield timed("four panels", size, "one product", (full, panels), same)
        yield timed("32 of 128 samples", size, "four panels of all", (panels, part), off)


def _whole(rows: Tensor, weights: Tensor) -> Tensor:
    """Every entry computed, though half of them is known from the other half."""
    return (rows * weights.unsqueeze(-1)).T @ rows


def passes() -> Iterator[Record]:
    """On ResNet-18's 11 million parameters, tensor by tensor as a step has them; memory is what a pass costs.

    Results are equal where every number is finite; 0 · NaN is NaN, so a scale of 0 is not a `where`. Squares overflow float32
    from 1e19 on, sums of magnitudes near 1e38.
    """
    shapes = [p.shape for p in NETWORKS["resnet18"].build(64).parameters() if p.dim() > 1]
    source = generator()
    W, G, M = ([torch.randn(shape, generator=source).flatten(1) for shape in shapes] for _ in range(3))
    accept, share, nothing = torch.tensor(True), torch.tensor(SHARE), torch.zeros(())

    def apply(w: Tensor, g: Tensor) -> Tensor:
        return w.add_(torch.where(accept, -nothing * (0.1 * g), 0.0))

    def average(g: Tensor, m: Tensor) -> Tensor:
        return m.lerp(torch.where(accept, torch.cat([g], dim=-1), 0.0), share) / share

    def magnitudes(*tensors: Tensor) -> Tensor:
        return torch.stack(torch._foreach_norm(tensors, ord=torch.inf))

    largest, finite = _each(magnitudes, W, G), lambda: magnitudes(*G).isfinite().all()
    pairs: Pairs = {
        ("one addcmul_ applies the step", "lr · d, −α ·, where, add_"): (
            _each(apply, W, G),
            _each(lambda w, g: w.addcmul_(g, nothing, value=-1.0), W, G),
        ),
        ("lerp_ in place, no copy, no where, no division", "copy, where, lerp, division"): (
            _each(average, G, M),
            _each(lambda g, m: m.lerp_(g, share), G, M),
        ),
        ("aminmax, finite or not", "largest of ∇, finite or not"): (
            finite,
            lambda: torch.stack([torch.stack(g.aminmax()).isfinite().all() for g in G]).all(),
        ),
        ("sums of magnitudes, finite or not", "largest of ∇, finite or not"): (
            finite,
            lambda: torch.stack(torch._foreach_norm(G, ord=1)).isfinite().all(),
        ),
        ("sums of squares, finite or not", "largest of ∇, finite or not"): (
            finite,
            lambda: torch.stack(torch._foreach_norm(G)).isfinite().all(),
        ),
        ("aminmax of W and of the update", "largest of W, of the update"): (
            largest,
            _each(lambda w, g: (w.aminmax(), g.aminmax()), W, G),
        ),
        ("norms of W and of the update", "largest of W, of the update"): (
            largest,
            _each(lambda w, g: (w.norm(), g.norm()), W, G),
        ),
    }
    yield from _timed(pairs, f"{sum(w.numel() for w in W):,}")
