"""One run of a task, and the archive of all runs: what it has is not made again."""

import json
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Generator
from torch.optim.lr_scheduler import LambdaLR

from lngd_bench import archive
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.studies.beyond.rivals import RIVALS, Rates
from lngd_bench.studies.beyond.task import Task
from lngd_bench.studies.beyond.tasks import TASKS
from lngd_bench.training.records import finite

Line = dict[str, Any]
FILE = "beyond.jsonl"
REFUSALS = (RuntimeError, TypeError, ValueError, IndexError)
"""What an optimizer raises that can't train a model."""


@dataclass(frozen=True)
class Spec:
    """What identifies a run."""

    task: str
    optimizer: str
    rates: Rates
    seed: int
    steps: int

    def line(self) -> Line:
        """A method with other defaults makes another run."""
        defaults = OPTIMIZERS[self.optimizer].fingerprint
        about = {"task": self.task, "optimizer": self.optimizer, "defaults": defaults}
        return {**about, **asdict(self.rates), "seed": self.seed, "steps": self.steps}


def trained(spec: Spec) -> Line:
    """The held-out value and the CPU seconds of training; no value where a loss is not finite."""
    task = TASKS[spec.task]
    torch.manual_seed(spec.seed)
    model, draw, losses = task.model(), Generator().manual_seed(spec.seed), list[float]()
    began = time.process_time()
    optimizer = RIVALS[spec.optimizer].build(model, task, spec.rates)
    schedule = LambdaLR(optimizer, lambda step: 1 - step / spec.steps)
    for _ in range(spec.steps):
        optimizer.zero_grad()
        loss = task.loss(model, draw)
        losses.append(loss.item())
        if finite(losses[-1]) is None:
            break
        loss.backward()
        optimizer.step()
        schedule.step()
    seconds = time.process_time() - began
    value = None if finite(losses[-1]) is None else finite(evaluated(task, model))
    return {"value": value, "train_loss": finite(mean(losses[-20:])), "seconds": seconds, "refused": None}


@torch.no_grad()
def evaluated(task: Task, model: torch.nn.Module) -> float:
    """What the trained model is worth."""
    model.eval()
    return task.held_out(model)


class Ledger:
    """The runs of an archive, to which new ones are added."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[Line] = archive.read(path).get(FILE, []) if path.exists() else []
        self.places = {json.dumps({name: line[name] for name in _identity(line)}): line for line in self.lines}

    def run(self, spec: Spec) -> Line:
        """The archive's own, or a new one, which is printed."""
        key = json.dumps(spec.line())
        if key not in self.places:
            try:
                found = trained(spec)
            except REFUSALS as error:
                reason = (str(error).splitlines() or [""])[0]
                found = {"value": None, "train_loss": None, "seconds": None, "refused": f"{type(error).__name__}: {reason}"}
            line = {**spec.line(), **found, "date": datetime.now(UTC).isoformat(timespec="seconds")}
            self.lines.append(line)
            self.places[key] = line
            archive.write(self.path, {FILE: self.lines})
            print(json.dumps(line), flush=True)
        return self.places[key]


def _identity(line: Line) -> list[str]:
    return [name for name in line if name in ("task", "optimizer", "defaults", "lr", "ratio", "seed", "steps")]
