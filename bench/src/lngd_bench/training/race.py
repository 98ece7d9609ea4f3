"""Several runs at once, an epoch of each in turn: whatever else the machine does slows all competitors alike."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import torch

from lngd_bench.clock import CPU
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.errors import BenchError
from lngd_bench.tasks.data import Data
from lngd_bench.tasks.task import Task
from lngd_bench.training.machine import header
from lngd_bench.training.recorded import RecordedRun, discard_checkpoint
from lngd_bench.training.records import Epoch, Record, read_record, read_run
from lngd_bench.training.train import RunSpec, warm_up

Watch = Callable[[RunSpec, int], None]
"""Told a run and its number of steps after each step, inside the time that is measured: it must take next to none."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a race runs and what it leaves behind.

    Attributes:
        held_out: evaluate on a part of the training samples, as tuning does.
        command: the command line, which the records and the report repeat.
        tensorboard: write event files too.
    """

    out: Path
    data_dir: Path | None = None
    device: torch.device = CPU
    held_out: bool = False
    command: str = ""
    tensorboard: bool = False


def plan(tasks: Sequence[Task], optimizers: Sequence[str], seeds: Sequence[int]) -> list[RunSpec]:
    """Runs by task and seed, every optimizer at the task's own rates, damping, schedule and length for it."""
    return [
        RunSpec(task.of(name), name, rate_of(task, name), seed, task.dampings.get(name), task.rests.get(name))
        for task in tasks
        for seed in seeds
        for name in optimizers
    ]


def rate_of(task: Task, optimizer: str) -> float:
    return task.rates.get(optimizer, OPTIMIZERS[optimizer].customary)


def estimated_seconds(specs: Sequence[RunSpec]) -> float:
    """From the tasks' step times, measured on two cores."""
    return sum(spec.task.total_steps * step_seconds(spec) for spec in specs)


def step_seconds(spec: RunSpec) -> float:
    """From the same tables."""
    return spec.task.step_seconds * OPTIMIZERS[spec.optimizer].cost


def unfinished(specs: Sequence[RunSpec], out: Path, *, resume: bool) -> list[RunSpec]:
    """The runs that a directory lacks or that were broken off in it.

    Raises:
        BenchError: it holds records, whole or not, and nobody said `--resume`, or they were made with other settings.
    """
    if not resume and any(out.glob("*.jsonl*")):
        raise BenchError(f"{out} holds records already: continue them with --resume, or choose another --out")
    return [spec for spec in specs if not _finished(spec, out / spec.file_name)]


def _finished(spec: RunSpec, path: Path) -> bool:
    """A kill between a run's end and the removal of its checkpoint is made good here."""
    found = read_run(path)
    if found and found.header.config != spec.task.config():
        raise BenchError(f"{path} was run with other settings ({found.header.config}): choose another --out")
    if found is None or not found.finished:
        return False
    discard_checkpoint(path)
    return True


def race(specs: Sequence[RunSpec], place: Place, watch: Watch | None = None) -> Iterator[tuple[RunSpec, Epoch]]:
    """Every epoch as it ends. Data is loaded once a task; the runs of one seed take turns.

    Runs that were broken off go on after their last epoch.
    """
    for _, runs in groupby(specs, key=lambda spec: spec.task.name):
        of_task = list(runs)
        data = _loaded(of_task[0].task, place)
        for _, heat in groupby(of_task, key=lambda spec: spec.seed):
            yield from _heat(list(heat), data, place, watch)


def records_of(specs: Sequence[RunSpec], out: Path) -> list[Record]:
    return [read_record(out / spec.file_name) for spec in specs]


def _loaded(task: Task, place: Place) -> Data:
    data = task.data(place.data_dir).first(task.samples)
    return (data.held_out() if place.held_out else data).to(place.device)


def _heat(specs: list[RunSpec], data: Data, place: Place, watch: Watch | None) -> Iterator[tuple[RunSpec, Epoch]]:
    for spec in {spec.optimizer: spec for spec in specs}.values():
        warm_up(spec, data)
    waiting = deque(
        RecordedRun(spec, data, place.out / spec.file_name, header(spec, place.device, place.command)) for spec in specs
    )
    for run in (each.run for each in waiting):
        run.learner.watch = partial(watch, run.spec) if watch else None
    while waiting:
        turn = waiting.popleft()
        row = turn.epoch()
        if not turn.run.over:
            waiting.append(turn)
        yield turn.run.spec, row
