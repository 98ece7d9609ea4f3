"""`lngd table` and `lngd figure`: what records say, without running anything."""

from pathlib import Path

from lngd.bench.report import load_summaries, write_figures, write_page, write_tables
from lngd.bench.summary import Target, TaskSummary
from lngd.bench.tables import caption, shortfalls, text_table
from lngd.cli import options
from lngd.cli.names import target_given
from lngd.cli.running import console


def table(directory: options.Directory, *, target: options.Target = "auto") -> None:
    """Print the tables of a directory's records and write table.md."""
    summaries = load_summaries(directory, target_given(target))
    _print_tables(summaries)
    console.print(f"\n{write_tables(summaries, directory)}", soft_wrap=True, markup=False)


def figure(directory: options.Directory, *, target: options.Target = "auto") -> None:
    """Draw a figure a task from a directory's records, and report.html around them."""
    _write_all(load_summaries(directory, target_given(target)), directory)


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
