"""Options that several commands share, with the words that `--help` prints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lngd_bench.cli.names import lookup
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.errors import BenchError
from lngd_bench.tasks import SCALES, TASKS
from lngd_bench.tasks.execution import Precision
from lngd_bench.tasks.schedule import SCHEDULES, Schedule
from lngd_bench.tasks.task import Scale


def _existing(data_dir: Path | None) -> Path | None:
    if data_dir and not data_dir.is_dir():
        raise BenchError(f"--data-dir {data_dir}: there is no such directory")
    return data_dir


TaskNames = Annotated[list[str] | None, typer.Argument(metavar="TASK…", help=f"Any of {', '.join(TASKS)}.")]
TaskName = Annotated[str, typer.Argument(metavar="TASK", help=f"One of {', '.join(TASKS)}.")]
Optimizers = Annotated[str, typer.Option(metavar="NAME,…", help=f"Of {', '.join(OPTIMIZERS)}.")]
Target = Annotated[
    str,
    typer.Option(
        metavar="auto|task|NUMBER",
        help="What the metric must reach; auto: what all competitors but outliers reach on average.",
    ),
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Where records and report go (a new directory in runs/).")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on in a directory where a race ended or was broken off.")]
TaskScale = Annotated[Scale, typer.Option("--scale", help=f"Of {', '.join(SCALES)}: the paper's, this machine's, a test's.")]
ScheduleName = Annotated[
    str | None, typer.Option("--schedule", metavar="NAME", help=f"Instead of the task's own: {', '.join(SCHEDULES)}.")
]
Interval = Annotated[
    int | None, typer.Option(min=1, help="Steps between measurements, and refreshes, of the curvature: T_FIM = T_INV.")
]
Amp = Annotated[Precision | None, typer.Option("--amp", help="Autocast to it; float16 with torch's GradScaler.")]
Ema = Annotated[
    float | None, typer.Option("--ema", min=0, max=1, help="Evaluate an average of the weights with this decay a step.")
]
Compile = Annotated[bool | None, typer.Option("--compile/--no-compile", help="torch.compile each model.")]
ChannelsLast = Annotated[bool | None, typer.Option("--channels-last/--no-channels-last", help="That memory format for images.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Epochs of each run.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of each run, instead of epochs; the schedule ends there.")]
EpochSteps = Annotated[int | None, typer.Option(min=1, help="Steps that count as an epoch, the unit of records and figures.")]
TrainSamples = Annotated[int | None, typer.Option(min=1, help="Only the first so many training samples.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Samples a batch.")]
DataDir = Annotated[Path | None, typer.Option(metavar="DIR", callback=_existing, help="Where data sets are looked for first.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of torch.")]
Device = Annotated[str, typer.Option(help="A torch device.")]


def schedule_named(name: str | None) -> Schedule | None:
    """None keeps the task's own."""
    return None if name is None else lookup("schedule", name, SCHEDULES)


def execution(
    amp: Precision | None, ema: float | None, *, compiled: bool | None, channels_last: bool | None
) -> Mapping[str, Any]:
    """What was given, to replace the task's own."""
    fields = {"precision": amp, "ema": ema, "compiled": compiled, "channels_last": channels_last}
    return {name: value for name, value in fields.items() if value is not None}
