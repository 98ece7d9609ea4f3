"""One run of a task, and the archive of all runs: what it has is not made again."""

import time
import warnings
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import mean

import torch
from torch import Generator
from torch.optim.lr_scheduler import LambdaLR

from lngd_bench.competitors.optimizers import OPTIMIZERS, is_current
from lngd_bench.ledger import Ledger, Line
from lngd_bench.studies.beyond.rivals import RIVALS, Rates
from lngd_bench.studies.beyond.task import Task
from lngd_bench.studies.beyond.tasks import TASKS
from lngd_bench.training.records import finite

FILE = "beyond.jsonl"
FOUND = ("value", "train_loss", "seconds", "refused")
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
    with warnings.catch_warnings():  # of weights that are AdamW's, and are meant to be
        warnings.filterwarnings("ignore", "only .* of the entries of the model's matrices get curvature")
        return _trained(spec)


def _trained(spec: Spec) -> Line:
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


class Runs(Ledger):
    """The runs of the archive, to which new ones are added."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, FILE, found=FOUND, keeps=is_current)

    def of(self, spec: Spec) -> Line:
        """Found, or else made; an optimizer that can't train a model leaves what it said."""
        return self.run(spec.line(), partial(_tried, spec))


def _tried(spec: Spec) -> Line:
    try:
        return trained(spec)
    except REFUSALS as error:
        reason = (str(error).splitlines() or [""])[0]
        return {**dict.fromkeys(FOUND), "refused": f"{type(error).__name__}: {reason}"}
