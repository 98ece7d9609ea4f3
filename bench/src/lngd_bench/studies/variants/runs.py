"""Runs of an optimizer that no race knows, and their archive, to which each is added as it ends."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import nn
from torch.optim import Optimizer

from lngd_bench import archive
from lngd_bench.competitors.optimizers import OPTIMIZERS, Competitor, Setting
from lngd_bench.tasks.data import Data
from lngd_bench.tasks.task import Task
from lngd_bench.training.records import Epoch
from lngd_bench.training.train import RunSpec, train

NAME = "candidate"
FOUND = ("train_loss", "metric", "diverged", "date")
"""Of a line, beside what identifies the run."""
Line = dict[str, Any]
Build = Callable[[nn.Module, Setting], Optimizer]


def built(method: Callable[..., Optimizer]) -> Build:
    """One of this library's methods with the runner's rate."""
    return lambda model, setting: method(model, lr=setting.lr, mean_over=setting.mean_over)


def last_epoch(task: Task, build: Build, lr: float, seed: int, data: Data | None = None) -> Epoch:
    """What a run of the optimizer ends with."""
    with patch.dict(OPTIMIZERS, {NAME: Competitor(NAME, build, lr, 1.0)}):
        *_, last = train(RunSpec(task, NAME, lr, seed), task.data(None) if data is None else data)
    return last


@dataclass(frozen=True)
class Wanted:
    """One run: what identifies it, as in its record, and how it is made."""

    about: Mapping[str, Any]
    measure: Callable[[], Epoch]


def add(path: Path, file: str, wanted: Iterable[Wanted]) -> Iterator[Line]:
    """Makes every run that the archive's file lacks. Gives each with its training loss, metric and date."""
    files = archive.read(path) if path.exists() else {}
    lines = files.setdefault(file, [])
    for run in wanted:
        about = json.loads(json.dumps(run.about, default=repr))
        if any(about == {name: value for name, value in line.items() if name not in FOUND} for line in lines):
            continue
        last = run.measure()
        end = {"train_loss": last.train_loss, "metric": last.metric, "diverged": last.diverged}
        lines.append({**about, **end, "date": datetime.now(UTC).isoformat(timespec="seconds")})
        archive.write(path, files)
        yield lines[-1]
