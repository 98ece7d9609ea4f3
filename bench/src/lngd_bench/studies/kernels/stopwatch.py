"""How a pair of functions is timed: CPU time of one thread, the two taking turns, medians and quartiles of their ratios.

Times are milliseconds a call. A ratio is new / old of neighbours in time, so below 1 the idea is faster.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Work = Callable[[], object]
Figures = Mapping[str, Any]

QUANTUM = 2e-3
"""Seconds that a reading lasts at least: short work is repeated within it."""
SECONDS, FEWEST, MOST = 0.4, 3, 15
"""Rounds: FEWEST at least, then until SECONDS end, MOST at most."""
LEVEL = 0.03
"""A median within this of 1, or quartiles on both sides of 1, is no difference."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measured pair, or, without times, a finding that has figures only."""

    idea: str
    size: str
    against: str = ""
    old_ms: float | None = None
    new_ms: float | None = None
    ratio: float | None = None
    quartiles: tuple[float, float] | None = None
    rounds: int = 0
    verdict: str = ""
    figures: Figures = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Case:
    """An idea, and what it would replace."""

    idea: str
    size: str
    against: str
    old: Work
    new: Work
    figures: Figures = field(default_factory=dict)

    def measure(self) -> Row:
        """Both in turn, each first in every second round."""
        repeats = {work: _repeats(work) for work in (self.old, self.new)}
        times: list[tuple[float, float]] = []
        start = time.process_time()
        while len(times) < FEWEST or (len(times) < MOST and time.process_time() - start < SECONDS):
            order = (self.old, self.new) if len(times) % 2 else (self.new, self.old)
            taken = {work: _milliseconds(work, repeats[work]) for work in order}
            times.append((taken[self.old], taken[self.new]))
        low, ratio, high = statistics.quantiles([new / old for old, new in times], n=4)
        return Row(
            idea=self.idea,
            size=self.size,
            against=self.against,
            old_ms=statistics.median(old for old, _ in times),
            new_ms=statistics.median(new for _, new in times),
            ratio=ratio,
            quartiles=(low, high),
            rounds=len(times),
            verdict=_verdict(low, ratio, high),
            figures=self.figures,
        )


def _verdict(low: float, ratio: float, high: float) -> str:
    """In words, from the quartiles and the median of the ratios."""
    if low <= 1 <= high or abs(ratio - 1) < LEVEL:
        return "level"
    return f"{1 / ratio:.2f}× faster" if ratio < 1 else f"{ratio:.2f}× slower"


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
