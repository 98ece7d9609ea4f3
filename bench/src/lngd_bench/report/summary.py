"""The figures of the paper's Table 1, from records only. All spreads are standard deviations over seeds (n − 1)."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import Literal

from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.tasks.metric import METRICS, Metric
from lngd_bench.training.records import Header, Record, best_metric, metric_of

Target = float | Literal["auto", "task"]
Figure = Literal["epochs", "seconds", "epoch_seconds", "best", "train_loss", "first_loss"]

REFERENCE = "lngd"  # whose saving the table states
AUTO_SLACK = 1.5  # a competitor with more than this times the median error is no measure of the target


Figures = dict[Figure, float | None]
"""Of one run; None is what it lacks.

- epochs, seconds: of training until the metric first reaches the target;
- epoch_seconds: by the step, times a full epoch's steps: the last epoch of a run may be cut short;
- best: metric; train_loss: of the last epoch; first_loss: mean training loss over the first fifth of the epochs.
"""


@dataclass(frozen=True)
class Row:
    """Runs of one optimizer that differ in their seed only; `saved` is 1 − LNGD's seconds to the target over the row's."""

    label: str
    runs: tuple[Record, ...]
    figures: tuple[Figures, ...]
    saved: float | None = None

    @property
    def header(self) -> Header:
        return self.runs[0].header

    @property
    def optimizer(self) -> str:
        return self.header.optimizer

    def values(self, figure: Figure) -> list[float]:
        """Empty when one seed lacks the figure: a mean over the seeds that went well would flatter."""
        found = [value for own in self.figures if (value := own[figure]) is not None]
        return found if len(found) == len(self.figures) else []

    def mean(self, figure: Figure) -> float | None:
        values = self.values(figure)
        return statistics.mean(values) if values else None


@dataclass(frozen=True)
class TaskSummary:
    """One table; `difference` is what sets it apart from other tables of the task."""

    task: str
    target: float
    target_meaning: str
    rows: tuple[Row, ...]
    difference: str = ""

    @property
    def header(self) -> Header:
        return self.rows[0].header

    @property
    def headers(self) -> list[Header]:
        return [run.header for row in self.rows for run in row.runs]

    @property
    def metric(self) -> Metric:
        return METRICS[self.header.config["metric"]]


def summarise(records: Sequence[Record], target: Target = "auto") -> list[TaskSummary]:
    """One summary a task, in the order of first appearance."""
    tasks = dict.fromkeys(record.header.task for record in records)
    return [summary_of([record for record in records if record.header.task == task], target) for task in tasks]


def summary_of(records: Sequence[Record], target: Target = "auto") -> TaskSummary:
    """Of one task: a row for runs that differ in their seed only, by optimizer, then by rate, damping and rest."""
    names = list(OPTIMIZERS)

    def key(record: Record) -> tuple[int, str, float, float, float]:
        name, chosen = record.header.optimizer, (record.header.damping, record.header.rest)
        damping, rest = (-1 if value is None else value for value in chosen)
        return names.index(name) if name in names else len(names), name, record.header.lr, damping, rest

    groups = [tuple(group) for _, group in groupby(sorted(records, key=key), key=key)]
    value, meaning = _target(groups, target)
    of_optimizer = Counter(runs[0].header.optimizer for runs in groups)
    rows = [
        Row(_label(header, with_rate=of_optimizer[header.optimizer] > 1), runs, tuple(_figures(run, value) for run in runs))
        for runs in groups
        for header in [runs[0].header]
    ]
    ours = [seconds for row in rows if row.optimizer == REFERENCE and (seconds := row.mean("seconds"))]
    if ours:  # of several rates the fastest counts
        others = {row.label: row.mean("seconds") for row in rows if row.optimizer != REFERENCE}
        rows = [replace(row, saved=1 - min(ours) / seconds) if (seconds := others.get(row.label)) else row for row in rows]
    return TaskSummary(records[0].header.task, value, meaning, tuple(rows))


def auto_target(groups: Sequence[Sequence[Record]]) -> float:
    """What every run of every competitor but outliers reaches: the worst run's best, rounded to the easier side.

    An outlier's mean best has more than 1.5 times the error of the median competitor's: the loss itself for losses, 1/BLEU
    for translations. A competitor with a run without any finite figure does not count.
    """
    kind = metric_of(groups[0][0])
    bests = [[best for record in group if (best := best_metric(record)) is not None] for group in groups]
    found = [values for values, group in zip(bests, groups, strict=True) if len(values) == len(group)]
    if not found:
        return math.nan
    errors = [statistics.mean(map(kind.error, values)) for values in found]
    limit = AUTO_SLACK * statistics.median(errors)
    worst = kind.worst(best for values, error in zip(found, errors, strict=True) if error <= limit for best in values)
    grains = round(worst / kind.grain, 6)
    return round((math.floor(grains) if kind.higher_is_better else math.ceil(grains)) * kind.grain, 6)


def _target(groups: Sequence[Sequence[Record]], target: Target) -> tuple[float, str]:
    own = groups[0][0].header.config.get("target")
    if target == "task" and own is not None:
        return own, "the task's own"
    if isinstance(target, float):
        return target, "given"
    kind = metric_of(groups[0][0])
    meaning = (
        f"automatic: the worst run's best, eased to a multiple of {kind.grain_text}; "
        f"optimizers with over {AUTO_SLACK:g} times the median {kind.error_name} don't count"
    )
    return auto_target(groups), meaning


def _figures(record: Record, target: float) -> Figures:
    metric, epochs = metric_of(record), record.epochs
    elapsed = list(accumulate(epoch.seconds for epoch in epochs))
    hits = (at for at, epoch in enumerate(epochs) if epoch.metric is not None and metric.reached(epoch.metric, target))
    hit = next(hits, None)
    first = [epoch.train_loss for epoch in epochs[: max(1, len(epochs) // 5)]]
    return {
        "epochs": None if hit is None else epochs[hit].epoch,
        "seconds": None if hit is None else elapsed[hit],
        "epoch_seconds": elapsed[-1] / max(1, epochs[-1].step) * record.header.config["steps_an_epoch"],
        "best": best_metric(record),
        "train_loss": epochs[-1].train_loss,
        "first_loss": None if None in first else statistics.mean(loss for loss in first if loss is not None),
    }


def _label(header: Header, *, with_rate: bool) -> str:
    title = OPTIMIZERS[header.optimizer].title if header.optimizer in OPTIMIZERS else header.optimizer
    damping = "" if header.damping is None else f" λ{header.damping:g}"
    rest = "" if header.rest is None else f" rest {header.rest:g}"
    return f"{title} @{header.lr:g}{damping}{rest}" if with_rate else title
