"""How a pair of functions is timed: CPU time of one thread, the two taking turns, medians and quartiles of their ratios.

Times are milliseconds a call. A ratio is new / old of neighbours in time, so below 1 the idea is faster.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

Work = Callable[[], object]
Record = dict[str, Any]

QUANTUM = 2e-3
"""Seconds that a reading lasts at least: short work is repeated within it."""
SECONDS, FEWEST, MOST = 0.4, 3, 15
"""Rounds: FEWEST at least, then until SECONDS end, MOST at most."""
LEVEL = 0.03
"""A median within this of 1, or quartiles on both sides of 1, is no difference."""


def found(idea: str, size: str, figures: Mapping[str, Any]) -> Record:
    """A finding that has no times."""
    return {"idea": idea, "size": size, "ratio": None, "figures": dict(figures)}


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
    return {**found(idea, size, figures or {}), "against": against, **measured, "verdict": verdict}


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
