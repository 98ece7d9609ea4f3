"""`lngd report`: one page that compares the runs of any directories."""

from pathlib import Path
from typing import Annotated

import typer

from lngd_bench.cli import options
from lngd_bench.cli.names import target_given
from lngd_bench.cli.running import console, make_directory
from lngd_bench.errors import BenchError
from lngd_bench.report.comparison import compare, differences
from lngd_bench.report.report import write_page
from lngd_bench.report.summary import TaskSummary

Directories = Annotated[
    list[Path], typer.Argument(metavar="DIR…", exists=True, file_okay=False, help="Searched with all in them.")
]


def report(
    directories: Directories,
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page.")] = Path("report.html"),
    target: options.Target = "auto",
) -> None:
    """Write a page with a sortable table and charts for each task of any directories' records.

    Runs that differ in settings, machine, threads or clock get tables of their own.
    """
    goal = target_given(target)
    if out.is_dir():
        raise BenchError(f"--out {out}: that is a directory; name a file, such as {out / 'report.html'}")
    make_directory(out.parent)
    summaries = compare(directories, goal)
    for summary, difference in zip(summaries, differences(summaries), strict=True):
        console.print(_said(summary, difference), markup=False, soft_wrap=True)
    console.print(f"\nWritten: {_written(summaries, out)}", soft_wrap=True, markup=False)


def _written(summaries: list[TaskSummary], out: Path) -> Path:
    try:
        return write_page(summaries, out)
    except OSError as error:
        raise BenchError(f"--out {out}: {error.strerror or error}; choose another file") from error


def _said(summary: TaskSummary, difference: str) -> str:
    optimizers, runs = len(summary.rows), sum(len(row.runs) for row in summary.rows)
    rest = f" ({difference})" if difference else ""
    return f"{summary.task}: {optimizers} row{'s' * (optimizers != 1)}, {runs} run{'s' * (runs != 1)}{rest}"
