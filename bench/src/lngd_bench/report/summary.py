"""The figures of the paper's Table 1, from records only. All spreads are standard deviations over seeds (n − 1)."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import Literal

from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.tasks.metric import METRICS
from lngd_bench.training.records import Header, Record, best_metric, metric_of

Target = float | Literal["auto", "task"]

REFERENCE = "lngd"  # whose saving the table states
AUTO_SLACK = 1.5  # a competitor with more than this times the median error is no measure of the target


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation; one value has no deviation."""

    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Row:
    """One optimizer. `epochs` and `seconds` to the target are None unless every seed reached it."""

    optimizer: str
    label: str
    runs: tuple[Record, ...]
    reached: int
    epochs: float | None
    seconds: float | None
    epoch_seconds: Spread
    saved: float | None
    best: Spread | None
    train_loss: Spread | None

    @property
    def diverged(self) -> int:
        return sum(run.diverged for run in self.runs)


@dataclass(frozen=True)
class TaskSummary:
    """One task's table."""

    task: str
    target: float
    target_meaning: str
    rows: tuple[Row, ...]

    @property
    def header(self) -> Header:
        return self.rows[0].runs[0].header

    @property
    def metric(self) -> str:
        return self.header.config["metric"]


def summarise(records: Sequence[Record], target: Target = "auto") -> list[TaskSummary]:
    """One summary a task, in the order of first appearance."""
    tasks = dict.fromkeys(record.header.task for record in records)
    return [_task_summary(task, [r for r in records if r.header.task == task], target) for task in tasks]


def auto_target(groups: Sequence[Sequence[Record]], metric: str) -> float:
    """What every run of every competitor but outliers reaches: the worst run's best, rounded to the easier side.

    An outlier's mean best has more than 1.5 times the error of the median competitor's: the loss itself for losses, 1/BLEU
    for translations.
    """
    kind = METRICS[metric]
    found = [bests for group in groups if (bests := _bests(group))]
    if not found:
        return math.nan
    errors = [statistics.mean(kind.error(best) for best in bests) for bests in found]
    limit = AUTO_SLACK * statistics.median(errors)
    worst = kind.worst(best for bests, error in zip(found, errors, strict=True) if error <= limit for best in bests)
    grains = round(worst / kind.grain, 6)
    return round((math.floor(grains) if kind.higher_is_better else math.ceil(grains)) * kind.grain, 6)


def _bests(group: Sequence[Record]) -> list[float]:
    """Of each run; empty where a run had no finite figure."""
    found = [best for record in group if (best := best_metric(record)) is not None]
    return found if len(found) == len(group) else []


def _task_summary(task: str, records: list[Record], target: Target) -> TaskSummary:
    groups = list(_groups(records))
    metric = records[0].header.config["metric"]
    value, meaning = _target(groups, metric, target)
    groups_of = Counter(group[0].header.optimizer for group in groups)
    rows = [_row(group, value, with_rate=groups_of[group[0].header.optimizer] > 1) for group in groups]
    return TaskSummary(task, value, meaning, tuple(_with_savings(rows)))


def _groups(records: list[Record]) -> Iterator[list[Record]]:
    """Runs that differ in their seed only, in the order of the table of optimizers, then of rate and damping."""
    names = list(OPTIMIZERS)

    def key(record: Record) -> tuple[int, str, float, float]:
        name, damping = record.header.optimizer, record.header.damping
        return (names.index(name) if name in names else len(names), name, record.header.lr, -1 if damping is None else damping)

    return (list(group) for _, group in groupby(sorted(records, key=key), key=key))


def _target(groups: list[list[Record]], metric: str, target: Target) -> tuple[float, str]:
    own = groups[0][0].header.config.get("target")
    if target == "task" and own is not None:
        return own, "the task's own"
    if isinstance(target, float):
        return target, "given"
    kind = METRICS[metric]
    meaning = (
        f"automatic: the worst run's best, eased to a multiple of {kind.grain_text}; "
        f"optimizers with over {AUTO_SLACK:g} times the median {kind.error_name} don't count"
    )
    return auto_target(groups, metric), meaning


def _row(group: list[Record], target: float, *, with_rate: bool) -> Row:
    header = group[0].header
    hits = [hit for record in group if (hit := first_at_target(record, target))]
    everyone = len(hits) == len(group)
    return Row(
        optimizer=header.optimizer,
        label=_label(header, with_rate=with_rate),
        runs=tuple(group),
        reached=len(hits),
        epochs=statistics.mean(epochs for epochs, _ in hits) if everyone else None,
        seconds=statistics.mean(seconds for _, seconds in hits) if everyone else None,
        epoch_seconds=_spread([epoch_seconds(record) for record in group]),
        saved=None,
        best=_best(group),
        train_loss=_over_seeds(group, lambda record: record.epochs[-1].train_loss),
    )


def _label(header: Header, *, with_rate: bool) -> str:
    title = OPTIMIZERS[header.optimizer].title if header.optimizer in OPTIMIZERS else header.optimizer
    damping = "" if header.damping is None else f" λ{header.damping:g}"
    return f"{title} @{header.lr:g}{damping}" if with_rate else title


def _with_savings(rows: list[Row]) -> Iterator[Row]:
    """1 − LNGD's seconds to the target over the row's; of several rates of LNGD the fastest counts."""
    own = min((row.seconds for row in rows if row.optimizer == REFERENCE and row.seconds), default=None)
    return (row if row.optimizer == REFERENCE else replace(row, saved=_saved(own, row.seconds)) for row in rows)


def _saved(own: float | None, other: float | None) -> float | None:
    return 1 - own / other if own and other else None


def first_at_target(record: Record, target: float) -> tuple[int, float] | None:
    """Epochs and seconds of training until the metric first reaches the target."""
    reached = metric_of(record).reached
    elapsed = accumulate(epoch.seconds for epoch in record.epochs)
    hits = (
        (epoch.epoch, seconds)
        for epoch, seconds in zip(record.epochs, elapsed, strict=True)
        if epoch.metric is not None and reached(epoch.metric, target)
    )
    return next(hits, None)


def epoch_seconds(record: Record) -> float:
    """By the step, times a full epoch's steps: the last epoch of a run may be cut short."""
    steps = record.epochs[-1].step
    full = record.header.config["steps_an_epoch"]
    return math.fsum(epoch.seconds for epoch in record.epochs) / max(1, steps) * full


def _best(group: Sequence[Record]) -> Spread | None:
    return _over_seeds(group, best_metric)


def _over_seeds(group: Sequence[Record], figure: Callable[[Record], float | None]) -> Spread | None:
    """None when one seed lacks the figure: a mean over the seeds that went well would flatter."""
    values = [value for record in group if (value := figure(record)) is not None]
    return _spread(values) if len(values) == len(group) else None


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)
