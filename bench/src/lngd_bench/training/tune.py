"""The same number of trials for every optimizer: a grid of rates, then as many more for all, then as many of the damping, and as
many of AdamW's rate for what an optimizer itself does not take.

An optimizer without the one or the other has further rates instead. Trials are judged on a part of the training samples and on
seeds that no report uses.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.tasks.metric import METRICS
from lngd_bench.tasks.task import Task
from lngd_bench.training.race import Place, records_of
from lngd_bench.training.records import Record, best_metric
from lngd_bench.training.train import RunSpec

FIRST_SEED = 1000  # reports use 0, 1, 2, …
FACTOR = 2.0  # between neighbouring rates
EXTENSION = 2  # further rates for each optimizer in a round
ROUNDS = 4  # of extension at most; a rate still at the edge then is marked
DAMPING_FACTOR = 10**0.5  # between neighbouring dampings, and between neighbouring values of `Setting.rest`
PAPER_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
"""The paper's grid of α (sec. 4)."""

Runner = Callable[[Sequence[RunSpec]], None]
Point = tuple[float, float | None, float | None]
"""Rate, damping and `rest`, None for the optimizer's default."""


@dataclass(frozen=True)
class Judge:
    """What makes one rate better than another: a figure of a run; None where a run has none."""

    figure: Callable[[Record], float | None]
    higher_is_better: bool


@dataclass(frozen=True)
class Trial:
    """One point: the mean of the judge's figure over the tuning seeds, None if a seed diverged.

    Attributes:
        damping, rest: None is the optimizer's default.
    """

    rate: float
    metric: float | None
    damping: float | None = None
    rest: float | None = None


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
    def rated(self) -> tuple[Trial, ...]:
        """The trials of the rate alone."""
        return tuple(trial for trial in self.trials if trial.damping is None and trial.rest is None)

    @property
    def best_rated(self) -> Trial:
        return max(self.rated, key=self._merit)

    @property
    def edge(self) -> int:
        """−1 or +1 where the best is the lowest or the highest rate, 0 inside."""
        position = self.rated.index(self.best_rated)
        return (position == len(self.rated) - 1) - (position == 0)

    def further(self, count: int = EXTENSION) -> list[float]:
        """The next rates: beyond the edge if the best is there, otherwise between it and its neighbours."""
        rates = [trial.rate for trial in self.rated]
        position = rates.index(self.best_rated.rate)
        if self.edge:
            return [rounded(self.best_rated.rate * FACTOR ** (self.edge * step)) for step in range(1, count + 1)]
        return _between(rates[position - 1 : position + 2], count)

    def dampings(self, count: int) -> list[Point]:
        """So many more trials: other dampings at the best rate, or other rates where the optimizer has no damping."""
        default = OPTIMIZERS[self.optimizer].damping
        if default is None:
            return rates_alone(self.further(count))
        return [(self.best_rated.rate, rounded(default * DAMPING_FACTOR**power), None) for power in _powers(count)]

    def rests(self, count: int) -> list[Point]:
        """So many more trials: other rates of AdamW's part at the best rate, or other rates where there is no such part."""
        if not OPTIMIZERS[self.optimizer].two_rates:
            return rates_alone(self.further(count))
        return [(self.best_rated.rate, None, rounded(DAMPING_FACTOR**-power)) for power in _powers(count)]

    def _merit(self, trial: Trial) -> float:
        if trial.metric is None:
            return -math.inf
        return trial.metric if self.higher_is_better else -trial.metric


def rates_alone(rates: Sequence[float]) -> list[Point]:
    """With whatever else is the optimizer's default."""
    return [(rate, None, None) for rate in rates]


def _between(around: Sequence[float], count: int) -> list[float]:
    """Rates inside two intervals of a geometric grid, alternately below and above the middle, none twice."""
    low, middle, high = around
    each = math.ceil(count / 2)
    below = [middle * (low / middle) ** (step / (each + 1)) for step in range(1, each + 1)]
    above = [middle * (high / middle) ** (step / (each + 1)) for step in range(1, each + 1)]
    return [rounded(rate) for pair in zip(below, above, strict=True) for rate in pair][:count]


def _powers(count: int) -> list[int]:
    """−1, 1, −2, 2, …"""
    return [(-1) ** (index + 1) * (index // 2 + 1) for index in range(count)]


def rounded(rate: float) -> float:
    """Two significant digits: a rate is written down by people."""
    return float(f"{rate:.2g}")


def grid_around(customary: float, trials: int) -> list[float]:
    """A geometric grid; an even number of points has one more above than below."""
    return [rounded(customary * FACTOR ** (index - (trials - 1) // 2)) for index in range(trials)]


@dataclass(frozen=True)
class Budget:
    """How many trials; the same for every optimizer.

    Attributes:
        rates: of the first grid, around the optimizer's customary rate.
        grid: rates that all have instead.
        rounds: of extension at most, while the best rate of any optimizer is at its grid's edge.
        dampings, rests: at the best rate; see `Grid.dampings` and `Grid.rests`.
    """

    rates: int = 5
    grid: tuple[float, ...] | None = None
    rounds: int = ROUNDS
    dampings: int = 0
    rests: int = 0

    def first(self, optimizer: str) -> list[float]:
        return list(self.grid) if self.grid else grid_around(OPTIMIZERS[optimizer].customary, self.rates)


def tune(
    task: Task,
    optimizers: Sequence[str],
    *,
    budget: Budget,
    seeds: int,
    place: Place,
    run: Runner,
    judge: Judge | None = None,
) -> list[Grid]:
    """Grids in which the best rate is not at the edge, unless so many rounds of extension did not find one.

    `run` makes the runs that it is given, or finds them done. Without a judge, the best metric over the epochs counts.
    """
    chosen = judge or Judge(best_metric, METRICS[task.metric].higher_is_better)
    points: dict[str, list[Point]] = {name: rates_alone(budget.first(name)) for name in optimizers}

    def measured() -> list[Grid]:
        specs = [
            RunSpec(task.of(name), name, rate, seed, damping, rest)
            for seed in range(FIRST_SEED, FIRST_SEED + seeds)
            for name in points
            for rate, damping, rest in dict.fromkeys(points[name])
        ]
        run(specs)
        return grids_of(records_of(specs, place.out), optimizers, chosen)

    grids = measured()
    for _ in range(budget.rounds):
        if not any(grid.edge for grid in grids):
            break
        for grid in grids:
            points[grid.optimizer] += rates_alone(grid.further())
        grids = measured()
    if budget.dampings or budget.rests:
        for grid in grids:
            points[grid.optimizer] += grid.dampings(budget.dampings) if budget.dampings else []
            points[grid.optimizer] += grid.rests(budget.rests) if budget.rests else []
        grids = measured()
    return grids


def paste_line(grids: Sequence[Grid]) -> str:
    """The lines for the task's file."""
    rates = ", ".join(f'"{grid.optimizer}": {grid.best.rate:g}' for grid in grids)
    dampings = ", ".join(f'"{grid.optimizer}": {grid.best.damping:g}' for grid in grids if grid.best.damping is not None)
    rests = ", ".join(f'"{grid.optimizer}": {grid.best.rest:g}' for grid in grids if grid.best.rest is not None)
    return f"rates={{{rates}}}," + "".join(
        f"\n{name}={{{values}}}," for name, values in (("dampings", dampings), ("rests", rests)) if values
    )


def grids_of(records: Sequence[Record], optimizers: Sequence[str], judge: Judge) -> list[Grid]:
    """What finished trials say, a grid an optimizer."""
    return [_grid(name, [record for record in records if record.header.optimizer == name], judge) for name in optimizers]


def _grid(name: str, records: list[Record], judge: Judge) -> Grid:
    runs: dict[Point, list[Record]] = {}
    for record in records:
        runs.setdefault((record.header.lr, record.header.damping, record.header.rest), []).append(record)
    points = sorted(runs, key=lambda point: (point[0], point[1] or 0, point[2] or 0))
    trials = tuple(Trial(point[0], _mean(runs[point], judge), *point[1:]) for point in points)
    return Grid(name, trials, judge.higher_is_better)


def _mean(records: list[Record], judge: Judge) -> float | None:
    figures = [figure for record in records if (figure := judge.figure(record)) is not None]
    whole = len(figures) == len(records) and not any(record.diverged for record in records)
    return statistics.mean(figures) if whole else None
