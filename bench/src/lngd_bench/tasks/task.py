"""What a benchmark task is: a model, a data set, a budget and the learning rate that a grid found by optimizer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from lngd_bench.tasks.data import Data
from lngd_bench.tasks.datasets.places import DataSet, check_data_dir
from lngd_bench.tasks.execution import Execution
from lngd_bench.tasks.metric import MetricName
from lngd_bench.tasks.schedule import LINEAR, Schedule
from lngd_bench.tasks.scoring import Score, evaluate, mean_cross_entropy

MeanOver = Literal["batch", "token"]
Scale = Literal["full", "here", "tiny"]
BatchUnit = Literal["samples", "tokens"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One row of the benchmark.

    Attributes:
        metric: a name of METRICS, measured on the evaluation set: a share for `accuracy`, 0 to 100 for `bleu`.
        scale: `full` is the paper's, `here` fits two CPU cores, `tiny` a test.
        batch_unit: what `batch_size` counts; with tokens `epoch_steps` says how long an epoch is.
        data_set: what `data` reads; None where it needs no files.
        samples: training samples used, the first of the data set's fixed order.
        epoch_steps: steps that count as an epoch where a pass over the samples would take too long.
        steps: total steps, which then replaces `epochs`.
        mean_over: what the loss averages over; a language model's loss is a mean over tokens.
        step_seconds: seconds of one SGD step on two CPU cores; only the estimate of a race's length uses it.
        rates: learning rate by optimizer, from the command that stands beside them.
        dampings, rests: by optimizer, where the search found another than its default.
        scoring: by what rules `evaluate` computes the metric, where there are several.
        tuning: fields that tuning replaces, where the metric itself is too coarse or too dear for short runs.
        interval: steps between measurements and between refreshes of the curvature, the paper's T_FIM = T_INV, for every method
            that has such intervals; None leaves each its own.
        schedules, budgets: by optimizer, where they differ from `schedule` and `epochs`.
        target: the metric that counts as trained, for `--target task`.
    """

    name: str
    title: str
    metric: MetricName
    epochs: int
    batch_size: int
    samples: int
    model: Callable[[], nn.Module]
    data: Callable[[Path | None], Data]
    rates: Mapping[str, float]
    step_seconds: float
    data_set: DataSet | None = None
    loss: Callable[[Tensor, Tensor], Tensor] = mean_cross_entropy
    evaluate: Callable[[nn.Module, Data], Score] = evaluate
    scoring: str = ""
    scale: Scale = "here"
    batch_unit: BatchUnit = "samples"
    schedule: Schedule = LINEAR
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    budgets: Mapping[str, int] = field(default_factory=dict)
    dampings: Mapping[str, float] = field(default_factory=dict)
    rests: Mapping[str, float] = field(default_factory=dict)
    tuning: Mapping[str, Any] = field(default_factory=dict)
    interval: int | None = None
    execution: Execution = field(default_factory=Execution)
    target: float | None = None
    epoch_steps: int | None = None
    steps: int | None = None
    weight_decay: float = 0.0
    mean_over: MeanOver = "batch"
    note: str = ""

    @property
    def steps_an_epoch(self) -> int:
        """Full batches only: every step of a run averages over the same number of samples."""
        if self.batch_unit == "tokens":
            assert self.epoch_steps
            return self.epoch_steps
        passes = max(1, self.samples // self.batch_size)
        return min(passes, self.epoch_steps or passes)

    @property
    def total_steps(self) -> int:
        return self.steps or self.epochs * self.steps_an_epoch

    @property
    def total_epochs(self) -> int:
        """Rows of a run's record; the last epoch is shorter when `steps` cuts it."""
        return -(-self.total_steps // self.steps_an_epoch)

    def of(self, optimizer: str) -> "Task":
        """With the schedule and the number of epochs that the optimizer has here."""
        schedule = self.schedules.get(optimizer, self.schedule)
        return replace(self, schedule=schedule, epochs=self.budgets.get(optimizer, self.epochs), schedules={}, budgets={})

    def look_for_data(self, data_dir: Path | None = None) -> None:
        """Reads none of it.

        Raises:
            BenchError: the named directory does not exist, or the data set is nowhere; the message says how to get it.
        """
        check_data_dir(data_dir)
        if self.data_set:
            self.data_set.found(data_dir)

    def config(self) -> dict[str, Any]:
        """What a run must have in common with its continuation, and mostly with the others of its table."""
        names = ("title", "metric", "batch_size", "samples", "steps_an_epoch", "total_steps", "weight_decay")
        own = {name: getattr(self, name) for name in (*names, "target", "note", "scale", "batch_unit")}
        own |= {"schedule": str(self.schedule), "execution": str(self.execution)}
        return own | ({"interval": self.interval} if self.interval else {})
