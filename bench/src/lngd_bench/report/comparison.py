"""Runs of any sources side by side: which of them may stand in one table, and in what one table differs from another.

A table has runs of one task under the same conditions and the same settings. The length and the schedule of a run may be its
optimizer's own, as in one race: runs of a directory whose optimizers differ in them stay together, and are joined with
those of another directory only where all of its optimizers have the same there. Trials of a search, which are evaluated on
held-out training samples, are shown only where there is nothing else.
"""

import json
import warnings
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lngd_bench.report.summary import Target, TaskSummary, summary_of
from lngd_bench.report.tables import conditions_of
from lngd_bench.training.records import Header, Record
from lngd_bench.training.tune import FIRST_SEED

OWN = ("total_steps", "schedule")
"""Of a configuration, what an optimizer may have of its own in a race."""
CONDITIONS = ("machine", "device", "threads", "clock")

Found = tuple[Path, Record]


def compare(found: Iterable[Found], target: Target = "auto") -> list[TaskSummary]:
    """A summary for each table, which says in what it differs from others of its task; those of a task are neighbours."""
    runs = list(found)
    runs = [run for run in runs if run[1].header.seed < FIRST_SEED] or runs
    folders: dict[tuple[Path, Hashable], set[tuple[str, str]]] = defaultdict(set)
    for path, record in runs:
        folders[path.parent, _settings(record.header)].add((record.header.optimizer, _length(record)))
    tables: dict[Hashable, list[Found]] = defaultdict(list)
    for path, record in runs:
        settings = _settings(record.header)
        tables[settings, _joined(record, folders[path.parent, settings])].append((path, record))
    tasks = list(dict.fromkeys(record.header.task for _, record in runs))
    summaries = sorted((summary_of(_once(table), target) for table in tables.values()), key=lambda table: tasks.index(table.task))
    facets = [_facets(summary) for summary in summaries]
    return [
        replace(summary, difference=_difference(own, [other for other in facets if other["task"] == own["task"]]))
        for summary, own in zip(summaries, facets, strict=True)
    ]


def _settings(header: Header) -> Hashable:
    """All that the runs of a table share."""
    config = {name: value for name, value in header.config.items() if name not in OWN}
    return header.task, json.dumps(config, sort_keys=True), conditions_of(header)


def _length(record: Record) -> str:
    return json.dumps([record.header.config.get(name) for name in OWN])


def _joined(record: Record, lengths: set[tuple[str, str]]) -> Hashable:
    """The run's own length where all have one, or where an optimizer has several; otherwise that of every optimizer."""
    one_each = len({optimizer for optimizer, _ in lengths}) == len(lengths)
    return frozenset(lengths) if one_each and len({length for _, length in lengths}) > 1 else _length(record)


def _once(table: Sequence[Found]) -> list[Record]:
    """Each seed of an optimizer, its rates and damping once, the latest; a second one would pass for another seed."""
    kept: dict[Hashable, Found] = {}
    for path, record in sorted(table, key=lambda run: run[1].header.date, reverse=True):
        header = record.header
        first, _ = kept.setdefault((header.optimizer, header.lr, header.damping, header.rest, header.seed), (path, record))
        if first != path:
            warnings.warn(f"{path}: the same run as {first}, not counted", stacklevel=3)
    latest = {path for path, _ in kept.values()}
    return [record for path, record in table if path in latest]


def _facets(summary: TaskSummary) -> Mapping[str, str]:
    """What a reader would call the settings of a table."""
    headers = summary.headers
    values = {name: {str(header.config.get(name)) for header in headers} for header in headers for name in header.config}
    values |= {name: {str(getattr(header, name)) for header in headers} for name in ("task", *CONDITIONS)}
    return {name: " / ".join(sorted(texts)) for name, texts in values.items()}


def _difference(own: Mapping[str, str], others: Sequence[Mapping[str, str]]) -> str:
    names = dict.fromkeys(name for facets in others for name in facets)
    differing = [name for name in names if len({facets.get(name) for facets in others}) > 1]
    return "; ".join(f"{name.replace('_', ' ')}: {own.get(name, 'not recorded')}" for name in differing)
