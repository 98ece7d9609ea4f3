"""The paper's Fig. 2 for one task: training loss and metric, against epochs and against seconds of training."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lngd_bench.report.colours import colour_of
from lngd_bench.report.curves import Curve, curve, focus
from lngd_bench.report.summary import REFERENCE, Row, TaskSummary
from lngd_bench.tasks.metric import METRICS

MARKERS = "osD^vPX*"
INCHES = (9.0, 6.4)  # at 120 dots an inch 1080 pixels: text stays readable in a README's 850
DOTS_PER_INCH = 120


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


def _panel(axes: Axes, summary: TaskSummary, field: str, against: str) -> None:
    for index, row in enumerate(summary.rows):
        _line(axes, row, curve(row.runs, field), against, index)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _line(axes: Axes, row: Row, points: Curve, against: str, index: int) -> None:
    emphasised = row.optimizer == REFERENCE
    colour = colour_of(row.optimizer, index)
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
    axes[1, 0].set_ylabel(f"evaluation {METRICS[summary.metric].name}")
    axes[1, 0].set_xlabel("epochs")
    axes[1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[1, 1].set_xlabel("seconds of training")
    if limits := focus(summary):
        axes[1, 0].set_ylim(*limits)
    for panel in axes[1]:
        panel.axhline(summary.target, color="0.35", linewidth=1, linestyle="--", zorder=1)
    place = (0.995, summary.target)
    axes[1, 1].annotate("target", place, xycoords=("axes fraction", "data"), ha="right", va="top", color="0.35")
