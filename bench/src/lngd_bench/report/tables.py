"""A summary as text: one set of cells for the terminal, for Markdown and for the page."""

import math
import statistics
from collections.abc import Mapping, Sequence

from tabulate import tabulate

from lngd_bench.clock import Clock
from lngd_bench.report.summary import Figure, Row, TaskSummary
from lngd_bench.tasks.metric import Metric
from lngd_bench.training.records import Header

MISSING = "–"
MIXED = "the runs come from different machines, thread counts or clocks"

CLOCKS = {"cpu": "CPU time of the process", "wall": "wall-clock time"}
"""What seconds are of."""

Cells = Mapping[str, str]  # a row of a table by heading, the first column words


def cells(row: Row, metric: Metric) -> Cells:
    """The paper's columns, then ours; a target that some seed missed is a dash, with the number of those that reached it."""
    diverged = sum(run.diverged for run in row.runs)
    return {
        "optimizer": row.label,
        "rate": f"{row.header.lr:g}" if row.header.rest is None else f"{row.header.lr:g} × {row.header.rest:g}",
        "epochs": _to_target(row, "epochs", 1),
        "seconds": _to_target(row, "seconds", 2),
        "s/epoch": spread_text(row, "epoch_seconds", 3),
        "LNGD saves": "" if row.saved is None else f"{100 * row.saved:z.0f} %",
        metric.heading: spread_text(row, "best", metric.digits, metric.scale),
        "train loss": f"diverged ({diverged}/{len(row.runs)})" if diverged else spread_text(row, "train_loss", 4),
    }


def spread_text(row: Row, figure: Figure, digits: int, scale: float = 1) -> str:
    """Mean and standard deviation; one value has no deviation."""
    values = row.values(figure)
    if not values:
        return MISSING
    deviation = f" ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * statistics.mean(values):.{digits}f}{deviation}"


def _to_target(row: Row, figure: Figure, digits: int) -> str:
    mean, reached = row.mean(figure), sum(own["epochs"] is not None for own in row.figures)
    if mean is not None:
        return f"{mean:.{digits}f}"
    return f"{MISSING} ({reached}/{len(row.runs)})" if reached else MISSING


def written(rows: Sequence[Cells], form: str = "pipe", *, numbers: bool = True) -> str:
    """As Markdown, "simple" for a terminal, or "html" with everything escaped; `numbers`: all columns but the first are."""
    align = ["left", *["right" if numbers else "left"] * (len(rows[0]) - 1)]
    return tabulate(rows, headers="keys", tablefmt=form, disable_numparse=True, colalign=align)


def markdown(summary: TaskSummary) -> str:
    """A part of a page: title, caption, table, remarks."""
    difference = f"In a table of its own for {summary.difference}.\n\n" if summary.difference else ""
    remarks = "".join(f"- {remark}\n" for remark in shortfalls(summary))
    table = written([cells(row, summary.metric) for row in summary.rows])
    return f"### {summary.task}\n\n{difference}{caption(summary)}\n\n{table}\n" + (f"\n{remarks}" if remarks else "")


def caption(summary: TaskSummary) -> str:
    """Task, target and how it was set, size and place of the runs: what a reader must know to judge the figures."""
    header, config, metric = summary.header, summary.header.config, summary.metric
    seeds = len({header.seed for header in summary.headers})
    unit = " tokens" if config.get("batch_unit") == "tokens" else ""  # old records, which don't say, count samples
    target = f"{metric.name} {metric.sign} {metric.text(summary.target)} ({summary.target_meaning})"
    target = target if math.isfinite(summary.target) else "none, no run has a finite figure"
    return (
        f"{config['title']}. Target: {target}. {config['total_steps']} steps of batch {config['batch_size']}{unit}, "
        f"{config['samples']} training samples, {config['note']}; {seeds} seed{'s' * (seeds != 1)}. "
        f"{header.machine}, {header.device}, {header.threads} thread{'s' * (header.threads != 1)}, "
        f"{CLOCKS[header.clock]}, torch {header.torch}{header.scoring and f', {metric.name} by {header.scoring}'}."
    )


def shortfalls(summary: TaskSummary) -> list[str]:
    """What a reader could miss: runs that are not there, that diverged, or that are not quite like the others."""
    most = max(len(row.runs) for row in summary.rows)
    remarks = [f"{row.label} has {len(row.runs)} of {most} runs" for row in summary.rows if len(row.runs) < most]
    remarks += [
        f"{row.label}, seed {run.header.seed}, diverged: {run.epochs[-1].reason}"
        for row in summary.rows
        for run in row.runs
        if run.diverged
    ]
    if are_mixed(summary.rows):
        remarks.append(f"{MIXED}: seconds don't compare")
    configs = {row.label: row.header.config for row in summary.rows}
    lengths = {label: f"{config['total_steps']}, {config.get('schedule', 'linear')}" for label, config in configs.items()}
    if len(set(lengths.values())) > 1:
        told = "; ".join(f"{label} {length}" for label, length in lengths.items())
        remarks.append(f"steps and schedule are each optimizer's own: {told}")
    versions = sorted({header.torch for header in summary.headers})
    return [*remarks, *[f"the runs were made with torch {' and '.join(versions)}"][: len(versions) - 1]]


def commands(summary: TaskSummary) -> Mapping[str, str]:
    """The day of the first run by command."""
    found: dict[str, str] = {}
    for header in sorted(summary.headers, key=lambda header: header.date):
        found.setdefault(header.command or "lngd race", header.date[:10])
    return found


def conditions_of(header: Header) -> tuple[str, str, int, Clock]:
    """What two runs must have in common for their seconds to compare."""
    return header.machine, header.device, header.threads, header.clock


def are_mixed(rows: Sequence[Row]) -> bool:
    """Their runs were made under several conditions."""
    return len({conditions_of(run.header) for row in rows for run in row.runs}) > 1
