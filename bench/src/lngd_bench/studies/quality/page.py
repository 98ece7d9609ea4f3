"""A quality comparison on a page: a table a task, a table of ratios a pair of sides, wins, ties and losses, and the picture."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from lngd_bench.studies.quality.quality import EXTENSIONS, RESTS, TUNING_SEEDS
from lngd_bench.studies.quality.report import FAMILY, PAIRS, WAYS, Pair, Ratio, Standing, TaskQuality, Way, ratios
from lngd_bench.studies.results import MISSING, markdown, spread
from lngd_bench.tasks.metric import METRICS

WAY_TEXT: dict[Way, str] = {
    "paper": "first crossing on the full schedule (the paper's way)",
    "honest": "whole run of the shortest schedule that ends at the target",
}
TOLERATED = 1.1
"""Of a default rate's steps to the target over the tuned rate's."""
HEADINGS = (
    "optimizer",
    "tuned rate",
    "trials",
    "customary / tuned",
    "s to target",
    "reached",
    "s, whole run",
    "its steps",
)
METHOD = (
    f"Rates: a grid by factors of 2 around each optimizer's customary rate, {TUNING_SEEDS} seed from 1000 on, held-out training "
    "samples, full schedule; the rate with the fewest steps to the target wins. If the best of one is at its grid's edge, "
    f"all get 2 more trials ({EXTENSIONS} round at most). Then {RESTS} trials of the rate that AdamW has for what Muon and our "
    "methods leave to it, written as × over its default, and as many further rates for the others. Nothing is tuned again for "
    "the shorter schedules.\n\n"
    "- *customary / tuned*: steps to the target at the customary rate over those at the tuned one, from the trials; the "
    "customary rate of LNGD's methods is their default.\n"
    "- *s to target*: seconds until a run on the full schedule first reaches the target; a figure only where every seed does.\n"
    "- *s, whole run*: seconds of the shortest schedule whose final metric reaches the target in the median over seeds.\n\n"
    "Seconds are of training, without evaluations; ± is the standard deviation over seeds."
)
RATIOS = (
    "Our seconds over theirs: below 1 we are faster. In brackets the middle 95 % of a bootstrap over seeds, each side's "
    "optimizer kept as the fastest of all seeds; with few seeds it is too narrow rather than too wide. A win or a loss needs one "
    f"without 1. A target that only one side reaches decides (the ratio is {MISSING}), and one that we miss is our loss."
)
STYLES: dict[Way, tuple[str, str, str]] = {
    "paper": ("#0072B2", "o", "first crossing, full schedule"),
    "honest": ("#D55E00", "s", "whole run, shortest schedule"),
}
"""Colour, marker, legend."""
OFFSET = 0.14
"""Of a way's dots from the middle of the task's line."""
REACH = 8.0
"""Ratios beyond this or its inverse stand at the frame: there the target was missed or nearly so."""


def as_markdown(tasks: Sequence[TaskQuality]) -> str:
    """The whole page."""
    parts = ["# Time to a target\n", f"{METHOD}\n"]
    for task in tasks:
        parts += [f"## {task.task}\n", f"{caption(task)}\n", markdown(*task_table(task))]
        if found := [f"- {remark}\n" for remark in remarks(task)]:
            parts.append("".join(found))
    parts += ["## Ratios\n", f"{RATIOS}\n"]
    for pair in PAIRS:
        for way in WAYS:
            if rows := ratios(tasks, pair, way):
                table = markdown(["task", "ours", "theirs", "s", "their s", "ratio", ""], [*map(_ratio_row, rows)], words=3)
                parts += [f"### {pair.title}: {WAY_TEXT[way]}\n", table, f"{_counts(rows)}.\n"]
    return "\n".join(parts)


def summary_lines(tasks: Sequence[TaskQuality]) -> list[str]:
    """A line a pair of sides and way: wins, ties, losses."""
    found = {f"{pair.title}, {WAY_TEXT[way]}": ratios(tasks, pair, way) for pair in PAIRS for way in WAYS}
    return [f"{title}: {_counts(each)}" for title, each in found.items() if each]


def caption(task: TaskQuality) -> str:
    """What was run, how, and on what."""
    header, config = task.header, task.header.config
    metric = METRICS[config["metric"]]
    lengths = ", ".join(str(steps) for steps in sorted(task.rows[0].schedules))
    clock = {"cpu": "CPU time of the process", "wall": "wall-clock time"}[header.clock]
    return (
        f"{config['title']}. Target: {config['metric']} {metric.sign} {metric.text(config['target'])}. "
        f"Schedules of {lengths} steps of batch {config['batch_size']}, an evaluation every {config['steps_an_epoch']}; "
        f"{config['samples']} training samples, {config['note']}; {len(task.rows[0].seeds)} seeds. "
        f"{header.machine}, {header.device}, {header.threads} thread{'s' * (header.threads != 1)}, {clock}, torch {header.torch}."
    )


def task_table(task: TaskQuality) -> tuple[list[str], list[list[str]]]:
    """The headings and a row an optimizer."""
    metric = task.header.config["metric"]
    return [*HEADINGS, f"final {metric}{' %' if metric == 'accuracy' else ''}"], [_row(row, metric) for row in task.rows]


def _row(row: Standing, metric: str) -> list[str]:
    steps = row.shortest(row.seeds)
    rest = "" if row.grid.best.rest is None else f" × {row.grid.best.rest:g}"
    return [
        row.title,
        f"{row.grid.best.rate:g}{' (edge)' if row.grid.edge else ''}{rest}",
        str(len(row.grid.trials)),
        MISSING if row.customary is None else f"{row.customary:.2f}",
        _seconds(row, "paper"),
        f"{row.reached}/{len(row.full)}",
        _seconds(row, "honest"),
        MISSING if steps is None else str(steps),
        _final(row, metric),
    ]


def _seconds(row: Standing, way: Way) -> str:
    seconds = row.each(way, row.seeds)
    return spread(seconds, 2) if all(map(math.isfinite, seconds)) else MISSING


def _final(row: Standing, metric: str) -> str:
    values = [value for run in row.full.values() if (value := run.epochs[-1].metric) is not None]
    if len(values) < len(row.full):
        return f"diverged ({len(row.full) - len(values)}/{len(row.full)})"
    kind = METRICS[metric]
    return spread([kind.scale * value for value in values], kind.digits)


def _ratio_row(ratio: Ratio) -> list[str]:
    seconds = [f"{value:.2f}" if math.isfinite(value) else MISSING for value in ratio.seconds]
    low, high = (f"{bound:.2f}" if math.isfinite(bound) else "∞" for bound in ratio.interval)
    quotient = MISSING if ratio.value is None else f"{ratio.value:.2f} [{low}, {high}]"
    return [ratio.task, ratio.ours.title, ratio.theirs.title, *seconds, quotient, ratio.verdict]


def _counts(found: Sequence[Ratio]) -> str:
    counts = Counter(ratio.verdict for ratio in found)
    return f"{counts['win']} won, {counts['tie']} tied, {counts['loss']} lost"


def remarks(task: TaskQuality) -> Iterator[str]:
    """What a reader could miss: unequal trials or seeds, unlike conditions, defaults that cost more than a tenth."""
    if len({len(row.grid.trials) for row in task.rows}) > 1:
        yield f"{task.task}: not all optimizers have the same number of trials"
    if len({tuple(row.seeds) for row in task.rows}) > 1:
        yield f"{task.task}: not all optimizers have runs of the same seeds"
    headers = [run.header for row in task.rows for run in row.runs]
    if len({(header.machine, header.device, header.threads, header.clock) for header in headers}) > 1:
        yield f"{task.task}: the runs come from different machines, thread counts or clocks: seconds don't compare"
    for row in task.rows:
        if row.optimizer in FAMILY and row.customary is None:
            yield f"{task.task}: {row.title} at its default rate does not train"
        elif row.optimizer in FAMILY and row.customary and row.customary > TOLERATED:
            more = f"{100 * (row.customary - 1):.0f} %"
            yield f"{task.task}: {row.title} at its default rate takes {more} more steps than the tuned rate"


def draw(tasks: Sequence[TaskQuality]) -> Figure:
    """Dots with their intervals, a panel a pair of sides, a line a task."""
    shown = [pair for pair in PAIRS if any(ratios(tasks, pair, way) for way in WAYS)]
    figure = Figure(figsize=(9.0, 1.0 + max(1, len(shown)) * (0.9 + 0.32 * len(tasks))), layout="constrained")
    panels = figure.subplots(max(1, len(shown)), 1, sharex=True, squeeze=False)[:, 0]
    for axes, pair in zip(panels, shown, strict=False):
        _panel(axes, tasks, pair)
    panels[-1].set_xlabel("our seconds / theirs (below 1: faster)")
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(WAYS), frameon=False)
    return figure


def span(ratio: Ratio) -> tuple[float, float, float]:
    """Where the dot and the ends of its line stand; a side that misses the target is at the frame."""
    value = ratio.value or (1 / REACH if math.isfinite(ratio.seconds[0]) else REACH)
    low, high = (bound if math.isfinite(bound) else REACH for bound in ratio.interval)
    inside = [min(max(place, 1 / REACH), REACH) for place in (value, min(low, value), max(high, value))]
    return inside[0], inside[1], inside[2]


def _panel(axes: Axes, tasks: Sequence[TaskQuality], pair: Pair) -> None:
    names = [task.task for task in tasks]
    for way, shift in zip(WAYS, (-OFFSET, OFFSET), strict=True):
        colour, marker, label = STYLES[way]
        for index, ratio in enumerate(ratios(tasks, pair, way)):
            value, low, high = span(ratio)
            place = names.index(ratio.task) + shift
            axes.plot([low, high], [place, place], color=colour, linewidth=2, alpha=0.5)
            face = colour if ratio.value else "white"
            axes.plot([value], [place], marker, color=colour, markerfacecolor=face, label="" if index else label)
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
