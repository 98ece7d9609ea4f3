"""Does what the paper says hold in records of ours? A verdict for each claim, with the numbers that decide it.

The rule: two methods differ when Student's paired t-test over the seeds says so at the 5 % level. A seed gives both the same
weights and batches, and they took turns on the machine, so their difference is surer than either number. A target that not every
seed of a method reached is worse than one that every seed reached. With one common seed nothing is decided. Of a method that
ran at several rates the one that reaches the target first counts; seconds of different machines are not compared.
"""

import math
import statistics
from collections.abc import Mapping
from typing import Literal

from scipy import stats

from lngd_bench.report.summary import Figure, Row, TaskSummary
from lngd_bench.report.tables import MIXED, are_mixed
from lngd_bench.studies.paper.paper import Claim

Verdict = Literal["reproduced", "not reproduced", "undecided", "untestable here"]
LEVEL = 0.05
PRINTED: Mapping[Figure, tuple[int, str]] = {
    "epochs": (1, ""),
    "seconds": (1, " s"),
    "best": (2, ""),
    "epoch_seconds": (2, " s/epoch"),
    "train_loss": (4, ""),
    "first_loss": (3, ""),
}
"""Digits and unit."""
TIMED = {"seconds", "epoch_seconds"}  # which only compare under the same conditions
Values = Mapping[int, float | None]  # by seed; better when small


def judge(claim: Claim, summary: TaskSummary) -> tuple[Verdict, str]:
    """What became of a claim, and why.

    Reproduced where it holds against every rival; one rival that is better refutes it, whatever else was not run.
    """
    rows = by_optimizer(summary)
    named = [claim.ours, *claim.others]
    there = [rows[name] for name in named if name in rows]
    lacking = [f"no runs of {', '.join(name for name in named if name not in rows)}"] if len(there) < len(named) else []
    if claim.ours not in rows or len(there) < 2:
        return "untestable here", "; ".join(lacking)
    if claim.figure in TIMED and are_mixed(there):
        return "untestable here", MIXED
    ours, *theirs = (_values(row, claim.figure, summary) for row in there)
    shown = [_shown(row.label, _values(row, claim.figure, summary), claim.figure) for row in there]
    signs = [compared(ours, values) for values in theirs]
    because = "; ".join([*shown, *lacking])
    if 1 in signs:
        return "not reproduced", because
    if lacking:
        return "untestable here", because
    return "reproduced" if set(signs) == {-1} else "undecided", because


def by_optimizer(summary: TaskSummary) -> dict[str, Row]:
    """One row each: of several rates the one that reaches the target first, or else has the best metric."""

    def merit(row: Row) -> tuple[float, float]:
        seconds, best = row.mean("seconds"), row.mean("best")
        sign = -1 if summary.metric.higher_is_better else 1
        return (math.inf if seconds is None else seconds, math.inf if best is None else sign * best)

    names = dict.fromkeys(row.optimizer for row in summary.rows)
    return {name: min((row for row in summary.rows if row.optimizer == name), key=merit) for name in names}


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
    if abs(mean) <= stats.t.ppf(1 - LEVEL / 2, len(differences) - 1) * error:
        return None
    return -1 if mean < 0 else 1


def _values(row: Row, figure: Figure, summary: TaskSummary) -> Values:
    """The best metric in its unit, and negated where a large one is better."""
    metric = summary.metric
    factor = 1.0 if figure != "best" else -metric.scale if metric.higher_is_better else metric.scale
    found = ((run.header.seed, own[figure]) for run, own in zip(row.runs, row.figures, strict=True))
    return {seed: None if value is None else factor * value for seed, value in found}


def _shown(label: str, values: Values, figure: Figure) -> str:
    digits, unit = PRINTED[figure]
    known = [abs(value) for value in values.values() if value is not None]
    if len(known) < len(values):
        return f"{label} {len(known)} of {len(values)} seeds"
    deviation = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{label} {statistics.mean(known):.{digits}f}{deviation}{unit}"
