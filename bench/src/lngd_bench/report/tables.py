"""A summary as text: cells, a table that fits the width of a terminal, and Markdown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lngd_bench.clock import Clock
from lngd_bench.report import grid
from lngd_bench.report.summary import Row, Spread, TaskSummary
from lngd_bench.tasks.metric import METRICS
from lngd_bench.training.records import Header

MISSING = "–"
MIXED = "the runs come from different machines, thread counts or clocks"


@dataclass(frozen=True)
class Column:
    """A heading and what a row has under it.

    Attributes:
        value: what rows are sorted by; None, which is last, where the row has nothing.
        dispensable: how early the column goes when the terminal is too narrow; 0 is never.
    """

    heading: str
    cell: Callable[[Row, TaskSummary], str]
    value: Callable[[Row], float | str | None]
    dispensable: int = 0


def _hit(row: Row, figure: float | None, shape: str) -> str:
    if figure is not None:
        return format(figure, shape)
    return f"{MISSING} ({row.reached}/{len(row.runs)})" if row.reached else MISSING


def metric_text(value: float, metric: str) -> str:
    return METRICS[metric].text(value)


def spread_text(spread: Spread | None, scale: float, digits: int) -> str:
    if spread is None:
        return MISSING
    deviation = "" if spread.deviation is None else f" ± {scale * spread.deviation:.{digits}f}"
    return f"{scale * spread.mean:.{digits}f}{deviation}"


def _mean(spread: Spread | None) -> float | None:
    return None if spread is None else spread.mean


def _best(row: Row, summary: TaskSummary) -> str:
    metric = METRICS[summary.metric]
    return spread_text(row.best, metric.scale, metric.digits)


def _train_loss(row: Row, _: TaskSummary) -> str:
    if row.diverged:
        return f"diverged ({row.diverged}/{len(row.runs)})"
    return spread_text(row.train_loss, 1, 4)


def _saved(row: Row, _: TaskSummary) -> str:
    return "" if row.saved is None else f"{100 * row.saved:z.0f} %"


def _rates(row: Row, _: TaskSummary) -> str:
    return f"{row.runs[0].header.lr:g}"


def columns(summary: TaskSummary) -> list[Column]:
    """The paper's columns, then ours; the metric's heading says its unit."""
    return [
        Column("optimizer", lambda row, _: row.label, lambda row: row.label),
        Column("rate", _rates, lambda row: row.runs[0].header.lr, 4),
        Column("epochs", lambda row, _: _hit(row, row.epochs, ".1f"), lambda row: row.epochs),
        Column("seconds", lambda row, _: _hit(row, row.seconds, ".2f"), lambda row: row.seconds),
        Column("s/epoch", lambda row, _: spread_text(row.epoch_seconds, 1, 3), lambda row: row.epoch_seconds.mean, 2),
        Column("LNGD saves", _saved, lambda row: row.saved, 1),
        Column(METRICS[summary.metric].heading, _best, lambda row: _mean(row.best)),
        Column("train loss", _train_loss, lambda row: None if row.diverged else _mean(row.train_loss), 3),
    ]


def cells(summary: TaskSummary, shown: Sequence[Column]) -> list[list[str]]:
    return [[column.cell(row, summary) for column in shown] for row in summary.rows]


def fitting(summary: TaskSummary, width: int) -> list[Column]:
    return grid.fitting(columns(summary), partial(_grid, summary), width)


def text_table(summary: TaskSummary, width: int) -> str:
    """Aligned columns within the width, the caption above and what was left out below."""
    shown = fitting(summary, width)
    gone = [column.heading for column in columns(summary) if column.heading not in {kept.heading for kept in shown}]
    note = [f"(no room for: {', '.join(gone)}; table.md has all)"] if gone else []
    return "\n".join([*grid.aligned(_grid(summary, shown)), *note])


def caption(summary: TaskSummary) -> str:
    """Task, target and how it was set, size and place of the runs: what a reader must know to judge the figures."""
    header, config = summary.header, summary.header.config
    metric = METRICS[summary.metric]
    seeds = sorted({run.header.seed for row in summary.rows for run in row.runs})
    return (
        f"{config['title']}. Target: {metric.name} {metric.sign} {metric.text(summary.target)} "
        f"({summary.target_meaning}). {config['total_steps']} steps of batch {config['batch_size']}{_unit(config)}, "
        f"{config['samples']} training samples, {config['note']}; {len(seeds)} seed{'s' * (len(seeds) != 1)}. "
        f"{header.machine}, {header.device}, {header.threads} thread{'s' * (header.threads != 1)}, "
        f"{clock_text(header.clock)}, torch {header.torch}{header.scoring and f', {metric.name} by {header.scoring}'}."
    )


def _unit(config: Mapping[str, Any]) -> str:
    """Records from before there was a choice count samples."""
    return " tokens" if config.get("batch_unit") == "tokens" else ""


def clock_text(clock: Clock) -> str:
    """What seconds are of."""
    return {"cpu": "CPU time of the process", "wall": "wall-clock time"}[clock]


def conditions_of(header: Header) -> tuple[str, str, int, Clock]:
    """What two runs must have in common for their seconds to compare."""
    return header.machine, header.device, header.threads, header.clock


def are_mixed(rows: Sequence[Row]) -> bool:
    """Their runs were made under several conditions."""
    return len({conditions_of(run.header) for row in rows for run in row.runs}) > 1


def markdown_table(summary: TaskSummary) -> str:
    """Every column, for a README."""
    return f"### {summary.task}\n\n{caption(summary)}\n\n{grid.markdown(_grid(summary, columns(summary)))}\n"


def shortfalls(summary: TaskSummary) -> list[str]:
    """What a reader could miss: runs that are not there, that diverged, or that were made under other conditions."""
    most = max(len(row.runs) for row in summary.rows)
    lacking = [f"{row.label} has {len(row.runs)} of {most} runs" for row in summary.rows if len(row.runs) < most]
    ends = [
        f"{row.label}, seed {run.header.seed}, diverged: {run.epochs[-1].reason}"
        for row in summary.rows
        for run in row.runs
        if run.diverged
    ]
    mixed = [f"{MIXED}: seconds don't compare"] if are_mixed(summary.rows) else []
    return [*lacking, *ends, *mixed, *_lengths(summary), *_versions(summary)]


def _lengths(summary: TaskSummary) -> list[str]:
    """The caption has the first row's only."""
    configs = {row.label: row.runs[0].header.config for row in summary.rows}
    told = {label: f"{config['total_steps']}, {config.get('schedule', 'linear')}" for label, config in configs.items()}
    if len(set(told.values())) == 1:
        return []
    return [f"steps and schedule are each optimizer's own: {'; '.join(f'{label} {text}' for label, text in told.items())}"]


def _versions(summary: TaskSummary) -> list[str]:
    found = sorted({run.header.torch for row in summary.rows for run in row.runs})
    return [f"the runs were made with torch {' and '.join(found)}"] if len(found) > 1 else []


def _grid(summary: TaskSummary, shown: Sequence[Column]) -> grid.Grid:
    return [[column.heading for column in shown], *cells(summary, shown)]
