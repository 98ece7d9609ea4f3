"""`lngd data`: which data sets this machine has, and getting those that have to be downloaded or prepared."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from lngd_bench.cli import options
from lngd_bench.cli.ende import ende
from lngd_bench.cli.names import lookup
from lngd_bench.cli.running import console
from lngd_bench.errors import BenchError
from lngd_bench.tasks.datasets import DATASETS
from lngd_bench.tasks.datasets.places import CACHE

FETCHED = [name for name, dataset in DATASETS.items() if dataset.fetch]

data = typer.Typer(help="The data sets of the tasks.", no_args_is_help=True)
data.command()(ende)


@data.command("list")
def show(*, data_dir: options.DataDir = None) -> None:
    """Which data sets are here, where, and how to get the others."""
    for name, dataset in DATASETS.items():
        where = dataset.where(data_dir)
        state = where or f"missing; get it with: {dataset.command}"
        console.print(f"{name:<14} {dataset.title}, {dataset.license}\n{'':<14} {state}", markup=False, soft_wrap=True)


@data.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"One of {', '.join(FETCHED)}.")],
    *,
    url: Annotated[str | None, typer.Option(help="Another address for the same files.")] = None,
    data_dir: Annotated[Path | None, typer.Option(metavar="DIR", help=f"Where they go. [{CACHE}/NAME]")] = None,
) -> None:
    """Download a data set, checked against its known hashes."""
    dataset = lookup("data set", name, DATASETS)
    if dataset.fetch is None:
        raise BenchError(f"{name} needs no download, or has none: {dataset.command}")
    bars = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(compact=True))
    with Progress(*bars, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("", total=None)

        def show_more(count: int, total: int | None) -> None:
            progress.update(bar, advance=count, total=total)

        for path in dataset.fetch(url, data_dir, show_more):
            progress.console.print(str(path), markup=False, soft_wrap=True)
            progress.reset(bar)
