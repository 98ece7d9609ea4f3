"""The list of commands: a new one is a function in a file of its own and a name here."""

import sys
import warnings
from typing import Annotated

import typer
from rich.console import Console

from lngd.version import versions
from lngd_bench.cli.data import data
from lngd_bench.cli.race import race
from lngd_bench.cli.show import figure, report, table
from lngd_bench.cli.tune import tune
from lngd_bench.errors import BenchError
from lngd_bench.studies.fisher.command import fisher
from lngd_bench.studies.gaussian.command import gaussian
from lngd_bench.studies.overhead.command import overhead
from lngd_bench.studies.quality.command import quality
from lngd_bench.studies.scaling.command import scaling
from lngd_bench.studies.theory.command import theory

app = typer.Typer(
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,  # boxes cut words in a narrow terminal
    pretty_exceptions_enable=False,
)


@app.callback()
def lngd(*, version: Annotated[bool, typer.Option("--version", help="Versions of lngd, torch and Python.")] = False) -> None:
    """Races optimizers on real tasks and prints the tables and figures."""
    if version:
        typer.echo(versions())
        raise typer.Exit


for command in (race, tune, quality, table, figure, report, overhead, scaling, fisher, gaussian, theory):
    app.command()(command)
app.add_typer(data, name="data")
for listed in (*app.registered_commands, *data.registered_commands):  # else a list of commands cuts it at 45 characters
    listed.short_help = (listed.callback.__doc__ or "").partition("\n")[0]


def run() -> None:
    """A mistake of the user's is one line on standard error and exit status 2."""
    warnings.showwarning = _show_warning
    try:
        app()
    except BenchError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"lngd: {error}", markup=False)
        sys.exit(2)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """The message without the source line that Python would add."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"warning: {message}", markup=False)
