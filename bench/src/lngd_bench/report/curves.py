"""What the charts of a task show, whoever draws them: means and spreads over seeds, and the range worth looking at."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from lngd_bench.report.summary import TaskSummary
from lngd_bench.tasks.metric import METRICS
from lngd_bench.training.records import Record


@dataclass(frozen=True)
class Curve:
    """Mean and standard deviation over seeds at each epoch that every seed has."""

    epochs: np.ndarray
    seconds: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def curve(runs: Sequence[Record], field: str) -> Curve:
    """`field` is a name of `Epoch`; epochs from the first non-finite value on are left out."""
    rows = [[getattr(epoch, field) for epoch in run.epochs] for run in runs]
    length = min(row.index(None) if None in row else len(row) for row in rows)
    values = np.array([row[:length] for row in rows], dtype=float)
    seconds = np.array([list(accumulate(epoch.seconds for epoch in run.epochs))[:length] for run in runs], dtype=float)
    deviation = values.std(0, ddof=1) if len(runs) > 1 else np.zeros(length)
    return Curve(np.arange(1, length + 1), seconds.mean(0), values.mean(0), deviation)


def focus(summary: TaskSummary) -> tuple[float, float] | None:
    """The metrics between which competitors differ: the first epochs' far-off values would press the rest into one line.

    None where nothing is finite.
    """
    means = [points.mean for row in summary.rows if len((points := curve(row.runs, "metric")).mean)]
    if not means or not np.isfinite(summary.target):
        return None
    late = _without_outliers(np.concatenate([mean[len(mean) // 4 :] for mean in means]), [mean[-1] for mean in means], summary)
    low, high = min(late.min(), summary.target), max(late.max(), summary.target)
    margin = 0.08 * (high - low) + 1e-3
    return low - margin, high + margin


def _without_outliers(values: np.ndarray, finals: Sequence[float], summary: TaskSummary) -> np.ndarray:
    """Leaves a competitor that failed to the frame: what lies over four times as far from the median as the best does."""
    middle, best = np.median(finals), METRICS[summary.metric].best(finals)
    reach = 4 * abs(best - middle)
    return values[np.abs(values - middle) <= reach] if reach else values
