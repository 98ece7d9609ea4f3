"""From the words of a command line to the objects they name, or to what could have been meant."""

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar, cast

import torch

from lngd_bench.competitors import peers
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.errors import BenchError
from lngd_bench.report.summary import Target
from lngd_bench.tasks import TASKS, at_scale
from lngd_bench.tasks.task import Scale, Task

Thing = TypeVar("Thing")


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
    return [at_scale(lookup("task", name, TASKS).name, scale) for name in dict.fromkeys(names)]


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
    for module in filter(None, (OPTIMIZERS[name].third_party for name in names)):
        peers.library(module)
    return names


def figures_given(flag: str, options: Iterable[str]) -> dict[str, float]:
    """`NAME=VALUE` options, by optimizer."""
    figures = {}
    for option in options:
        name, _, value = option.partition("=")
        lookup("optimizer", name, OPTIMIZERS)
        try:
            figures[name] = float(value)
        except ValueError as error:
            raise BenchError(f"{flag} {option}: give it as NAME=VALUE, such as lngd=0.5") from error
        if not figures[name] > 0:
            raise BenchError(f"{flag} {option}: the value must be greater than 0")
    return figures


def refuse_unused(flag: str, figures: Iterable[str], takers: Collection[str]) -> None:
    """Raises BenchError for an optimizer that has no such thing to set."""
    for name in figures:
        if name not in takers:
            raise BenchError(f"{flag} {name}=…: {name} has none; it is for {', '.join(sorted(takers))}")


def target_given(text: str) -> Target:
    """Raises BenchError where it is neither a word nor a number."""
    if text in ("auto", "task"):
        return cast("Target", text)
    try:
        return float(text)
    except ValueError as error:
        raise BenchError(f"--target {text}: give auto, task or a number such as 0.9") from error


def device_named(name: str) -> torch.device:
    """A torch device that is there."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise BenchError(f"--device {name}: {str(error).splitlines()[0]}") from error
