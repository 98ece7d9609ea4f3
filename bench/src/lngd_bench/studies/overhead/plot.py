"""The bar chart of `lngd overhead`: a step of each method over SGD's, for every model and batch."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lngd_bench.report.colours import COLOURS, OTHERS
from lngd_bench.report.plots import DOTS_PER_INCH
from lngd_bench.studies.overhead.records import Page
from lngd_bench.studies.overhead.report import number, ratios, title

COLUMNS = 3
PANEL = (3.0, 0.22)
"""Inches: a panel's width, and a bar's height."""
TICKS = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0)
FRAME = 0.75
"""Inches of a panel that are no bars."""


def draw(pages: Sequence[Page], path: Path) -> Path:
    """Writes the PNG: a panel a model and batch, a bar a method that begins at SGD's 1, on a logarithmic scale."""
    shown = [page for page in pages if any(found.intervals for found in page.methods.values())]
    columns = min(COLUMNS, max(1, len(shown)))
    lines = max(1, -(-len(shown) // columns))
    bars = max((len(page.methods) for page in shown), default=1)
    size = (PANEL[0] * columns, (PANEL[1] * bars + FRAME) * lines)
    figure = Figure(figsize=(max(size[0], 4.5), size[1]), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes, page in zip(panels, shown, strict=False):
        _bars(axes, page)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    return path


def _bars(axes: Axes, page: Page) -> None:
    measured = [found for found in page.methods.values() if found.intervals]
    middles = [statistics.median(ratios(found)) for found in measured]
    places = range(len(measured))
    colours = [COLOURS.get(found.method, OTHERS[k % len(OTHERS)]) for k, found in enumerate(measured)]
    axes.barh(places, [middle - 1 for middle in middles], left=1, color=colours, height=0.72)
    for place, found, middle in zip(places, measured, middles, strict=True):
        axes.plot([ratios(found)[0], ratios(found)[-1]], [place, place], color="black", linewidth=1)
        right = max(1.0, ratios(found)[-1])
        axes.annotate(number(middle), (right, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.axvline(1.0, color="0.3", linewidth=0.8)
    axes.set_yticks(places, [title(found.method) for found in measured], fontsize=8)
    axes.invert_yaxis()
    _logarithmic(axes, min(map(min, map(ratios, measured))), max(map(max, map(ratios, measured))))
    axes.set_title(page.workload.title.replace(", batch", ",\nbatch"), fontsize=9)
    axes.set_xlabel("step / SGD's", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _logarithmic(axes: Axes, least: float, largest: float) -> None:
    """Some methods cost a percent and others a hundredfold."""
    right = max(2.0, largest) ** 1.15 * 1.05
    axes.set_xscale("log")
    axes.set_xlim(min(0.9, 0.95 * least), right)
    axes.set_xticks([tick for tick in TICKS if tick <= right], [f"{tick:g}" for tick in TICKS if tick <= right])
    axes.minorticks_off()
