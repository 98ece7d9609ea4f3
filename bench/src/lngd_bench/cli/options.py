"""Options that several commands share, with the words that `--help` prints."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lngd_bench.cli.names import device_named, lookup, optimizers_named, tasks_named
from lngd_bench.competitors.optimizers import DEFAULT_OPTIMIZERS, OPTIMIZERS
from lngd_bench.tasks import SCALES
from lngd_bench.tasks.datasets.places import check_data_dir
from lngd_bench.tasks.execution import Precision
from lngd_bench.tasks.schedule import SCHEDULES
from lngd_bench.tasks.task import Scale, Task


def _existing(data_dir: Path | None) -> Path | None:
    check_data_dir(data_dir)
    return data_dir


Optimizers = Annotated[str, typer.Option(metavar="NAME,…", help=f"Of {', '.join(OPTIMIZERS)}.")]
Target = Annotated[
    str,
    typer.Option(
        metavar="auto|task|NUMBER",
        help="What the metric must reach; auto: what all competitors but outliers reach on average.",
    ),
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Epochs of each run.")]
DataDir = Annotated[Path | None, typer.Option(metavar="DIR", callback=_existing, help="Where data sets are looked for first.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of torch.")]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `lngd race` and `lngd tune` have in common; of a task's settings None keeps its own."""

    optimizers: Optimizers = DEFAULT_OPTIMIZERS
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where records and report go (a new directory in runs/).")] = (
        None
    )
    resume: Annotated[bool, typer.Option("--resume", help="Go on in a directory where a race ended or was broken off.")] = False
    epochs: Epochs = None
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of each run, not epochs; the schedule ends there.")] = None
    epoch_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps that count as an epoch, the unit of records and figures.")
    ] = None
    train_samples: Annotated[int | None, typer.Option(min=1, help="Only the first so many training samples.")] = None
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples a batch.")] = None
    data_dir: DataDir = None
    threads: Threads = None
    device: Annotated[str, typer.Option(help="A torch device.")] = "cpu"
    scale: Annotated[Scale, typer.Option(help=f"Of {', '.join(SCALES)}: the paper's, this machine's, a test's.")] = "here"
    schedule: Annotated[str | None, typer.Option(metavar="NAME", help=f"Instead of the task's own: {', '.join(SCHEDULES)}.")] = (
        None
    )
    interval: Annotated[
        int | None, typer.Option(min=1, help="Steps between measurements, and refreshes, of the curvature: T_FIM = T_INV.")
    ] = None
    amp: Annotated[Precision | None, typer.Option(help="Autocast to it; float16 with torch's GradScaler.")] = None
    ema: Annotated[
        float | None, typer.Option(min=0, max=1, help="Evaluate an average of the weights with this decay a step.")
    ] = None
    compiled: Annotated[bool | None, typer.Option("--compile/--no-compile", help="torch.compile each model.")] = None
    channels_last: Annotated[bool | None, typer.Option(help="That memory format for images.")] = None

    def ready(self, tasks: Sequence[str]) -> tuple[list[Task], list[str], torch.device]:
        """Tasks whose data are here, optimizers that are installed, and a device that is there.

        Raises:
            BenchError: one of them isn't: before anything has been loaded.
        """
        chosen, names = tasks_named(tasks, self.scale), optimizers_named(self.optimizers)
        for task in chosen:
            task.look_for_data(self.data_dir)
        if self.threads:
            torch.set_num_threads(self.threads)
        return chosen, names, device_named(self.device)

    def apply(self, task: Task) -> Task:
        """The task with what was given in the place of its own."""
        names = ("epochs", "steps", "epoch_steps", "batch_size", "interval")
        given: dict[str, Any] = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.epochs:
            given["budgets"] = {}
        if self.schedule:
            given |= {"schedule": lookup("schedule", self.schedule, SCHEDULES), "schedules": {}}
        if self.train_samples:
            given["samples"] = min(self.train_samples, task.samples)
        ways: dict[str, Any] = {name: getattr(self, name) for name in ("ema", "compiled", "channels_last")}
        ways["precision"] = self.amp
        execution = replace(task.execution, **{name: value for name, value in ways.items() if value is not None})
        return replace(task, execution=execution, **given)


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose last argument, `options`, is filled by the options of `RunOptions`."""
    *own, _ = inspect.signature(command).parameters.values()
    shared = inspect.signature(RunOptions).parameters

    @wraps(command)
    def run(*args: Any, **given: Any) -> None:
        options = RunOptions(**{name: given.pop(name) for name in shared})
        command(*args, **given, options=options)

    parameters = [*own, *shared.values()]
    run.__dict__["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
