"""Does what the paper says hold in records of ours? A verdict for each claim, with the numbers that decide it.

The rule: two methods differ when Student's paired t-test over the seeds says so at the 5 % level. A seed gives both the same
weights and batches, and they took turns on the machine, so their difference is surer than either number. A target that not every
seed of a method reached is worse than one that every seed reached. With one common seed nothing is decided. Of a method that
ran at several rates the one that reaches the target first counts; seconds of different machines are not compared.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lngd_bench.report.summary import Row, TaskSummary, epoch_seconds, first_at_target
from lngd_bench.report.tables import MIXED, are_mixed
from lngd_bench.studies.paper.paper import Claim
from lngd_bench.tasks.metric import METRICS
from lngd_bench.training.records import Record, best_metric, metric_of

Verdict = Literal["reproduced", "not reproduced", "undecided", "untestable here"]
STUDENT = (12.71, 4.31, 3.19, 2.78, 2.58, 2.45, 2.37, 2.31, 2.27, 2.23)
"""How many standard errors a mean of n paired differences must exceed, for n = 2, 3, …: the 97.5 % quantiles of Student's t,
rounded up. The last stands for all that follow."""

Value = Callable[[Record, float], float | None]
Values = Mapping[int, float | None]  # by seed


@dataclass(frozen=True)
class Figure:
    """A number of a run, given the target, and how it is printed."""

    value: Value
    digits: int
    unit: str = ""


def _epochs(record: Record, target: float) -> float | None:
    hit = first_at_target(record, target)
    return hit and hit[0]


def _seconds(record: Record, target: float) -> float | None:
    hit = first_at_target(record, target)
    return hit and hit[1]


def _first_loss(record: Record, _: float) -> float | None:
    """Mean training loss over the first fifth of the epochs."""
    losses = [epoch.train_loss for epoch in record.epochs[: max(1, len(record.epochs) // 5)]]
    known = [loss for loss in losses if loss is not None]
    return statistics.mean(known) if len(known) == len(losses) else None


def _error(record: Record, _: float) -> float | None:
    """What is to be made small in the best metric."""
    best = best_metric(record)
    metric = metric_of(record)
    return None if best is None else (-1 if metric.higher_is_better else 1) * metric.scale * best


FIGURES: Mapping[str, Figure] = {
    "epochs": Figure(_epochs, 1),
    "seconds": Figure(_seconds, 1, " s"),
    "best": Figure(_error, 2),
    "each": Figure(lambda record, _: epoch_seconds(record), 2, " s/epoch"),
    "loss": Figure(lambda record, _: record.epochs[-1].train_loss, 4),
    "first loss": Figure(_first_loss, 3),
}
"""All are better when small; the best metric is negated where a large one is better."""
TIMED = {"seconds", "each"}  # which only compare under the same conditions


@dataclass(frozen=True)
class Judgement:
    """A claim, what became of it, and why."""

    claim: Claim
    verdict: Verdict
    because: str


def judge(claim: Claim, summary: TaskSummary) -> Judgement:
    """Reproduced where it holds against every rival; one rival that is better refutes it, whatever else was not run."""
    rows = by_optimizer(summary)
    named = [claim.ours, *claim.others]
    there = [rows[name] for name in named if name in rows]
    lacking = f"no runs of {', '.join(name for name in named if name not in rows)}" if len(there) < len(named) else ""
    if claim.ours not in rows or len(there) < 2:
        return Judgement(claim, "untestable here", lacking)
    if claim.figure in TIMED and are_mixed(there):
        return Judgement(claim, "untestable here", MIXED)
    figure = FIGURES[claim.figure]
    ours, *theirs = (_values(row, figure, summary.target) for row in there)
    signs = [compared(ours, values) for values in theirs]
    shown = [_shown(row, figure, summary.target) for row in there]
    return Judgement(claim, _verdict(signs, complete=not lacking), "; ".join([*shown, *filter(None, [lacking])]))


def by_optimizer(summary: TaskSummary) -> dict[str, Row]:
    """One row each: of several rates the one that reaches the target first, or else has the best metric."""
    best = METRICS[summary.metric].higher_is_better

    def merit(row: Row) -> tuple[float, float]:
        figure = math.inf if row.best is None else (-row.best.mean if best else row.best.mean)
        return (math.inf if row.seconds is None else row.seconds, figure)

    names = dict.fromkeys(row.optimizer for row in summary.rows)
    return {name: min((row for row in summary.rows if row.optimizer == name), key=merit) for name in names}


def _verdict(signs: Sequence[int | None], *, complete: bool) -> Verdict:
    if any(sign == 1 for sign in signs):
        return "not reproduced"
    if not complete:
        return "untestable here"
    return "reproduced" if all(sign == -1 for sign in signs) else "undecided"


def compared(ours: Values, theirs: Values) -> int | None:
    """−1 where ours are smaller, 1 where they are larger, None where nothing is decided."""
    missed = [None in values.values() for values in (ours, theirs)]
    if any(missed):
        return None if all(missed) else (1 if missed[0] else -1)
    pairs = ((own, theirs.get(seed)) for seed, own in ours.items())
    differences = [own - other for own, other in pairs if own is not None and other is not None]
    if len(differences) < 2:
        return None
    mean = statistics.mean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    if abs(mean) <= STUDENT[min(len(differences) - 1, len(STUDENT)) - 1] * error:
        return None
    return -1 if mean < 0 else 1


def _values(row: Row, figure: Figure, target: float) -> Values:
    return {record.header.seed: figure.value(record, target) for record in row.runs}


def _shown(row: Row, figure: Figure, target: float) -> str:
    values = _values(row, figure, target).values()
    known = [abs(value) for value in values if value is not None]
    if len(known) < len(values):
        return f"{row.label} {len(known)} of {len(values)} seeds"
    deviation = f" ± {statistics.stdev(known):.{figure.digits}f}" if len(known) > 1 else ""
    return f"{row.label} {statistics.mean(known):.{figure.digits}f}{deviation}{figure.unit}"
