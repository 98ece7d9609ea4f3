"""The ratios of a quality comparison as dots with their intervals, a panel a pair of sides, a line a task."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from lngd_bench.report.plots import DOTS_PER_INCH
from lngd_bench.studies.quality.report import PAIRS, WAYS, Pair, Ratio, TaskQuality, Way, ratios

STYLES: dict[Way, tuple[str, str, str]] = {
    "paper": ("#0072B2", "o", "first crossing, full schedule"),
    "honest": ("#D55E00", "s", "whole run, shortest schedule"),
}
"""Colour, marker, legend."""
OFFSET = 0.14
"""Of a way's dots from the middle of the task's line."""
REACH = 8.0
"""Ratios beyond this or its inverse stand at the frame: there the target was missed or nearly so."""


def draw_ratios(tasks: Sequence[TaskQuality], path: Path) -> Path:
    """Writes the PNG."""
    shown = [pair for pair in PAIRS if any(ratios(tasks, pair, way) for way in WAYS)]
    figure = Figure(figsize=(9.0, 1.0 + max(1, len(shown)) * (0.9 + 0.32 * len(tasks))), layout="constrained")
    panels = figure.subplots(max(1, len(shown)), 1, sharex=True, squeeze=False)[:, 0]
    for axes, pair in zip(panels, shown, strict=False):
        _panel(axes, tasks, pair)
    panels[-1].set_xlabel("our seconds / theirs (below 1: faster)")
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(WAYS), frameon=False)
    figure.savefig(path, dpi=DOTS_PER_INCH, facecolor="white")
    return path


def span(ratio: Ratio) -> tuple[float, float, float]:
    """Where the dot and the ends of its line stand; a side that misses the target is at the frame."""
    missed = 1 / REACH if math.isfinite(ratio.seconds[0]) else REACH
    value = ratio.value or missed
    low, high = (bound if math.isfinite(bound) else REACH for bound in ratio.interval)
    return _inside(value), _inside(min(low, value)), _inside(max(high, value))


def _panel(axes: Axes, tasks: Sequence[TaskQuality], pair: Pair) -> None:
    names = [task.task for task in tasks]
    for way, shift in zip(WAYS, (-OFFSET, OFFSET), strict=True):
        colour, marker, label = STYLES[way]
        for index, ratio in enumerate(ratios(tasks, pair, way)):
            value, low, high = span(ratio)
            place = names.index(ratio.task) + shift
            axes.plot([low, high], [place, place], color=colour, linewidth=2, alpha=0.5)
            face = colour if ratio.value else "white"
            (dot,) = axes.plot([value], [place], marker, color=colour, markerfacecolor=face)
            dot.set_label("" if index else label)
    _label(axes, names, pair)


def _label(axes: Axes, names: Sequence[str], pair: Pair) -> None:
    axes.set_title(pair.title, fontsize=11, loc="left")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xscale("log", base=2)
    axes.set_xlim(0.95 / REACH, 1.05 * REACH)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.axvline(1, color="0.35", linewidth=1, linestyle="--", zorder=1)
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _inside(value: float) -> float:
    return min(max(value, 1 / REACH), REACH)
