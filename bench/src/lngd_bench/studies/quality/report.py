"""What the records of a quality comparison say: seconds to the target in two ways, and ratios with their intervals.

The paper's way counts seconds until a run on the full schedule first reaches the target; an optimizer has a figure where
every seed does. The honest way takes the shortest schedule whose *final* metric reaches the target in the median over seeds;
its seconds are those of the whole run, for nobody knows at a first crossing that the decay of the rate is still to come.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import PurePath
from typing import Literal

import numpy as np

from lngd_bench import archive
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.errors import BenchError
from lngd_bench.studies.quality.quality import SOONEST, TUNING, reached, records_of
from lngd_bench.training.records import Header, Record
from lngd_bench.training.tune import Grid, grids_of

Way = Literal["paper", "honest"]

WAYS: tuple[Way, ...] = ("paper", "honest")
FAMILY = tuple(name for name in OPTIMIZERS if name.startswith("lngd") and name != "lngd-paper")
COVERAGE = 0.95
RESAMPLES = 2000  # where seeds have more resamples than that; fewer are all enumerated


@dataclass(frozen=True)
class Pair:
    """Two sides; each is its best optimizer on a task."""

    title: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...]


PAIRS = (
    Pair("LNGD / better of SGD and AdamW", ("lngd",), ("sgd", "adamw")),
    Pair("LNGD / K-FAC", ("lngd",), ("kfac",)),
    Pair("best of the LNGD family / best of Muon, SOAP and Shampoo", FAMILY, ("muon", "muon-fp32", "soap", "shampoo")),
)


@dataclass(frozen=True)
class Standing:
    """One optimizer on one task. `schedules`: runs at the tuned rate by total steps and seed; `grid`: its trials."""

    optimizer: str
    grid: Grid
    schedules: Mapping[int, Mapping[int, Record]]

    @property
    def title(self) -> str:
        return OPTIMIZERS[self.optimizer].title

    @property
    def full(self) -> Mapping[int, Record]:
        """The runs on the full schedule."""
        return self.schedules[max(self.schedules)]

    @property
    def runs(self) -> list[Record]:
        return [run for runs in self.schedules.values() for run in runs.values()]

    @cached_property
    def seeds(self) -> list[int]:
        """Those of which every schedule has a run."""
        return sorted(set.intersection(*(set(runs) for runs in self.schedules.values())))

    @property
    def reached(self) -> int:
        """Seeds that reach the target on the full schedule."""
        return sum(math.isfinite(crossing(run)) for run in self.full.values())

    @property
    def customary(self) -> float | None:
        """The figure of the customary rate over the best one's, both from the trials: what tuning gained."""
        figures = {trial.rate: trial.metric for trial in self.grid.trials}
        found, best = figures.get(OPTIMIZERS[self.optimizer].customary), self.grid.best.metric
        return None if found is None or best is None else found / best

    def seconds(self, way: Way, seeds: Sequence[int]) -> float:
        """Mean over the seeds, which may repeat; infinite where the target is not reached."""
        return statistics.mean(self.each(way, seeds))

    def each(self, way: Way, seeds: Sequence[int]) -> list[float]:
        """Seconds of each seed, in the honest way all on the schedule that all seeds together choose."""
        if way == "paper":
            return [crossing(self.full[seed]) for seed in seeds]
        steps = self.shortest(seeds)
        return [math.fsum(epoch.seconds for epoch in self.schedules[steps][s].epochs) if steps else math.inf for s in seeds]

    def shortest(self, seeds: Sequence[int]) -> int | None:
        """Steps of the shortest schedule whose final metric reaches the target in the median over the seeds.

        The median of an even number is the worse of the two in the middle.
        """
        for steps in sorted(self.schedules):
            runs = [self.schedules[steps][seed] for seed in seeds]
            if 2 * sum(reached(run, run.epochs[-1].metric) for run in runs) > len(runs):
                return steps
        return None


@dataclass(frozen=True)
class TaskQuality:
    """One task's table."""

    task: str
    rows: tuple[Standing, ...]

    @property
    def header(self) -> Header:
        return next(iter(self.rows[0].full.values())).header

    def best_of(self, names: Sequence[str], way: Way) -> Standing | None:
        """The fastest of the named; of those that never reach the target the first."""
        present = [row for row in self.rows if row.optimizer in names]
        return min(present, key=lambda row: row.seconds(way, row.seeds), default=None)


@dataclass(frozen=True)
class Ratio:
    """Our seconds over theirs on one task, with a bootstrap interval over seeds; infinite seconds are a target not reached."""

    task: str
    ours: Standing
    theirs: Standing
    seconds: tuple[float, float]
    interval: tuple[float, float]

    @property
    def value(self) -> float | None:
        """None unless both reach the target."""
        ours, theirs = self.seconds
        return ours / theirs if math.isfinite(ours + theirs) else None

    @property
    def verdict(self) -> Literal["win", "tie", "loss"]:
        """A target that we miss is a loss, whoever else does; one that only they miss a win."""
        ours, theirs = self.seconds
        if not math.isfinite(ours):
            return "loss"
        low, high = self.interval
        if math.isfinite(theirs) and low <= 1 <= high:
            return "tie"
        return "win" if ours < theirs else "loss"


def own_files(files: Mapping[str, archive.Lines]) -> dict[str, archive.Lines]:
    """Those that lie where a comparison puts them: TASK/tuning or TASK/schedule-…"""
    places = {name: PurePath(name).parts for name in files}
    return {
        "/".join(parts): files[name]
        for name, parts in places.items()
        if len(parts) == 3 and (parts[1] == TUNING or parts[1].startswith("schedule-"))
    }


def tasks_in(files: Mapping[str, archive.Lines]) -> list[TaskQuality]:
    """Every task with finished runs, in the order of their names.

    Raises:
        BenchError: there is none.
    """
    trials: dict[str, list[Record]] = defaultdict(list)
    runs: dict[str, list[Record]] = defaultdict(list)
    for name, record in records_of(files).items():
        task, place, _ = name.split("/")
        (trials if place == TUNING else runs)[task].append(record)
    rows = {task: tuple(_standings(trials[task], runs[task])) for task in sorted(runs)}
    if not any(rows.values()):
        raise BenchError("no finished comparison there; lngd quality makes one")
    return [TaskQuality(task, found) for task, found in rows.items() if found]


def _standings(trials: Sequence[Record], runs: Sequence[Record]) -> Iterator[Standing]:
    """Of the optimizers whose runs at the tuned rate have a seed in common on all schedules."""
    lengths = sorted({run.header.config["total_steps"] for run in runs})
    names = [name for name in OPTIMIZERS if any(trial.header.optimizer == name for trial in trials)]
    for grid in grids_of(trials, names, SOONEST):
        schedules: dict[int, dict[int, Record]] = {steps: {} for steps in lengths}
        for run in runs:
            if (run.header.optimizer, run.header.lr, run.header.rest) == (grid.optimizer, grid.best.rate, grid.best.rest):
                schedules[run.header.config["total_steps"]][run.header.seed] = run
        standing = Standing(grid.optimizer, grid, schedules)
        if standing.seeds:
            yield standing


def crossing(run: Record) -> float:
    """Seconds of training until the first evaluation at the target; infinite without one."""
    elapsed = 0.0
    for epoch in run.epochs:
        elapsed += epoch.seconds
        if reached(run, epoch.metric):
            return elapsed
    return math.inf


def ratios(tasks: Sequence[TaskQuality], pair: Pair, way: Way) -> list[Ratio]:
    """One a task that both sides have run on."""
    return [ratio for task in tasks if (ratio := _ratio(task, pair, way))]


def _ratio(task: TaskQuality, pair: Pair, way: Way) -> Ratio | None:
    ours, theirs = task.best_of(pair.ours, way), task.best_of(pair.theirs, way)
    if ours is None or theirs is None:
        return None
    seeds = [seed for seed in ours.seeds if seed in theirs.seeds]

    def of(drawn: Sequence[int]) -> float:
        mine, other = ours.seconds(way, drawn), theirs.seconds(way, drawn)
        return 1.0 if math.isinf(mine) and math.isinf(other) else mine / other

    return Ratio(task.task, ours, theirs, (ours.seconds(way, seeds), theirs.seconds(way, seeds)), bootstrap(of, seeds))


def bootstrap(ratio: Callable[[Sequence[int]], float], seeds: Sequence[int]) -> tuple[float, float]:
    """The middle 95 % of the ratio over resamples of the seeds, all of them where they are few."""
    resamples: Iterable[Sequence[int]] = product(seeds, repeat=len(seeds))
    if len(seeds) ** len(seeds) > RESAMPLES:
        draws = np.random.default_rng(0).integers(len(seeds), size=(RESAMPLES, len(seeds)))
        resamples = ([seeds[index] for index in drawn] for drawn in draws)
    values = sorted(map(ratio, resamples))
    cut = int((1 - COVERAGE) / 2 * len(values))
    return values[cut], values[-1 - cut]
