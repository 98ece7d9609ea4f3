"""A quality comparison as Markdown and as JSON: a table a task, a table of ratios a pair of sides, wins, ties and losses."""

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from lngd_bench.report.tables import MISSING, clock_text, conditions_of, metric_text
from lngd_bench.studies.quality.quality import EXTENSIONS, TUNING_SEEDS
from lngd_bench.studies.quality.report import FAMILY, PAIRS, WAYS, Pair, Ratio, Standing, TaskQuality, Way, final, ratios
from lngd_bench.tasks.metric import METRICS
from lngd_bench.training.records import Record

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
    f"all get 2 more trials ({EXTENSIONS} round at most). The rate is not tuned again for the shorter schedules.\n\n"
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


def quality_markdown(tasks: Sequence[TaskQuality]) -> str:
    parts = ["# Time to a target", METHOD, *(_task_part(task) for task in tasks)]
    parts += ["## Ratios", RATIOS, *(_ratio_part(tasks, pair, way) for pair in PAIRS for way in WAYS)]
    return "\n\n".join(part for part in parts if part) + "\n"


def quality_json(tasks: Sequence[TaskQuality]) -> dict[str, Any]:
    """The figures of the Markdown, unrounded; what is not reached is null."""
    found = [ratio for pair in PAIRS for way in WAYS for ratio in ratios(tasks, pair, way)]
    return {"tasks": [_task_json(task) for task in tasks], "ratios": [_ratio_json(ratio) for ratio in found]}


def shortfalls(tasks: Sequence[TaskQuality]) -> list[str]:
    """What a reader could miss: unequal trials or seeds, unlike conditions, defaults that cost more than a tenth."""
    return [remark for task in tasks for remark in _remarks(task)]


def summary_lines(tasks: Sequence[TaskQuality]) -> list[str]:
    """A line a pair of sides and way: wins, ties, losses."""
    return [
        f"{pair.title}, {WAY_TEXT[way]}: {_counts(found)}"
        for pair in PAIRS
        for way in WAYS
        if (found := ratios(tasks, pair, way))
    ]


def task_rows(task: TaskQuality) -> list[list[str]]:
    """The headings and a row an optimizer."""
    metric = task.header.config["metric"]
    return [[*HEADINGS, f"final {metric}{' %' if metric == 'accuracy' else ''}"], *(_row(row, metric) for row in task.rows)]


def caption(task: TaskQuality) -> str:
    header, config = task.header, task.header.config
    sign = METRICS[config["metric"]].sign
    lengths = ", ".join(str(steps) for steps in sorted(task.rows[0].schedules))
    return (
        f"{config['title']}. Target: {config['metric']} {sign} {metric_text(config['target'], config['metric'])}. "
        f"Schedules of {lengths} steps of batch {config['batch_size']}, an evaluation every {config['steps_an_epoch']}; "
        f"{config['samples']} training samples, {config['note']}; {len(task.rows[0].seeds)} seeds. "
        f"{header.machine}, {header.device}, {header.threads} thread{'s' * (header.threads != 1)}, "
        f"{clock_text(header.clock)}, torch {header.torch}."
    )


def ratio_cell(ratio: Ratio) -> str:
    if ratio.value is None:
        return MISSING
    low, high = (f"{bound:.2f}" if math.isfinite(bound) else "∞" for bound in ratio.interval)
    return f"{ratio.value:.2f} [{low}, {high}]"


def _task_part(task: TaskQuality) -> str:
    remarks = "".join(f"\n- {remark}" for remark in _remarks(task))
    return f"## {task.task}\n\n{caption(task)}\n\n{_markdown(task_rows(task))}" + (f"\n{remarks}" if remarks else "")


def _ratio_part(tasks: Sequence[TaskQuality], pair: Pair, way: Way) -> str:
    found = ratios(tasks, pair, way)
    if not found:
        return ""
    cells = [["task", "ours", "theirs", "s", "their s", "ratio", ""], *(_ratio_row(ratio) for ratio in found)]
    return f"### {pair.title}: {WAY_TEXT[way]}\n\n{_markdown(cells)}\n\n{_counts(found)}."


def _counts(found: Sequence[Ratio]) -> str:
    counts = Counter(ratio.verdict for ratio in found)
    return f"{counts['win']} won, {counts['tie']} tied, {counts['loss']} lost"


def _row(row: Standing, metric: str) -> list[str]:
    steps = row.shortest(row.seeds)
    gain = row.customary
    return [
        row.title,
        f"{row.grid.best.rate:g}{' (edge)' if row.grid.edge else ''}",
        str(len(row.grid.trials)),
        MISSING if gain is None else f"{gain:.2f}",
        _seconds(row, "paper"),
        f"{row.reached}/{len(row.full)}",
        _seconds(row, "honest"),
        MISSING if steps is None else str(steps),
        _final(row, metric),
    ]


def _ratio_row(ratio: Ratio) -> list[str]:
    seconds = [f"{value:.2f}" if math.isfinite(value) else MISSING for value in ratio.seconds]
    return [ratio.task, ratio.ours.title, ratio.theirs.title, *seconds, ratio_cell(ratio), ratio.verdict]


def _seconds(row: Standing, way: Way) -> str:
    seconds = row.each(way, row.seeds)
    return _spread(seconds, 2) if all(map(math.isfinite, seconds)) else MISSING


def _final(row: Standing, metric: str) -> str:
    values = [value for run in row.full.values() if (value := final(run)) is not None]
    if len(values) < len(row.full):
        return f"diverged ({len(row.full) - len(values)}/{len(row.full)})"
    kind = METRICS[metric]
    return _spread([kind.scale * value for value in values], kind.digits)


def _spread(values: Sequence[float], digits: int) -> str:
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def _remarks(task: TaskQuality) -> Iterator[str]:
    if len({len(row.grid.trials) for row in task.rows}) > 1:
        yield f"{task.task}: not all optimizers have the same number of trials"
    if len({tuple(row.seeds) for row in task.rows}) > 1:
        yield f"{task.task}: not all optimizers have runs of the same seeds"
    if len({conditions_of(run.header) for row in task.rows for run in _all_runs(row)}) > 1:
        yield f"{task.task}: the runs come from different machines, thread counts or clocks: seconds don't compare"
    for row in task.rows:
        if row.optimizer in FAMILY and (row.customary is None or row.customary > TOLERATED):
            cost = (
                "does not train"
                if row.customary is None
                else f"takes {100 * (row.customary - 1):.0f} % more steps than the tuned rate"
            )
            yield f"{task.task}: {row.title} at its default rate {cost}"


def _all_runs(row: Standing) -> Iterator[Record]:
    return (run for runs in row.schedules.values() for run in runs.values())


def _cost(customary: float | None) -> str:
    if customary is None:
        return "does not train"
    return f"takes {100 * (customary - 1):.0f} % more steps to the target than at the tuned one"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ["---", *["---:"] * (len(rows[0]) - 1)], *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _task_json(task: TaskQuality) -> dict[str, Any]:
    header = task.header
    conditions = {"machine": header.machine, "threads": header.threads, "clock": header.clock, "torch": header.torch}
    return {
        "task": task.task,
        "config": dict(header.config),
        **conditions,
        "optimizers": [_standing_json(row) for row in task.rows],
    }


def _standing_json(row: Standing) -> dict[str, Any]:
    return {
        "optimizer": row.optimizer,
        "rate": row.grid.best.rate,
        "at_edge": bool(row.grid.edge),
        "trials": [{"rate": trial.rate, "steps_to_target": trial.metric} for trial in row.grid.trials],
        "customary_over_tuned": row.customary,
        "seeds": row.seeds,
        "reached": row.reached,
        "seconds": {way: _finite(row.seconds(way, row.seeds)) for way in WAYS},
        "seconds_by_seed": {way: [_finite(value) for value in row.each(way, row.seeds)] for way in WAYS},
        "shortest_steps": row.shortest(row.seeds),
        "final": [final(row.full[seed]) for seed in row.seeds],
    }


def _ratio_json(ratio: Ratio) -> dict[str, Any]:
    return {
        "pair": ratio.pair.title,
        "way": ratio.way,
        "task": ratio.task,
        "ours": ratio.ours.optimizer,
        "theirs": ratio.theirs.optimizer,
        "seconds": [_finite(value) for value in ratio.seconds],
        "ratio": ratio.value,
        "interval": [_finite(bound) for bound in ratio.interval],
        "verdict": ratio.verdict,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
