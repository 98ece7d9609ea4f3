"""Time to a target on many tasks, every optimizer tuned alike: what runs, how large, and where its records lie.

Conventions. A directory has one folder a task; in it `tuning` holds the trials and `schedule-100`, `schedule-50`, … the runs
whose schedule has that share of the full number of steps, in per cent. Rates are chosen on held-out training samples and
seeds from 1000 on, at the full schedule, and stay for the shorter ones. Reported runs have seeds 0, 1, … and the data set's
own evaluation samples, of which the first `evaluations` count.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from lngd_bench import archive
from lngd_bench.tasks import TASKS
from lngd_bench.tasks.data import Data, in_memory
from lngd_bench.tasks.datasets.python_source import CONTEXT, VOCABULARY
from lngd_bench.tasks.models.gpt import GPT
from lngd_bench.tasks.task import Task
from lngd_bench.training.race import Place
from lngd_bench.training.records import Epoch, Header, Record, metric_of
from lngd_bench.training.train import RunSpec
from lngd_bench.training.tune import Budget, Grid, Judge, grids_of, tune

TUNING = "tuning"
TUNING_SEEDS = 1
EXTENSIONS = 1
"""Rounds of two further rates for all, if the best rate of one is at its grid's edge."""
RESTS = 3
"""Trials of AdamW's rate for what an optimizer does not take itself, and as many further rates for the others."""
COMPETITORS = ("sgd", "adamw", "muon-fp32", "soap", "shampoo", "kfac", "lngd", "lngd-spectral")
Line = TypeVar("Line", Header, Epoch)


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
        """On the full schedule."""
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


# Targets: AdamW at the best of its rates 0.002, 0.004 and 0.008 (fashion-mobilenet also 0.016 and 0.032), seed 1000, held-out
# training samples, full schedule; what it has between 60 and 70 % of the steps, rounded. Set before any comparison.
ROWS = (
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
)
SIZES: Mapping[str, Size] = {row.task: row for row in ROWS}


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

    def fill(self, size: Size) -> None:
        """All runs of one task that the directory lacks: the trials, then every schedule at the rates that they chose."""
        full = size.full()
        best = {grid.optimizer: grid.best for grid in self._tuned(full)}
        for fraction in sorted(size.fractions, reverse=True):
            task = scheduled(full, fraction)
            specs = [
                RunSpec(task, name, best[name].rate, seed, rest=best[name].rest)
                for seed in range(self.seeds)
                for name in self.optimizers
            ]
            self.run(specs, replace(self.place, out=folder(self.place.out, full.name, fraction)))

    def _tuned(self, full: Task) -> list[Grid]:
        """With every trial that the directory has, those of an earlier search too: the report judges by all of them."""
        place = replace(self.place, out=folder(self.place.out, full.name), held_out=True)
        budget = Budget(rates=self.trials, rounds=EXTENSIONS, rests=RESTS)
        run = partial(self._run_in, place)
        tune(full, self.optimizers, budget=budget, seeds=TUNING_SEEDS, place=place, run=run, judge=SOONEST)
        return grids_of(list(records_of(archive.read(place.out)).values()), self.optimizers, SOONEST)

    def _run_in(self, place: Place, specs: Sequence[RunSpec]) -> None:
        self.run(specs, place)


def records_of(files: Mapping[str, archive.Lines]) -> dict[str, Record]:
    """The finished runs among files of records; one that is none gives a warning."""
    found = {}
    for name, lines in files.items():
        if [line.get("event") for line in lines] == ["start", *["epoch"] * (len(lines) - 2), "end"] and len(lines) > 2:
            found[name] = Record(_as(Header, lines[0]), tuple(_as(Epoch, line) for line in lines[1:-1]))
        else:
            warnings.warn(f"{name}: not the record of a finished run, not counted", stacklevel=2)
    return found


def _as(kind: type[Line], line: Mapping[str, Any]) -> Line:
    """Old records lack what has a default, new ones may have more."""
    return kind(**{field.name: line[field.name] for field in fields(kind) if field.name in line})


def steps_to_target(record: Record) -> float | None:
    """Steps until the metric reaches the target, linear between two evaluations, to be made small.

    Where it does not, the whole run and as much again as the best metric is from the target, relative to it. None where
    no evaluation was finite.
    """
    target, sign = record.header.config["target"], _sign(record)
    known = [(epoch.step, epoch.metric) for epoch in record.epochs if epoch.metric is not None]
    if not known:
        return None
    if sign * known[0][1] >= sign * target:
        return float(known[0][0])
    for (step, metric), (later, better) in pairwise(known):
        if sign * metric < sign * target <= sign * better:
            return step + (later - step) * (target - metric) / (better - metric)
    short = min(abs(metric - target) for _, metric in known)
    return record.header.config["total_steps"] * (1 + short / abs(target))


def reached(record: Record, metric: float | None) -> bool:
    """Whether a value of the record's metric is at its target or better."""
    return metric is not None and _sign(record) * metric >= _sign(record) * record.header.config["target"]


def _sign(record: Record) -> int:
    return 1 if metric_of(record).higher_is_better else -1


SOONEST = Judge(steps_to_target, higher_is_better=False)


def _fewer_evaluations(load: Callable[[Path | None], Data], evaluations: int, data_dir: Path | None) -> Data:
    return in_memory(load(data_dir)).evaluated_on(evaluations)
