"""From the words of a command line to the objects they name, or to what could have been meant."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.competitors.peers import check_installed
from lngd_bench.errors import BenchError
from lngd_bench.report.summary import Target
from lngd_bench.tasks import TASKS, at_scale
from lngd_bench.tasks.schedule import SCHEDULES, Schedule
from lngd_bench.tasks.task import Scale, Task

Thing = TypeVar("Thing")

NAMED_TARGETS: Mapping[str, Target] = {"auto": "auto", "task": "task"}


def lookup(kind: str, name: str, table: Mapping[str, Thing]) -> Thing:
    """The table's entry.

    Raises:
        BenchError: there is none; the message has the nearest name and all of them.
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise BenchError(f"no {kind} {name!r}.{hint} Valid: {', '.join(table)}")


def tasks_named(names: Iterable[str], scale: Scale = "here") -> list[Task]:
    """Raises BenchError where a task does not exist, or not at the scale."""
    known = [lookup("task", name, TASKS).name for name in dict.fromkeys(names)]
    return [at_scale(name, scale) for name in known]


def schedule_named(name: str | None) -> Schedule | None:
    """None keeps the task's own."""
    return None if name is None else lookup("schedule", name, SCHEDULES)


def names_listed(kind: str, listed: str, table: Mapping[str, Thing]) -> list[str]:
    """Names of a table, separated by commas, each once."""
    names = list(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))
    for name in names:
        lookup(kind, name, table)
    if not names:
        raise BenchError(f"no {kind} named; valid: {', '.join(table)}")
    return names


def optimizers_named(listed: str) -> list[str]:
    """Raises BenchError, before any work, where a third party's is not installed."""
    names = names_listed("optimizer", listed, OPTIMIZERS)
    for module in (OPTIMIZERS[name].module for name in names):
        if module:
            check_installed(module)
    return names


def rates_given(options: Iterable[str]) -> dict[str, float]:
    """`name=value` options."""
    return dict(_figure("--lr", "a rate", option) for option in options)


def dampings_given(options: Iterable[str]) -> dict[str, float]:
    """`name=value` options."""
    return dict(_figure("--damping", "a damping", option) for option in options)


def target_given(text: str) -> Target:
    if text in NAMED_TARGETS:
        return NAMED_TARGETS[text]
    try:
        return float(text)
    except ValueError as error:
        raise BenchError(f"--target {text}: give auto, task or a number such as 0.9") from error


def _figure(flag: str, thing: str, option: str) -> tuple[str, float]:
    name, _, value = option.partition("=")
    lookup("optimizer", name, OPTIMIZERS)
    try:
        figure = float(value)
    except ValueError as error:
        raise BenchError(f"{flag} {option}: give it as NAME=VALUE, such as lngd=0.5") from error
    if not figure > 0:
        raise BenchError(f"{flag} {option}: {thing} is greater than 0")
    return name, figure
