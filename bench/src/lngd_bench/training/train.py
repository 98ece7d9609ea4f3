"""One run: a task, an optimizer, a rate and a seed; an epoch at a time, so that a race can interleave its runs."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from lngd.linalg import LinAlgError
from lngd_bench.clock import clock
from lngd_bench.competitors.optimizers import OPTIMIZERS, Setting
from lngd_bench.tasks.data import Batch, Data
from lngd_bench.tasks.execution import scaled_step
from lngd_bench.tasks.schedule import scheduler
from lngd_bench.tasks.scoring import Score
from lngd_bench.tasks.task import Task
from lngd_bench.training.processes import mean_of_all, own_part, wrapped
from lngd_bench.training.randomness import PrivateRandomness
from lngd_bench.training.records import Epoch, finite


@dataclass(frozen=True)
class RunSpec:
    """What tells one run from another."""

    task: Task
    optimizer: str
    lr: float
    seed: int
    damping: float | None = None
    rest: float | None = None

    @property
    def file_name(self) -> str:
        chosen = {"damping": self.damping, "rest": self.rest}
        further = "".join(f"--{name}{value:g}" for name, value in chosen.items() if value is not None)
        return f"{self.task.name}--{self.optimizer}--lr{self.lr:g}{further}--seed{self.seed}.jsonl"

    def ended_by(self, epoch: Epoch) -> bool:
        return epoch.diverged or epoch.epoch == self.task.total_epochs


PARTS = ("model", "optimizer", "schedule", "batches", "scaler", "average")  # of a learner, in the order of their restoration


class DivergenceError(ArithmeticError):
    """The run can't go on; the message is the reason that its record gives."""


class Learner:
    """A model in training; the same seed gives every competitor the same initial weights and the same batches.

    Attributes:
        watch: told the number of steps after each; its time is the step's, so it must take next to none.
    """

    watch: Callable[[int], None] | None = None

    def __init__(self, spec: RunSpec, data: Data) -> None:
        task = spec.task
        setting = Setting(
            lr=spec.lr,
            damping=spec.damping,
            rest=spec.rest,
            weight_decay=task.weight_decay,
            mean_over=task.mean_over,
            interval=task.interval,
        )
        self.task, self.data = task, data
        self.device = data.device
        self.model = task.execution.prepared(task.model(), self.device)
        self.optimizer = OPTIMIZERS[spec.optimizer].build(self.model, setting)
        self.schedule = scheduler(self.optimizer, task.schedule, task.total_steps)
        self.batches = data.batches(task.batch_size, torch.Generator().manual_seed(spec.seed))
        self.scaler = task.execution.scaler(self.device)
        self.average = task.execution.average(self.model)
        self.called = wrapped(self.model)
        self.steps_done = 0

    def train_epoch(self) -> float:
        """Mean training loss of the epoch's batches.

        Raises:
            DivergenceError: a loss is not finite, or the optimizer's linear algebra fails on what the divergence left.
        """
        steps = min(self.task.steps_an_epoch, self.task.total_steps - self.steps_done)
        try:
            losses = [self.step(batch) for batch in islice(self.batches, steps)]
        except LinAlgError as error:
            raise DivergenceError(str(error)) from error
        finally:
            self.batches.close()  # the next run's time must not pay for what this one loads
        return math.fsum(losses) / len(losses)

    def score(self) -> Score:
        """Raises DivergenceError where the evaluation loss is not finite."""
        with self.task.execution.autocast(self.device):
            score = self.task.evaluate(self.model if self.average is None else self.average, self.data)
        if not math.isfinite(score.loss):
            raise DivergenceError(f"evaluation loss {score.loss} after step {self.steps_done}")
        return score

    def largest_norm(self) -> float:
        """The largest 2-norm of a parameter tensor."""
        return max(p.detach().norm().item() for p in self.model.parameters())

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, in plain containers, numbers and tensors."""
        parts = {name: part.state_dict() for name in PARTS if (part := getattr(self, name)) is not None}
        return parts | {"steps_done": self.steps_done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises KeyError, ValueError, RuntimeError or TypeError where it is another learner's."""
        for name in PARTS:
            if (part := getattr(self, name)) is not None:
                part.load_state_dict(state[name])
        self.steps_done = state["steps_done"]

    def step(self, batch: Batch) -> float:
        """Reading the loss waits for the device, for every competitor alike; it is what ends a diverged run."""
        x, y = own_part(batch)
        self.optimizer.zero_grad()
        with self.task.execution.autocast(self.device):
            loss = self.task.loss(self.called(x), y)
        value = mean_of_all(loss)
        if not math.isfinite(value):
            raise DivergenceError(f"training loss {value} at step {self.steps_done + 1}")
        scaled_step(loss, self.optimizer, self.scaler)
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.steps_done += 1
        if self.watch:
            self.watch(self.steps_done)
        return value


class Run:
    """A run between two of its epochs, where it can be saved and the global random state is the caller's own."""

    def __init__(self, spec: RunSpec, data: Data) -> None:
        self.spec, self.epochs_done, self.diverged = spec, 0, False
        self.randomness = PrivateRandomness(spec.seed)
        with self.randomness.active():
            self.learner = Learner(spec, data)

    @property
    def over(self) -> bool:
        return self.diverged or self.epochs_done == self.spec.task.total_epochs

    def epoch(self) -> Epoch:
        """The next one."""
        assert not self.over
        self.epochs_done += 1
        with self.randomness.active():
            row = _epoch(self.learner, self.epochs_done)
        self.diverged = row.diverged
        return row

    def state_dict(self) -> dict[str, Any]:
        """Loaded into a new run of the same specification, it gives the same epochs, bit for bit."""
        return {"learner": self.learner.state_dict(), "randomness": self.randomness.state, "epochs_done": self.epochs_done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises KeyError, ValueError, RuntimeError or TypeError where it is another run's; this one is then of no use."""
        self.learner.load_state_dict(state["learner"])
        self.randomness.state = state["randomness"]
        self.epochs_done = state["epochs_done"]


def train(spec: RunSpec, data: Data) -> Iterator[Epoch]:
    """The epochs of a run."""
    run = Run(spec, data)
    while not run.over:
        yield run.epoch()


def warm_up(spec: RunSpec, data: Data) -> None:
    """One step of a throwaway model: what a library prepares at its first call is not the first competitor's cost."""
    with PrivateRandomness(spec.seed).active():
        learner = Learner(spec, data)
        learner.step(next(learner.batches))
        learner.batches.close()


def _epoch(learner: Learner, number: int) -> Epoch:
    started = clock(learner.device)
    seconds = math.nan
    try:
        train_loss = learner.train_epoch()
        seconds = clock(learner.device) - started
        score = learner.score()
    except DivergenceError as end:
        spent = clock(learner.device) - started if math.isnan(seconds) else seconds
        return _diverged(number, learner.steps_done, spent, str(end))
    return Epoch(
        epoch=number,
        step=learner.steps_done,
        train_loss=finite(train_loss),
        eval_loss=score.loss,
        metric=getattr(score, learner.task.metric),
        seconds=seconds,
        largest_norm=finite(learner.largest_norm()),
    )


def _diverged(number: int, step: int, seconds: float, reason: str) -> Epoch:
    missing = {"train_loss": None, "eval_loss": None, "metric": None}
    return Epoch(epoch=number, step=step, seconds=seconds, diverged=True, reason=reason, **missing)
