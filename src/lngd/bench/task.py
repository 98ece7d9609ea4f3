"""What a benchmark task is: a model, a data set, a budget and the learning rate that a grid found by optimizer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from lngd.bench.data import Split
from lngd.bench.scoring import Score, evaluate, mean_cross_entropy

Metric = Literal["accuracy", "loss"]
MeanOver = Literal["batch", "token"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One row of the benchmark.

    Attributes:
        metric: `accuracy` (a share, higher is better) or `loss` (lower is better), on the evaluation set.
        samples: training samples used, the first of the data set's fixed order.
        epoch_steps: steps that count as an epoch where a pass over the samples would take too long.
        steps: total steps, which then replaces `epochs`.
        mean_over: what the loss averages over; a language model's loss is a mean over tokens.
        step_seconds: seconds of one SGD step on two CPU cores; only the estimate of a race's length uses it.
        rates: learning rate by optimizer, from the command that stands beside them.
        target: the metric that counts as trained, for `--target task`.
    """

    name: str
    title: str
    metric: Metric
    epochs: int
    batch_size: int
    samples: int
    model: Callable[[], nn.Module]
    data: Callable[[Path | None], Split]
    rates: Mapping[str, float]
    step_seconds: float
    loss: Callable[[Tensor, Tensor], Tensor] = mean_cross_entropy
    evaluate: Callable[[nn.Module, Split], Score] = evaluate
    target: float | None = None
    epoch_steps: int | None = None
    steps: int | None = None
    weight_decay: float = 0.0
    mean_over: MeanOver = "batch"
    note: str = ""

    @property
    def steps_an_epoch(self) -> int:
        """Full batches only: every step of a run averages over the same number of samples."""
        passes = max(1, self.samples // self.batch_size)
        return min(passes, self.epoch_steps or passes)

    @property
    def total_steps(self) -> int:
        return self.steps or self.epochs * self.steps_an_epoch

    @property
    def total_epochs(self) -> int:
        """Rows of a run's record; the last epoch is shorter when `steps` cuts it."""
        return -(-self.total_steps // self.steps_an_epoch)

    def config(self) -> dict[str, str | int | float | None]:
        """What two runs must have in common to stand in one table."""
        names = (
            "title",
            "metric",
            "batch_size",
            "samples",
            "steps_an_epoch",
            "total_steps",
            "weight_decay",
            "target",
            "note",
        )
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What the command line changes in a task; None keeps the task's own value."""

    epochs: int | None = None
    steps: int | None = None
    epoch_steps: int | None = None
    train_samples: int | None = None
    batch_size: int | None = None
    rates: Mapping[str, float] = field(default_factory=dict)

    def apply(self, task: Task) -> Task:
        return replace(
            task,
            epochs=self.epochs or task.epochs,
            steps=self.steps or task.steps,
            epoch_steps=self.epoch_steps or task.epoch_steps,
            samples=min(self.train_samples or task.samples, task.samples),
            batch_size=self.batch_size or task.batch_size,
            rates={**task.rates, **self.rates},
        )
