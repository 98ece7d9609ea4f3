"""Time to a target on many tasks, every optimizer tuned alike: what runs, how large, and where its records lie.

Conventions. A directory has one folder a task; in it `tuning` holds the trials and `schedule-100`, `schedule-50`, … the runs
whose schedule has that share of the full number of steps, in per cent. Rates are chosen on held-out training samples and
seeds from 1000 on, at the full schedule, and stay for the shorter ones. Reported runs have seeds 0, 1, … and the data set's
own evaluation samples, of which the first `evaluations` count.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

from torch import nn

from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.tasks import TASKS
from lngd_bench.tasks.data import Data, in_memory
from lngd_bench.tasks.datasets.python_source import CONTEXT, VOCABULARY
from lngd_bench.tasks.models.gpt import GPT
from lngd_bench.tasks.task import Task
from lngd_bench.training.race import Place
from lngd_bench.training.records import Epoch, Record, metric_of, read_records
from lngd_bench.training.train import RunSpec
from lngd_bench.training.tune import Budget, Grid, Judge, Runner, grids_of, tune

TUNING = "tuning"
TUNING_SEEDS = 1
EXTENSIONS = 1
"""Rounds of two further rates for all, if the best rate of one is at its grid's edge."""
WANTED = ("sgd", "adamw", "muon-fp32", "soap", "shampoo", "kfac", "lngd", "lngd-spectral")
COMPETITORS = tuple(name for name in WANTED if name in OPTIMIZERS)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of a task is run: an SGD run takes about four seconds of one core.

    Attributes:
        steps: of the full schedule.
        epoch_steps: steps between two evaluations, a tenth of the full schedule.
        target: fixed before any comparison; see SIZES.
        evaluations: evaluation samples; all tenths of a run together must not cost more than its training.
        model, title: of a smaller network than the task's own.
        fractions: lengths of the schedule over the full one.
    """

    task: str
    steps: int
    epoch_steps: int
    train_samples: int
    evaluations: int
    target: float
    model: Callable[[], nn.Module] | None = None
    title: str | None = None
    fractions: tuple[float, ...] = (0.125, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0)

    def full(self) -> Task:
        task = TASKS[self.task]
        return replace(
            task,
            title=self.title or task.title,
            model=self.model or task.model,
            steps=self.steps,
            epoch_steps=self.epoch_steps,
            samples=min(self.train_samples, task.samples),
            data=partial(_fewer_evaluations, task.data, self.evaluations),
            target=self.target,
            note=f"at most {self.evaluations:,} evaluation samples",
        )


def sizes(rows: Sequence[Size]) -> Mapping[str, Size]:
    return {row.task: row for row in rows}


# Targets: AdamW at the best of its rates 0.002, 0.004 and 0.008 (fashion-mobilenet also 0.016 and 0.032), seed 1000, held-out
# training samples, full schedule; what it has between 60 and 70 % of the steps, rounded. Set before any comparison.
SIZES = sizes(
    [
        Size(task="fashion-mlp", steps=400, epoch_steps=40, train_samples=12800, evaluations=2500, target=0.84),
        Size(task="fashion-cnn", steps=120, epoch_steps=12, train_samples=12800, evaluations=2000, target=0.81),
        Size(task="fashion-resnet", steps=120, epoch_steps=12, train_samples=12800, evaluations=2500, target=0.82),
        Size(task="mnist-cnn", steps=300, epoch_steps=30, train_samples=4000, evaluations=1000, target=0.955),
        Size(
            task="stdlib-charlm",
            steps=200,
            epoch_steps=20,
            train_samples=6400,
            evaluations=128,
            target=2.58,
            model=partial(GPT, VOCABULARY, CONTEXT, 64, heads=4, layers=2),
            title="GPT with 2 layers of width 64 on Python source, characters",
        ),
        Size(task="fashion-vit", steps=120, epoch_steps=12, train_samples=12800, evaluations=2000, target=0.72),
        Size(task="fashion-mobilenet", steps=120, epoch_steps=12, train_samples=12800, evaluations=2000, target=0.81),
    ]
)


def scheduled(full: Task, fraction: float) -> Task:
    """The task on a shorter schedule, which is evaluated no more than once a pass: only what it ends with counts."""
    if fraction == 1:
        return full
    assert full.steps
    steps = max(1, round(fraction * full.steps))
    return replace(full, steps=steps, epoch_steps=steps)


def folder(out: Path, task: str, fraction: float | None = None) -> Path:
    """Of the runs on a schedule, or of the trials."""
    return out / task / (TUNING if fraction is None else f"schedule-{100 * fraction:g}")


@dataclass(frozen=True)
class Comparison:
    """The whole: `run` makes the runs that it is given in a place, or finds them done there."""

    optimizers: Sequence[str]
    seeds: int
    trials: int
    place: Place
    run: Callable[[Sequence[RunSpec], Place], None]

    def fill(self, size: Size) -> list[Grid]:
        """All runs of one task that the directory lacks: the trials, then every schedule at the rates that they chose."""
        full = size.full()
        grids = self._tuned(full)
        rates = {grid.optimizer: grid.best.rate for grid in grids}
        for fraction in sorted(size.fractions, reverse=True):
            task = scheduled(full, fraction)
            specs = [RunSpec(task, name, rates[name], seed) for seed in range(self.seeds) for name in self.optimizers]
            self.run(specs, replace(self.place, out=folder(self.place.out, full.name, fraction)))
        return grids

    def _tuned(self, full: Task) -> list[Grid]:
        """With every trial that the directory has, those of an earlier search too: the report judges by all of them."""
        place = replace(self.place, out=folder(self.place.out, full.name), held_out=True)
        run: Runner = partial(self._run_in, place)
        budget = Budget(rates=self.trials, rounds=EXTENSIONS)
        tune(full, self.optimizers, budget=budget, seeds=TUNING_SEEDS, place=place, run=run, judge=SOONEST)
        return grids_of(read_records(place.out), self.optimizers, SOONEST)

    def _run_in(self, place: Place, specs: Sequence[RunSpec]) -> None:
        self.run(specs, place)


def steps_to_target(record: Record) -> float | None:
    """Steps until the metric reaches the target, linear between two evaluations, to be made small.

    Where it does not, the whole run and as much again as the best metric is from the target, relative to it. None where
    no evaluation was finite.
    """
    target, sign = record.header.config["target"], _sign(record)
    known = [epoch for epoch in record.epochs if epoch.metric is not None]
    if not known:
        return None
    if crossing := next(_crossings(known, target, sign), None):
        return crossing
    short = min(abs(epoch.metric - target) for epoch in known if epoch.metric is not None)
    return record.header.config["total_steps"] * (1 + short / abs(target))


def reached(record: Record, metric: float | None) -> bool:
    """Whether a value of the record's metric is at its target or better."""
    return metric is not None and _sign(record) * metric >= _sign(record) * record.header.config["target"]


def _crossings(epochs: Sequence[Epoch], target: float, sign: int) -> Iterator[float]:
    first = epochs[0]
    assert first.metric is not None
    if sign * first.metric >= sign * target:
        yield float(first.step)
    for before, after in pairwise(epochs):
        assert before.metric is not None
        assert after.metric is not None
        if sign * before.metric < sign * target <= sign * after.metric:
            yield before.step + (after.step - before.step) * (target - before.metric) / (after.metric - before.metric)


def _sign(record: Record) -> int:
    return 1 if metric_of(record).higher_is_better else -1


SOONEST = Judge(steps_to_target, higher_is_better=False)


def _fewer_evaluations(load: Callable[[Path | None], Data], evaluations: int, data_dir: Path | None) -> Data:
    return in_memory(load(data_dir)).evaluated_on(evaluations)
