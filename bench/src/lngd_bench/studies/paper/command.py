"""`lngd table N` and `lngd figure N`: the paper's tables and figures from records of ours."""

from dataclasses import replace
from pathlib import Path

from lngd_bench.cli.running import console
from lngd_bench.errors import BenchError
from lngd_bench.report.summary import Target, summarise
from lngd_bench.studies.fisher.redraw import REDRAWN, place_of
from lngd_bench.studies.paper.paper import TABLES, PaperTable
from lngd_bench.studies.paper.tables import Comparison, markdown, text
from lngd_bench.training.records import read_records

RESULTS = Path("docs/results/paper")
FIGURES = {table.figure: table.number for table in TABLES.values() if table.number != 1}
"""The table with the same runs, by the figure's number."""
FORMULAS = 4


def is_number(what: str) -> bool:
    return what.isdigit() and not Path(what).exists()


def paper_table(number: int, directory: Path | None, target: Target) -> None:
    """Print it and write table-N.md beside the records."""
    comparison = _comparison(_table(number), directory, target)
    console.print(f"Table {number}: {comparison.table.title}", markup=False)
    console.print(text(comparison, console.width), markup=False, soft_wrap=True)
    if directory:
        path = directory / f"table-{number}.md"
        path.write_text(markdown(comparison), encoding="utf-8")
        console.print(f"\nWritten: {path}", markup=False, soft_wrap=True)


def paper_figure(number: int, directory: Path | None, target: Target) -> None:
    """Draw it into figure-N.png beside the records.

    Raises:
        BenchError: the paper has no such figure, or there are no runs to draw.
    """
    if number not in FIGURES:
        raise BenchError(f"the paper has figures 1 to 7, not {number}")
    table = TABLES[FIGURES[number]]
    comparison = _comparison(table, directory, target)
    if comparison.summary is None:
        raise BenchError(f"no runs to draw; {_command(table)} makes some")
    from lngd_bench.report.plots import draw

    shown = [line.ours for line in comparison.lines() if line.ours]
    path = draw(replace(comparison.summary, rows=tuple(shown)), (directory or _default(table)) / f"figure-{number}.png")
    console.print(f"Written: {path}", markup=False, soft_wrap=True)


def redraw(number: str, directory: Path | None) -> None:
    """Figures 1, 5 and 6, from what `lngd fisher` and `lngd gaussian` have recorded.

    Raises:
        BenchError: there is no record, or it is from before records held what the figure shows.
    """
    place = directory or place_of(number)
    console.print(f"Written: {REDRAWN[number].draw(place, place)}", markup=False, soft_wrap=True)


def _table(number: int) -> PaperTable:
    if number == FORMULAS:
        raise BenchError("the paper's Table 4 is a table of formulas: docs/methods.md has them")
    if number not in TABLES:
        raise BenchError(f"the paper has tables 1 to 6, not {number}; with numbers are {', '.join(map(str, TABLES))}")
    return TABLES[number]


def _comparison(table: PaperTable, directory: Path | None, target: Target) -> Comparison:
    """Where nothing else is said, the target is the task's own, or automatic where it has none.

    Raises:
        BenchError: a directory that was named holds runs of several tasks or none.
    """
    if directory is None and not _default(table).is_dir():
        return Comparison(table, None)
    place = directory or _default(table)
    summaries = summarise(read_records(place), "task" if target == "auto" else target)
    if len(summaries) != 1 and (directory or summaries):
        names = ", ".join(summary.task for summary in summaries) or "no finished run"
        raise BenchError(f"{place} holds {names}: one task's runs make a table; {_command(table)} makes them")
    return Comparison(table, summaries[0] if summaries else None)


def _default(table: PaperTable) -> Path:
    return RESULTS / table.task


def _command(table: PaperTable) -> str:
    optimizers = ",".join(row.optimizer for row in table.rows)
    return f"lngd race {table.task} --optimizers {optimizers} --seeds 3 --out {_default(table)}"
