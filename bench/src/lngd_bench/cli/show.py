"""`lngd table`, `lngd figure` and `lngd report`: what records say, without running anything."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lngd_bench.archive import ENDING
from lngd_bench.cli import options
from lngd_bench.cli.names import target_given
from lngd_bench.cli.running import console, make_directory
from lngd_bench.errors import BenchError
from lngd_bench.report.report import load_summaries, place_beside, write_figures, write_page, write_study, write_tables
from lngd_bench.report.summary import Target, TaskSummary
from lngd_bench.report.tables import caption, cells, shortfalls, written
from lngd_bench.studies.paper.command import is_number, paper_figure, paper_table

What = Annotated[
    str, typer.Argument(metavar="SOURCE|NUMBER", help=f"A directory of records, a *{ENDING}, or a number of the paper's.")
]
Records = Annotated[Path | None, typer.Argument(metavar="[SOURCE]", help="With a number: records. [results/paper.jsonl.gz/TASK]")]
Sources = Annotated[list[Path], typer.Argument(metavar="SOURCE…", help=f"Directories, all in them counts, or *{ENDING}.")]


def table(what: What, source: Records = None, *, target: options.Target = "auto") -> None:
    """Print the tables of records and write table.md; or the paper's table 1, 2, 3, 5 or 6, ours beside it."""
    if is_number(what):
        paper_table(int(what), source, target_given(target))
        return
    summaries = load_summaries([Path(what)], target_given(target), below=False)
    _print_tables(summaries)
    _written(write_tables(summaries, place_beside(Path(what))))


def figure(what: What, source: Records = None, *, target: options.Target = "auto") -> None:
    """Draw a figure a task from records, and report.html around them; or the paper's figure 1 to 7."""
    if is_number(what):
        paper_figure(what, source, target_given(target))
    else:
        _write_all(load_summaries([Path(what)], target_given(target), below=False), place_beside(Path(what)))


def report(
    sources: Sources,
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page. [report.html in the one directory given, else in this one]")
    ] = None,
    into: Annotated[
        Path | None, typer.Option(metavar="STUDY", help="Write STUDY.md, STUDY.png and STUDY.jsonl.gz instead of a page.")
    ] = None,
    target: options.Target = "auto",
) -> None:
    """Write a page with a table and charts for each task of any records.

    Runs that differ in settings, machine, threads or clock get tables of their own.
    """
    out = out or (sources[0] if len(sources) == 1 and sources[0].is_dir() else Path()) / "report.html"
    if out.is_dir():
        raise BenchError(f"--out {out}: that is a directory; name a file, such as {out / 'report.html'}")
    make_directory((into or out).parent)
    summaries = load_summaries(sources, target_given(target))
    for summary in summaries:
        rest = summary.difference and f" ({summary.difference})"
        told = f"rows: {len(summary.rows)}, runs: {len(summary.headers)}"
        console.print(f"{summary.task}, {told}{rest}", markup=False, soft_wrap=True)
    try:
        _written(*(write_study(summaries, sources, into) if into else [write_page(summaries, out)]))
    except OSError as error:
        raise BenchError(f"{into or out}: {error.strerror or error}; choose another file") from error


def present(directory: Path, target: Target) -> None:
    """All that a race ends with."""
    summaries = load_summaries([directory], target, below=False)
    _print_tables(summaries)
    _write_all(summaries, directory)


def _print_tables(summaries: Sequence[TaskSummary]) -> None:
    for summary in summaries:
        console.print(f"\n{summary.task}{summary.difference and f' ({summary.difference})'}", style="bold", markup=False)
        console.print(caption(summary), markup=False)
        console.print(written([cells(row, summary.metric) for row in summary.rows], "simple"), markup=False, soft_wrap=True)
        for remark in shortfalls(summary):
            console.print(f"! {remark}", markup=False)


def _write_all(summaries: Sequence[TaskSummary], place: Path) -> None:
    tables = write_tables(summaries, place)
    _written(tables, *write_figures(summaries, place), write_page(summaries, place / "report.html"))


def _written(*paths: Path) -> None:
    console.print("\nWritten: " + ", ".join(map(str, paths)), soft_wrap=True, markup=False)
