"""The picture: the mean loss over seeds against steps and against seconds of training, a row a task."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lngd_bench.report.style import COLOURS, png, tidy
from lngd_bench.studies.language.page import Row
from lngd_bench.studies.language.runs import OURS

OWN_COLOURS: Mapping[str, str] = {
    **COLOURS,
    "normuon": "#882255",
    "muon-cautious": "#A65628",
    "muon-hyperball": "#E69F00",
    "psgd": "#7F7F7F",
    "kl-shampoo": "#CC79A7",
    "kl-soap": "#000000",
}
SHOWN_FROM = 0.25
"""Share of the steps from which on all of the curves is in the frame."""


def draw(tasks: Mapping[str, Sequence[Row]]) -> bytes:
    """A PNG. The legend stands beside the curves, in the order in which they end."""
    figure = Figure(figsize=(12, 4.6 * len(tasks)), layout="constrained")
    parts = figure.subfigures(len(tasks), 1, squeeze=False)[:, 0]
    for part, (title, rows) in zip(parts, tasks.items(), strict=True):
        steps, seconds = part.subplots(1, 2, sharey=True)
        ordered = sorted((row for row in rows if row.curve), key=lambda row: row.loss)
        for axes, column, label in ((steps, 0, "steps"), (seconds, 2, "seconds of training")):
            _lines(axes, ordered, column)
            axes.set_xlabel(label)
        steps.set_ylabel("evaluation loss, nats a character")
        steps.set_ylim(*_limits(ordered))
        part.suptitle(title, fontsize=12)
        handles, labels = steps.get_legend_handles_labels()
        part.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    return png(figure)


def _lines(axes: Axes, rows: Sequence[Row], column: int) -> None:
    for row in rows:
        curve, own = row.curve, row.optimizer in OURS
        axes.plot(
            [point[column] for point in curve],
            [point[1] for point in curve],
            linestyle="--" if "default" in row.title else "-",
            color=OWN_COLOURS.get(row.optimizer, "#4D4D4D"),
            linewidth=2.4 if own else 1.4,
            zorder=3 if own else 2,
            label=f"{row.title}, {row.loss:.3f}" if math.isfinite(row.loss) else f"{row.title}, diverges",
        )
    tidy(axes)


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """What lies in the rest of the run, and a little more."""
    late = [loss for row in rows for step, loss, _ in row.curve if step >= SHOWN_FROM * row.curve[-1][0]]
    low, high = min(late), max(late)
    margin = 0.03 * (high - low) + 1e-3
    return low - margin, high + margin
