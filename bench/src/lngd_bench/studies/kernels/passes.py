"""How two ways are timed, and passes over large memory: second moments Σ w a aᵀ, and what a step does beside its products.

CPU time of one thread, the two taking turns, medians and quartiles of their ratios. Times are milliseconds a call. A ratio is
new / old of neighbours in time, so below 1 the idea is faster.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lngd.linalg import second_moments
from lngd_bench.studies.overhead.workloads import NETWORKS

Work = Callable[[], object]
Record = dict[str, Any]

QUANTUM = 2e-3
"""Seconds that a reading lasts at least: short work is repeated within it."""
SECONDS, FEWEST, MOST = 0.4, 3, 15
"""Rounds: FEWEST at least, then until SECONDS end, MOST at most."""
LEVEL = 0.03
"""A median within this of 1, or quartiles on both sides of 1, is no difference."""
INPUTS = (256, 384, 1024, 1536, 4608)
"""Of real layers: an MLP's, a GPT's attention and MLP, a wide MLP's, the last convolutions of a ResNet-18."""
SAMPLES, POSITIONS, FEWER = 128, 16, 32
SHARE = 0.1


def timed(idea: str, size: str, against: str, pair: tuple[Work, Work], figures: Mapping[str, Any] | None = None) -> Record:
    """The old and the new way in turn, each first in every second round."""
    old, new = pair
    repeats = {work: _repeats(work) for work in pair}
    times: list[tuple[float, float]] = []
    start = time.process_time()
    while len(times) < FEWEST or (len(times) < MOST and time.process_time() - start < SECONDS):
        order = (old, new) if len(times) % 2 else (new, old)
        taken = {work: _milliseconds(work, repeats[work]) for work in order}
        times.append((taken[old], taken[new]))
    low, ratio, high = statistics.quantiles([after / before for before, after in times], n=4)
    before_ms, after_ms = (statistics.median(column) for column in zip(*times, strict=True))
    measured = {"old_ms": before_ms, "new_ms": after_ms, "ratio": ratio, "quartiles": (low, high), "rounds": len(times)}
    verdict = f"{1 / ratio:.2f}× faster" if ratio < 1 else f"{ratio:.2f}× slower"
    if low <= 1 <= high or abs(ratio - 1) < LEVEL:
        verdict = "level"
    return {"idea": idea, "size": size, "figures": dict(figures or {}), "against": against, **measured, "verdict": verdict}


def _milliseconds(work: Work, repeats: int) -> float:
    """CPU time of one call, a mean over the repeats."""
    start = time.process_time()
    for _ in range(repeats):
        work()
    return 1e3 * (time.process_time() - start) / repeats


def _repeats(work: Work) -> int:
    """How many calls a reading takes; the first call warms up and counts only where it is long."""
    if _milliseconds(work, 1) > 10e3 * QUANTUM:
        return 1
    return max(1, round(QUANTUM / max(1e-3 * _milliseconds(work, 1), 1e-6)))


def generator() -> torch.Generator:
    """Every problem is the same in every run."""
    return torch.Generator().manual_seed(0)


def orthogonal(n: int) -> Tensor:
    """`[n, n]` in float64: the basis of the discrete cosine transform, rows with random signs, columns in random order."""
    k, source = torch.arange(n, dtype=torch.float64), generator()
    basis = torch.cos((k[:, None] + 0.5) * k[None, :] * (math.pi / n)) * math.sqrt(2 / n)
    basis[:, 0] *= math.sqrt(0.5)
    signs = torch.randint(2, (n, 1), generator=source) * 2 - 1
    return (basis * signs)[:, torch.randperm(n, generator=source)]


def moments() -> Iterator[Record]:
    """Over 2,048 rows, 128 samples of 16 positions, with the spectrum 1/k, so that a sub-batch errs as for a real factor."""
    for i in INPUTS:
        z = torch.randn(SAMPLES * POSITIONS, i, generator=generator())
        values = torch.arange(1, i + 1, dtype=torch.float64) ** -1
        rows = (z * values.sqrt().float()) @ orthogonal(i).T.float()
        weights, fewer = torch.rand(len(rows), generator=generator()), FEWER * POSITIONS
        full = partial(_whole, rows, weights)
        panels, part = (partial(second_moments, rows[:count], weights[:count]) for count in (len(rows), fewer))
        exact = full().double()
        same = {"difference": float((panels() - exact).norm() / exact.norm())}
        off = {"error, ‖Φ₃₂ − Φ₁₂₈‖/‖Φ₁₂₈‖": float((part() * SAMPLES / FEWER - exact).norm() / exact.norm())}
        yield timed("four panels", f"{len(rows)}×{i}", "one product", (full, panels), same)
        yield timed("32 of 128 samples", f"{len(rows)}×{i}", "four panels of all", (panels, part), off)


def _whole(rows: Tensor, weights: Tensor) -> Tensor:
    """Every entry computed, though half of them is known from the other half."""
    return (rows * weights.unsqueeze(-1)).T @ rows


def _each(work: Callable[..., object], *lists: list[Tensor]) -> Work:
    """One call a tensor."""

    def in_turn() -> None:
        for tensors in zip(*lists, strict=True):
            work(*tensors)

    return in_turn


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

    def finite(order: float) -> Work:
        return lambda: torch.stack(torch._foreach_norm(G, ord=order)).isfinite().all()

    largest, exact = _each(magnitudes, W, G), finite(torch.inf)
    pairs: dict[tuple[str, str], tuple[Work, Work]] = {
        ("one addcmul_ applies the step", "lr · d, −α ·, where, add_"): (
            _each(apply, W, G),
            _each(lambda w, g: w.addcmul_(g, nothing, value=-1.0), W, G),
        ),
        ("lerp_ in place, no copy, no where, no division", "copy, where, lerp, division"): (
            _each(average, G, M),
            _each(lambda g, m: m.lerp_(g, share), G, M),
        ),
        ("aminmax, finite or not", "largest of ∇, finite or not"): (
            exact,
            lambda: torch.stack([torch.stack(g.aminmax()).isfinite().all() for g in G]).all(),
        ),
        ("sums of magnitudes, finite or not", "largest of ∇, finite or not"): (exact, finite(1)),
        ("sums of squares, finite or not", "largest of ∇, finite or not"): (exact, finite(2)),
        ("aminmax of W and of the update", "largest of W, of the update"): (
            largest,
            _each(lambda w, g: (w.aminmax(), g.aminmax()), W, G),
        ),
        ("norms of W and of the update", "largest of W, of the update"): (
            largest,
            _each(lambda w, g: (w.norm(), g.norm()), W, G),
        ),
    }
    for (idea, against), pair in pairs.items():
        yield timed(idea, f"{sum(w.numel() for w in W):,}", against, pair)
