"""The paper's Fig. 2 for any tasks: training loss and metric, against epochs and against seconds of training."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lngd_bench.report.curves import FIELDS, Field, curve, focus
from lngd_bench.report.style import colour_of, png, tidy
from lngd_bench.report.summary import REFERENCE, TaskSummary

MARKERS = "osD^vPX*"


def draw(summaries: Sequence[TaskSummary], path: Path) -> Path:
    """Writes the PNG: the four panels of a single task in two rows, those of several in a row a task."""
    alone = len(summaries) == 1
    figure = Figure(figsize=(9, 6.4) if alone else (15, 3.3 * len(summaries) + 0.5), layout="constrained")
    parts = figure.subfigures(len(summaries), 1, squeeze=False)[:, 0]
    labels = dict.fromkeys(row.label for summary in summaries for row in summary.rows)
    places = {label: place for place, label in enumerate(labels)}
    handles: dict[str, Artist] = {}
    for part, summary in zip(parts, summaries, strict=True):
        panels = part.subplots(*((2, 2) if alone else (1, 4))).ravel()
        _draw_task(panels, summary, places)
        title = summary.header.config["title"]
        part.suptitle(f"{title} ({summary.difference})" if summary.difference else title, fontsize=13)
        own, names = panels[0].get_legend_handles_labels()
        handles |= dict(zip(names, own, strict=True))
    shown = [handles[label] for label in labels]
    columns = len(labels) if len(labels) < 6 else 5 if alone else 9
    figure.legend(shown, list(labels), loc="outside lower center", ncols=columns, frameon=False)
    path.write_bytes(png(figure))
    return path


def _draw_task(panels: Sequence[Axes], summary: TaskSummary, places: Mapping[str, int]) -> None:
    for left, right, field in ((panels[0], panels[1], FIELDS[0]), (panels[2], panels[3], FIELDS[1])):
        right.sharey(left)
        right.tick_params(labelleft=False)
        left.set_yscale("log" if field == "train_loss" else "linear")
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes, against in ((left, "epochs"), (right, "seconds")):
            _draw_lines(axes, summary, field, against, places)
            axes.set_xlabel("epochs" if against == "epochs" else "seconds of training")
    panels[0].set_ylabel("training loss")
    panels[2].set_ylabel(f"evaluation {summary.metric.name}")
    if limits := focus(summary):
        panels[2].set_ylim(*limits)
        for axes in panels[2:]:
            axes.axhline(summary.target, color="0.35", linewidth=1, linestyle="--", zorder=1)
        place = (0.995, summary.target)
        panels[3].annotate("target", place, xycoords=("axes fraction", "data"), ha="right", va="top", color="0.35")


def _draw_lines(axes: Axes, summary: TaskSummary, field: Field, against: str, places: Mapping[str, int]) -> None:
    for row in summary.rows:
        points, place, own = curve(row.runs, field), places[row.label], row.optimizer == REFERENCE
        x, colour = getattr(points, against), colour_of(row.optimizer, place)
        axes.plot(
            x,
            points.mean,
            color=colour,
            label=row.label,
            linewidth=2.8 if own else 1.6,
            marker=MARKERS[place % len(MARKERS)],
            markersize=5 if own else 4,
            zorder=3 if own else 2,
        )
        low, high = points.mean - points.deviation, points.mean + points.deviation
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    tidy(axes)
