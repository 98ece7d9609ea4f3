"""The list of commands: a new one is a function in a file of its own and a line here."""

import sys
import warnings

import typer
from rich.console import Console

from lngd.bench.errors import BenchError
from lngd.cli.data import data
from lngd.cli.doctor import doctor
from lngd.cli.fisher import fisher
from lngd.cli.gaussian import gaussian
from lngd.cli.overhead import overhead
from lngd.cli.quality import quality
from lngd.cli.race import race
from lngd.cli.report import report
from lngd.cli.scaling import scaling
from lngd.cli.show import figure, table
from lngd.cli.theory import theory
from lngd.cli.tune import tune

app = typer.Typer(
    help="Races optimizers on real tasks and prints the tables and figures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(race)
app.command()(tune)
app.command()(quality)
app.command()(table)
app.command()(figure)
app.command()(report)
app.command()(overhead)
app.command()(scaling)
app.command()(fisher)
app.command()(gaussian)
app.command()(theory)
app.command()(doctor)
app.add_typer(data, name="data")


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
