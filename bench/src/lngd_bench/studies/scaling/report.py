"""The table and the chart of `lngd scaling`."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lngd_bench.report.colours import COLOURS
from lngd_bench.report.plots import DOTS_PER_INCH
from lngd_bench.studies.overhead.report import MISSING, number, table
from lngd_bench.studies.scaling.scaling import Point, exponents

HEADINGS = ("axis", "size", "ms", "SGD ms", "ratio", "extra ms", "on paper ms", "on paper Gop")
FITS = ("axis", "measured", "upper half", "on paper, operations", "on paper, time")
LEGEND = """ms: an ordinary step, which neither measures nor refreshes, and SGD's beside it, medians. extra: the difference.
on paper: what preconditioning, the rate and passes over the gradient should take on this machine. Exponents: p where the extra
grows as sizeᵖ, fitted over all sizes and over the upper half; on paper over the upper half."""


def by_axis(points: Sequence[Point]) -> list[list[Point]]:
    """The points of each axis, by size."""
    axes = dict.fromkeys(point.axis for point in points)
    return [sorted((p for p in points if p.axis == axis), key=lambda p: p.value) for axis in axes]


def rows(points: Sequence[Point]) -> list[list[str]]:
    """A size each."""
    return [_row(point) for axis in by_axis(points) for point in axis]


def fits(points: Sequence[Point]) -> list[list[str]]:
    """An axis each."""
    return [_fit(axis) for axis in by_axis(points)]


def markdown(title: str, points: Sequence[Point]) -> str:
    """Both tables."""
    return "\n".join([f"# {title}\n", f"{LEGEND}\n", table(HEADINGS, rows(points)), table(FITS, fits(points))])


def draw(points: Sequence[Point], path: Path) -> Path:
    """Writes the PNG: a panel an axis."""
    axes = by_axis(points)
    figure = Figure(figsize=(max(4.5, 3.2 * len(axes)), 3.2), layout="constrained")
    panels = figure.subplots(1, len(axes), squeeze=False).flat
    for panel, each in zip(panels, axes, strict=True):
        _panel(panel, each)
    panels[0].set_ylabel("milliseconds")
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    return path


def _row(point: Point) -> list[str]:
    times = point.milliseconds, point.sgd, point.ratio, point.extra, point.predicted, 1e-9 * point.operations
    return [point.axis, str(point.value), *map(number, times)]


def _fit(points: Sequence[Point]) -> list[str]:
    found = exponents(points)
    values = found.measured, found.upper, found.operations, found.predicted
    return [points[0].axis, *(MISSING if math.isnan(value) else f"{value:.2f}" for value in values)]


def _panel(axes: Axes, points: Sequence[Point]) -> None:
    values = [point.value for point in points]
    axes.plot(values, [p.sgd for p in points], color=COLOURS["sgd"], marker="s", label="SGD's step")
    axes.plot(values, [p.extra for p in points], color=COLOURS["lngd"], marker="o", linewidth=2.4, label="extra")
    axes.plot(values, [p.predicted for p in points], color="0.35", linestyle="--", label="extra on paper")
    axes.set_xscale("log", base=10 if points[0].axis == "classes" else 2)
    axes.set_yscale("log")
    axes.set_xticks(values, list(map(str, values)), fontsize=8)
    axes.minorticks_off()
    axes.set_xlabel(points[0].axis)
    axes.grid(color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
