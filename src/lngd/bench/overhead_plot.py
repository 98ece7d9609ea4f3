"""The bar chart of `lngd overhead`: a step of each method over SGD's, for every model and batch."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lngd.bench.overhead_records import Page
from lngd.bench.overhead_report import number, ratios, title
from lngd.bench.plots import COLOURS, DOTS_PER_INCH, OTHERS

COLUMNS = 3
PANEL = (3.0, 0.22)
"""Inches: a panel's width, and a bar's height."""
FRAME = 0.75
"""Inches of a panel that are no bars."""


def draw(pages: Sequence[Page], path: Path) -> Path:
    """Writes the PNG: a panel a model and batch, a bar a method, from 0, with a line at SGD's 1."""
    shown = [page for page in pages if any(found.intervals for found in page.methods.values())]
    columns = min(COLUMNS, max(1, len(shown)))
    lines = max(1, -(-len(shown) // columns))
    bars = max((len(page.methods) for page in shown), default=1)
    size = (PANEL[0] * columns, (PANEL[1] * bars + FRAME) * lines)
    figure = Figure(figsize=(max(size[0], 4.5), size[1]), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for axes, page in zip(panels, shown, strict=False):
        _bars(axes, page)
    for axes in [*panels][len(shown) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    return path


def _bars(axes: Axes, page: Page) -> None:
    measured = [found for found in page.methods.values() if found.intervals]
    middles = [statistics.median(ratios(found)) for found in measured]
    places = range(len(measured))
    colours = [COLOURS.get(found.method, OTHERS[k % len(OTHERS)]) for k, found in enumerate(measured)]
    axes.barh(places, middles, color=colours, height=0.72)
    for place, found, middle in zip(places, measured, middles, strict=True):
        axes.plot([ratios(found)[0], ratios(found)[-1]], [place, place], color="black", linewidth=1)
        axes.annotate(
            number(middle), (ratios(found)[-1], place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.axvline(1.0, color="0.3", linewidth=0.8, linestyle="--")
    axes.set_yticks(places, [title(found.method) for found in measured], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.18 * max(ratios(found)[-1] for found in measured))
    axes.set_title(page.workload.title, fontsize=9)
    axes.set_xlabel("step / SGD's", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
