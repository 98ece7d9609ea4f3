"""`lngd table` and `lngd figure`: what records say, without running anything."""

from pathlib import Path
from typing import Annotated

import typer

from lngd_bench.cli import options
from lngd_bench.cli.names import target_given
from lngd_bench.cli.running import console
from lngd_bench.errors import BenchError
from lngd_bench.report.report import load_summaries, write_figures, write_page, write_tables
from lngd_bench.report.summary import Target, TaskSummary
from lngd_bench.report.tables import caption, shortfalls, text_table
from lngd_bench.studies.fisher.redraw import REDRAWN
from lngd_bench.studies.paper.command import is_number, paper_figure, paper_table, redraw

What = Annotated[str, typer.Argument(metavar="DIR|NUMBER", help="A directory of records, or a number of the paper's.")]
Records = Annotated[Path | None, typer.Argument(metavar="[DIR]", help="With a number: the records. [docs/results/paper/TASK]")]


def table(what: What, directory: Records = None, *, target: options.Target = "auto") -> None:
    """Print the tables of a directory's records and write table.md; or the paper's table 1, 2, 3, 5 or 6, ours beside it."""
    if is_number(what):
        paper_table(int(what), _there(directory), target_given(target))
        return
    place = _records(what)
    summaries = load_summaries(place, target_given(target))
    _print_tables(summaries)
    console.print(f"\n{write_tables(summaries, place)}", soft_wrap=True, markup=False)


def figure(what: What, directory: Records = None, *, target: options.Target = "auto") -> None:
    """Draw a figure a task from a directory's records, and report.html around them; or the paper's figure 1 to 7."""
    if not is_number(what):
        place = _records(what)
        _write_all(load_summaries(place, target_given(target)), place)
    elif what in REDRAWN:
        redraw(what, _there(directory))
    else:
        paper_figure(int(what), _there(directory), target_given(target))


def _records(name: str) -> Path:
    path = _there(Path(name))
    assert path
    return path


def _there(directory: Path | None) -> Path | None:
    if directory and not directory.is_dir():
        raise BenchError(f"there is no directory {directory}; give one with records, or a number of the paper's")
    return directory


def present(directory: Path, target: Target) -> None:
    """All that a race ends with."""
    summaries = load_summaries(directory, target)
    _print_tables(summaries)
    _write_all(summaries, directory)


def _print_tables(summaries: list[TaskSummary]) -> None:
    for summary in summaries:
        console.print(f"\n[bold]{summary.task}[/bold]")
        console.print(caption(summary), markup=False)
        console.print(text_table(summary, console.width), markup=False, no_wrap=True, overflow="ignore", crop=False)
        for remark in shortfalls(summary):
            console.print(f"! {remark}", markup=False)


def _write_all(summaries: list[TaskSummary], directory: Path) -> None:
    tables = write_tables(summaries, directory)
    figures = write_figures(summaries, directory)
    written = [tables, *figures, write_page(summaries, directory / "report.html")]
    console.print("\nWritten: " + ", ".join(str(path) for path in written), soft_wrap=True, markup=False)
