"""How rates are found, alike for all: eight trials on a seed of their own. Then the runs that are reported."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

from lngd_bench.studies.beyond.rivals import RIVALS, Rates
from lngd_bench.studies.beyond.tasks import TASKS
from lngd_bench.studies.beyond.training import Ledger, Line, Spec

SEED = 1000
"""Of the trials."""
ONE_RATE, TWO_RATES = range(-3, 5), range(-2, 3)
"""Powers of two, of the untuned rate."""
RATIOS = (1 / 3, 3.0, 10.0)
"""Of the untuned ratio, at the best rate."""


def searched(untuned: Rates, value: Callable[[Rates], float]) -> Rates | None:
    """The best of eight trials; None if none ends."""
    powers = ONE_RATE if untuned.ratio is None else TWO_RATES
    tried = [Rates(untuned.lr * 2.0**power, untuned.ratio) for power in powers]
    if untuned.ratio is not None:
        best = min(tried, key=value)
        tried += [Rates(best.lr, untuned.ratio * factor) for factor in RATIOS]
    best = min(tried, key=value)
    return best if value(best) < math.inf else None


def at_edge(untuned: Rates, best: Rates) -> bool:
    """Whether a further trial might have been better."""
    powers = ONE_RATE if untuned.ratio is None else TWO_RATES
    if round(math.log2(best.lr / untuned.lr)) in (powers[0], powers[-1]):
        return True
    return best.ratio is not None and untuned.ratio is not None and not 0.5 < best.ratio / untuned.ratio < 5


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


def outcome(ledger: Ledger, task: str, optimizer: str, *, seeds: Sequence[int], steps: int | None) -> Outcome:
    """Makes what the archive lacks."""
    untuned = RIVALS[optimizer].untuned

    def run(rates: Rates, seed: int) -> Line:
        return ledger.run(Spec(task, optimizer, rates, seed, steps or TASKS[task].steps))

    def value(rates: Rates) -> float:
        found = run(rates, SEED)["value"]
        return math.inf if found is None else found

    best = searched(untuned, value)
    return Outcome(
        best,
        best is not None and at_edge(untuned, best),
        [run(best or untuned, seed) for seed in seeds],
        [run(untuned, seed) for seed in seeds],
    )


def mean_of(lines: Sequence[Line], name: str) -> float | None:
    """None if a run has none."""
    values = [line[name] for line in lines]
    return None if None in values else mean(values)
