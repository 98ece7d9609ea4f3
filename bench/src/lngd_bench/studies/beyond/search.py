"""How rates are found, alike for all: eight trials on a seed of their own, and further ones while the best is at an edge.

Then the runs that are reported.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from lngd_bench.ledger import Line
from lngd_bench.studies.beyond.rivals import RIVALS, Rates
from lngd_bench.studies.beyond.tasks import TASKS
from lngd_bench.studies.beyond.training import Runs, Spec

SEED = 1000
"""Of the trials."""
ONE_RATE, TWO_RATES = range(-3, 5), range(-2, 3)
"""Powers of two, of the untuned rate."""
RATIOS = (1 / 3, 3.0, 10.0)
"""Of the untuned ratio, at the best rate."""
FURTHER = 4
"""Trials at most beyond the edge at which the best one stands: in the rate by factors of two, in the ratio of three."""


def searched(untuned: Rates, value: Callable[[Rates], float]) -> tuple[Rates | None, bool]:
    """The best trial, None if none ends, and whether it still stands at an edge."""
    powers = ONE_RATE if untuned.ratio is None else TWO_RATES
    tried = [Rates(untuned.lr * 2.0**power, untuned.ratio) for power in powers]
    if untuned.ratio is not None:
        best = min(tried, key=value)
        tried += [Rates(best.lr, untuned.ratio * factor) for factor in RATIOS]
    for _ in range(FURTHER):
        best = min(tried, key=value)
        if value(best) == math.inf or (beyond := outwards(best, tried)) is None:
            break
        tried.append(beyond)
    best = min(tried, key=value)
    return (best, outwards(best, tried) is not None) if value(best) < math.inf else (None, False)


def outwards(best: Rates, tried: Sequence[Rates]) -> Rates | None:
    """The next trial if the best of them is at an edge of the rates or, at its own rate, of the ratios."""
    if (factor := _step_out(best.lr, [rates.lr for rates in tried], 2.0)) is not None:
        return replace(best, lr=best.lr * factor)
    ratios = [rates.ratio for rates in tried if rates.lr == best.lr and rates.ratio is not None]
    if best.ratio is None or len(ratios) < 2 or (factor := _step_out(best.ratio, ratios, 3.0)) is None:
        return None
    return replace(best, ratio=best.ratio * factor)


def _step_out(own: float, others: Sequence[float], factor: float) -> float | None:
    """What leads on from the highest or the lowest; None inside."""
    return factor if own == max(others) else 1 / factor if own == min(others) else None


@dataclass(frozen=True)
class Outcome:
    """Of an optimizer on a task: the best rates, if any trial ended, and the runs of the report."""

    rates: Rates | None
    edge: bool
    tuned: Sequence[Line]
    untuned: Sequence[Line]

    @property
    def refusal(self) -> str | None:
        return next((line["refused"] for line in (*self.untuned, *self.tuned) if line["refused"]), None)


def outcome(runs: Runs, task: str, optimizer: str, *, seeds: Sequence[int], steps: int | None) -> Outcome:
    """Makes what the archive lacks."""
    untuned = RIVALS[optimizer].untuned

    def run(rates: Rates, seed: int) -> Line:
        return runs.of(Spec(task, optimizer, rates, seed, steps or TASKS[task].steps))

    def value(rates: Rates) -> float:
        found = run(rates, SEED)["value"]
        return math.inf if found is None else found

    best, edge = searched(untuned, value)
    return Outcome(
        best,
        edge,
        [run(best or untuned, seed) for seed in seeds],
        [run(untuned, seed) for seed in seeds],
    )


def mean_of(lines: Sequence[Line], name: str) -> float | None:
    """None if a run has none."""
    values = [line[name] for line in lines]
    return None if None in values else mean(values)
