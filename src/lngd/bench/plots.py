"""The paper's Fig. 2 for one task: training loss and metric, against epochs and against seconds of training."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lngd.bench.metric import METRICS
from lngd.bench.records import Record
from lngd.bench.summary import REFERENCE, Row, TaskSummary

# Okabe and Ito's colours first, told apart by every kind of colour vision, then Tol's; LNGD has the strongest.
COLOURS = {
    "lngd": "#D55E00",
    "sgd": "#56B4E9",
    "adamw": "#0072B2",
    "muon": "#009E73",
    "lngd-sample": "#CC79A7",
    "lngd-paper": "#999933",
    "lngd-lr": "#E69F00",
    "kfac": "#000000",
    "ekfac": "#7F7F7F",
    "tkfac": "#117733",
    "ngplus": "#AA4499",
    "thor": "#661100",
}
OTHERS = ("#4D4D4D", "#A65628")
MARKERS = "osD^vPX*"
INCHES = (9.0, 6.4)  # at 120 dots an inch 1080 pixels: text stays readable in a README's 850
DOTS_PER_INCH = 120


@dataclass(frozen=True)
class Curve:
    """Mean and standard deviation over seeds at each epoch that every seed has."""

    epochs: np.ndarray
    seconds: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def draw(summary: TaskSummary, path: Path) -> Path:
    """Writes the PNG."""
    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.subplots(2, 2, sharey="row")
    for line, field in enumerate(("train_loss", "metric")):
        for column, against in enumerate(("epochs", "seconds")):
            _panel(axes[line, column], summary, field, against)
    _label(axes, summary)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels) if len(labels) < 6 else 5, frameon=False)
    figure.suptitle(summary.header.config["title"], fontsize=13)
    figure.savefig(path, dpi=DOTS_PER_INCH, facecolor="white")
    return path


def curve(runs: Sequence[Record], field: str) -> Curve:
    """`field` is a name of `Epoch`; epochs from the first non-finite value on are left out."""
    rows = [[getattr(epoch, field) for epoch in run.epochs] for run in runs]
    length = min(row.index(None) if None in row else len(row) for row in rows)
    values = np.array([row[:length] for row in rows], dtype=float)
    seconds = np.array([list(accumulate(epoch.seconds for epoch in run.epochs))[:length] for run in runs], dtype=float)
    deviation = values.std(0, ddof=1) if len(runs) > 1 else np.zeros(length)
    return Curve(np.arange(1, length + 1), seconds.mean(0), values.mean(0), deviation)


def _panel(axes: Axes, summary: TaskSummary, field: str, against: str) -> None:
    for index, row in enumerate(summary.rows):
        _line(axes, row, curve(row.runs, field), against, index)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _line(axes: Axes, row: Row, points: Curve, against: str, index: int) -> None:
    emphasised = row.optimizer == REFERENCE
    colour = COLOURS.get(row.optimizer, OTHERS[index % len(OTHERS)])
    x = getattr(points, against)
    axes.plot(
        x,
        points.mean,
        color=colour,
        label=row.label,
        linewidth=2.8 if emphasised else 1.6,
        marker=MARKERS[index % len(MARKERS)],
        markersize=5 if emphasised else 4,
        zorder=3 if emphasised else 2,
    )
    axes.fill_between(x, points.mean - points.deviation, points.mean + points.deviation, color=colour, alpha=0.18, linewidth=0)


def _label(axes: np.ndarray, summary: TaskSummary) -> None:
    axes[0, 0].set_ylabel("training loss")
    axes[0, 0].set_yscale("log")
    axes[1, 0].set_ylabel(f"evaluation {summary.metric}")
    axes[1, 0].set_xlabel("epochs")
    axes[1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[1, 1].set_xlabel("seconds of training")
    _focus(axes[1, 0], summary)
    for panel in axes[1]:
        panel.axhline(summary.target, color="0.35", linewidth=1, linestyle="--", zorder=1)
    place = (0.995, summary.target)
    axes[1, 1].annotate("target", place, xycoords=("axes fraction", "data"), ha="right", va="top", color="0.35")


def _focus(axes: Axes, summary: TaskSummary) -> None:
    """The range where competitors differ: the first epochs' far-off values would press the rest into one line."""
    means = [points.mean for row in summary.rows if len((points := curve(row.runs, "metric")).mean)]
    if not means or not np.isfinite(summary.target):
        return
    late = _without_outliers(np.concatenate([mean[len(mean) // 4 :] for mean in means]), [mean[-1] for mean in means], summary)
    low, high = min(late.min(), summary.target), max(late.max(), summary.target)
    margin = 0.08 * (high - low) + 1e-3
    axes.set_ylim(low - margin, high + margin)


def _without_outliers(values: np.ndarray, finals: Sequence[float], summary: TaskSummary) -> np.ndarray:
    """Leaves a competitor that failed to the frame: what lies over four times as far from the median as the best does."""
    middle, best = np.median(finals), METRICS[summary.metric].best(finals)
    reach = 4 * abs(best - middle)
    return values[np.abs(values - middle) <= reach] if reach else values
