"""Options that several commands share, with the words that `--help` prints."""

from pathlib import Path
from typing import Annotated

import typer

from lngd.bench.optimizers import OPTIMIZERS
from lngd.bench.tasks import TASKS

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
Epochs = Annotated[int | None, typer.Option(min=1, help="Epochs of each run.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of each run, instead of epochs; the schedule ends there.")]
EpochSteps = Annotated[int | None, typer.Option(min=1, help="Steps that count as an epoch, the unit of records and figures.")]
TrainSamples = Annotated[int | None, typer.Option(min=1, help="Only the first so many training samples.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Samples a batch.")]
DataDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Where data sets are looked for first.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of torch.")]
Device = Annotated[str, typer.Option(help="A torch device.")]
Directory = Annotated[Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="Where the records are.")]
