"""`lngd data`: which data sets this machine has, and getting the one that has to be downloaded."""

from pathlib import Path
from typing import Annotated

import typer

from lngd.bench.datasets import DATASETS, fashion
from lngd.bench.errors import BenchError
from lngd.cli import options
from lngd.cli.ende import ende
from lngd.cli.names import lookup
from lngd.cli.running import console

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
    name: Annotated[str, typer.Argument(metavar="NAME", help="fashion-mnist")],
    *,
    url: Annotated[str, typer.Option(help="Where the four files lie.")] = fashion.URL,
    data_dir: Annotated[Path | None, typer.Option(metavar="DIR", help=f"Where they go. [{fashion.CACHE}]")] = None,
) -> None:
    """Download a data set, checked against its known hashes."""
    dataset = lookup("data set", name, DATASETS)
    if name != "fashion-mnist":
        raise BenchError(f"{name} needs no download: {dataset.command}")
    for path in fashion.fetch(url, data_dir):
        console.print(str(path), markup=False, soft_wrap=True)
