"""Runs of any directories side by side: which of them may stand in one table, and in what one table differs from another.

A table has runs of one task under the same conditions and the same settings. The length and the schedule of a run may be its
optimizer's own, as in one race: runs of a directory whose optimizers differ in them stay together, and are joined with
those of another directory only where all of its optimizers have the same there.
"""

import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from lngd_bench.errors import BenchError
from lngd_bench.report.summary import Target, TaskSummary, summarise
from lngd_bench.report.tables import conditions_of
from lngd_bench.training.records import Header, Record, read_below
from lngd_bench.training.tune import FIRST_SEED

OWN = ("total_steps", "schedule")
"""Of a configuration, what an optimizer may have of its own in a race."""

CONDITIONS = ("task", "machine", "device", "threads", "clock")

Found = tuple[Path, Record]
Thing = TypeVar("Thing")


def compare(directories: Sequence[Path], target: Target = "auto") -> list[TaskSummary]:
    """A summary for each table; those of one task are neighbours.

    Raises:
        BenchError: there is no finished run.
    """
    found = list(read_below(directories))
    if not found:
        named = ", ".join(map(str, directories))
        raise BenchError(f"no finished run in {named}; lngd race TASK --out DIR makes some")
    tables = [summarise(_once(table), target)[0] for table in tables_of(found)]
    tasks = list(dict.fromkeys(summary.task for summary in tables))
    return sorted(tables, key=lambda summary: tasks.index(summary.task))


def tables_of(found: Sequence[Found]) -> list[list[Found]]:
    """Runs that belong together."""
    tables = []
    for alike in _grouped(found, lambda run: _shared(run[1].header)):
        lengths = {folder: _lengths(runs) for folder, runs in _by_folder(alike).items()}
        tables += _grouped(alike, lambda run: _joined(run, lengths[run[0].parent]))  # noqa: B023  # called at once
    return tables


def differences(summaries: Sequence[TaskSummary]) -> list[str]:
    """For each summary, what is not the same in all of its task; empty where it is alone."""
    facets = [_facets(summary) for summary in summaries]
    return [_difference(own, [other for other in facets if other["task"] == own["task"]]) for own in facets]


def _shared(header: Header) -> Hashable:
    config = {name: value for name, value in header.config.items() if name not in OWN}
    return header.task, json.dumps(config, sort_keys=True), conditions_of(header), _is_trial(header)


def _is_trial(header: Header) -> bool:
    """Trials are evaluated on held-out training samples and have seeds of their own."""
    return header.seed >= FIRST_SEED


def _length(record: Record) -> str:
    return json.dumps({name: record.header.config.get(name) for name in OWN}, sort_keys=True)


def _lengths(runs: Iterable[Found]) -> Mapping[str, set[str]]:
    """By optimizer."""
    lengths = defaultdict(set)
    for _, record in runs:
        lengths[record.header.optimizer].add(_length(record))
    return lengths


def _joined(run: Found, lengths: Mapping[str, set[str]]) -> Hashable:
    """The run's own length where all have one, or where an optimizer has several; otherwise that of every optimizer."""
    one_each = all(len(own) == 1 for own in lengths.values())
    if one_each and len(set.union(*lengths.values())) > 1:
        return frozenset((optimizer, *own) for optimizer, own in lengths.items())
    return _length(run[1])


def _by_folder(found: Iterable[Found]) -> Mapping[Path, list[Found]]:
    folders = defaultdict(list)
    for path, record in found:
        folders[path.parent].append((path, record))
    return folders


def _grouped(things: Iterable[Thing], key: Callable[[Thing], Hashable]) -> list[list[Thing]]:
    """In the order of first appearance."""
    groups: dict[Hashable, list[Thing]] = {}
    for thing in things:
        groups.setdefault(key(thing), []).append(thing)
    return list(groups.values())


def _once(table: Sequence[Found]) -> list[Record]:
    """Each seed of an optimizer, rate and damping once, the latest; a second one would pass for another seed."""
    kept: dict[Hashable, Found] = {}
    for path, record in sorted(table, key=lambda run: run[1].header.date, reverse=True):
        header = record.header
        first, _ = kept.setdefault((header.optimizer, header.lr, header.damping, header.seed), (path, record))
        if first != path:
            warnings.warn(f"{path}: the same run as {first}, not counted", stacklevel=3)
    return [record for path, record in table if (path, record) in kept.values()]


def _facets(summary: TaskSummary) -> Mapping[str, str]:
    """What a reader would call the settings of a table."""
    headers = [run.header for row in summary.rows for run in row.runs]
    config = dict.fromkeys(name for header in headers for name in header.config)
    values = {name: {_said(header.config.get(name)) for header in headers} for name in config}
    values |= {name: {str(getattr(header, name)) for header in headers} for name in CONDITIONS}
    values["runs"] = {"trials on held-out samples" if _is_trial(header) else "reported ones" for header in headers}
    return {name: " / ".join(sorted(texts)) for name, texts in values.items()}


def _said(value: object) -> str:
    return "none" if value is None else str(value)


def _difference(own: Mapping[str, str], others: Sequence[Mapping[str, str]]) -> str:
    names = dict.fromkeys(name for facets in others for name in facets)
    differing = [name for name in names if len({facets.get(name) for facets in others}) > 1]
    return "; ".join(f"{name.replace('_', ' ')}: {own.get(name, 'not recorded')}" for name in differing)
