"""The same number of trials for every optimizer: a grid around the customary rate, then as many more for all.

Rates are judged on a part of the training samples and on seeds that no report uses.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lngd.bench.metric import METRICS
from lngd.bench.optimizers import OPTIMIZERS
from lngd.bench.race import Place, records_of
from lngd.bench.records import Record
from lngd.bench.summary import best_metric
from lngd.bench.task import Task
from lngd.bench.train import RunSpec

FIRST_SEED = 1000  # reports use 0, 1, 2, …
FACTOR = 2.0  # between neighbouring rates
EXTENSION = 2  # further rates for each optimizer in a round
ROUNDS = 4  # of extension at most; a rate still at the edge then is marked

Runner = Callable[[Sequence[RunSpec]], None]


@dataclass(frozen=True)
class Judge:
    """What makes one rate better than another: a figure of a run; None where a run has none."""

    figure: Callable[[Record], float | None]
    higher_is_better: bool


@dataclass(frozen=True)
class Trial:
    """One rate: the mean of the judge's figure over the tuning seeds, None if a seed diverged."""

    rate: float
    metric: float | None


@dataclass(frozen=True)
class Grid:
    """An optimizer's trials, ordered by rate."""

    optimizer: str
    trials: tuple[Trial, ...]
    higher_is_better: bool

    @property
    def best(self) -> Trial:
        return max(self.trials, key=self._merit)

    @property
    def edge(self) -> int:
        """−1 or +1 where the best is the lowest or the highest rate, 0 inside."""
        position = self.trials.index(self.best)
        return (position == len(self.trials) - 1) - (position == 0)

    def further(self) -> list[float]:
        """The next rates: beyond the edge if the best is there, otherwise between it and its neighbours."""
        rates = [trial.rate for trial in self.trials]
        position = rates.index(self.best.rate)
        if self.edge:
            return [rounded(self.best.rate * FACTOR ** (self.edge * step)) for step in range(1, EXTENSION + 1)]
        pairs = ((rates[position], rates[position - 1]), (rates[position], rates[position + 1]))
        return [rounded(math.sqrt(low * high)) for low, high in pairs]

    def _merit(self, trial: Trial) -> float:
        if trial.metric is None:
            return -math.inf
        return trial.metric if self.higher_is_better else -trial.metric


def rounded(rate: float) -> float:
    """Two significant digits: a rate is written down by people."""
    return float(f"{rate:.2g}")


def grid_around(customary: float, trials: int) -> list[float]:
    """A geometric grid; an even number of points has one more above than below."""
    return [rounded(customary * FACTOR ** (index - (trials - 1) // 2)) for index in range(trials)]


def best_metric_judge(task: Task) -> Judge:
    return Judge(best_metric, METRICS[task.metric].higher_is_better)


def tune(
    task: Task,
    optimizers: Sequence[str],
    *,
    trials: int,
    seeds: int,
    place: Place,
    run: Runner,
    rounds: int = ROUNDS,
    judge: Judge | None = None,
) -> list[Grid]:
    """Grids in which the best rate is not at the edge, unless so many rounds of extension did not find one.

    `run` makes the runs that it is given, or finds them done. Without a judge, the best metric over the epochs counts.
    """
    chosen = judge or best_metric_judge(task)
    rates = {name: grid_around(OPTIMIZERS[name].customary, trials) for name in optimizers}
    grids = grids_of(_measured(task, rates, seeds, place, run), optimizers, chosen)
    for _ in range(rounds):
        if not any(grid.edge for grid in grids):
            break
        rates = {grid.optimizer: [*rates[grid.optimizer], *grid.further()] for grid in grids}
        grids = grids_of(_measured(task, rates, seeds, place, run), optimizers, chosen)
    return grids


def paste_line(grids: Sequence[Grid]) -> str:
    """The line for the task's file."""
    rates = ", ".join(f'"{grid.optimizer}": {grid.best.rate:g}' for grid in grids)
    return f"rates={{{rates}}},"


def grids_of(records: Sequence[Record], optimizers: Sequence[str], judge: Judge) -> list[Grid]:
    """What finished trials say, a grid an optimizer."""
    return [_grid(name, [record for record in records if record.header.optimizer == name], judge) for name in optimizers]


def _measured(task: Task, rates: Mapping[str, list[float]], seeds: int, place: Place, run: Runner) -> list[Record]:
    specs = [
        RunSpec(task, name, rate, seed)
        for seed in range(FIRST_SEED, FIRST_SEED + seeds)
        for name in rates
        for rate in dict.fromkeys(rates[name])
    ]
    run(specs)
    return records_of(specs, place.out)


def _grid(name: str, records: list[Record], judge: Judge) -> Grid:
    rates = sorted({record.header.lr for record in records})
    trials = (_trial(rate, [record for record in records if record.header.lr == rate], judge) for rate in rates)
    return Grid(name, tuple(trials), judge.higher_is_better)


def _trial(rate: float, records: list[Record], judge: Judge) -> Trial:
    figures = [figure for record in records if (figure := judge.figure(record)) is not None]
    whole = len(figures) == len(records) and not any(record.diverged for record in records)
    return Trial(rate, statistics.mean(figures) if whole else None)
