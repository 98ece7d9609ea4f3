"""What the charts of a task show, whoever draws them: means and spreads over seeds, and the range worth looking at."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lngd_bench.report.summary import TaskSummary
from lngd_bench.training.records import Record

Field = Literal["train_loss", "metric"]
FIELDS: tuple[Field, Field] = ("train_loss", "metric")


@dataclass(frozen=True)
class Curve:
    """Mean and standard deviation over seeds at each epoch that every seed has."""

    epochs: np.ndarray
    seconds: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def curve(runs: Sequence[Record], field: Field) -> Curve:
    """Epochs from the first non-finite value on are left out."""
    rows = [[getattr(epoch, field) for epoch in run.epochs] for run in runs]
    length = min(row.index(None) if None in row else len(row) for row in rows)
    values = np.array([row[:length] for row in rows], dtype=float)
    seconds = np.array([[epoch.seconds for epoch in run.epochs[:length]] for run in runs], dtype=float).cumsum(1)
    deviation = values.std(0, ddof=1) if len(runs) > 1 else np.zeros(length)
    return Curve(np.arange(1, length + 1), seconds.mean(0), values.mean(0), deviation)


def focus(summary: TaskSummary) -> tuple[float, float] | None:
    """The metrics between which competitors differ: the first epochs' far-off values would press the rest into one line.

    A competitor that failed is left to the frame: what lies over four times as far from the median as the best does.
    None where nothing is finite.
    """
    means = [points.mean for row in summary.rows if len((points := curve(row.runs, "metric")).mean)]
    if not means or not np.isfinite(summary.target):
        return None
    late, finals = np.concatenate([mean[len(mean) // 4 :] for mean in means]), [mean[-1] for mean in means]
    middle = np.median(finals)
    reach = 4 * abs(summary.metric.best(finals) - middle)
    shown = [*(late[np.abs(late - middle) <= reach] if reach else late), summary.target]
    margin = 0.08 * (max(shown) - min(shown)) + 1e-3
    return min(shown) - margin, max(shown) + margin
