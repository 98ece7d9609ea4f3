"""`lngd table N` and `lngd figure N`: the paper's tables and figures from records of ours."""

from dataclasses import replace
from pathlib import Path

from lngd_bench import archive
from lngd_bench.cli.running import console
from lngd_bench.errors import BenchError
from lngd_bench.report.report import place_beside
from lngd_bench.report.summary import Target, summarise
from lngd_bench.report.tables import written
from lngd_bench.studies.fisher.redraw import REDRAWN, redraw
from lngd_bench.studies.paper.paper import TABLES, PaperTable
from lngd_bench.studies.paper.tables import Comparison
from lngd_bench.training.records import read_records

RESULTS = Path(f"results/paper{archive.ENDING}")
FIGURES = {str(table.figure): table for table in TABLES.values() if table.number != 1}
"""The table with the same runs, by the figure's number."""


def is_number(what: str) -> bool:
    return what.isdigit() and not Path(what).exists()


def paper_table(number: int, source: Path | None, target: Target) -> None:
    """Print it; if records were named, write table-N.md beside them.

    Raises:
        BenchError: the paper has no such table of numbers.
    """
    if number not in TABLES:
        formulas = "; its Table 4 is a table of formulas: docs/methods.md has them"
        raise BenchError(f"the paper's tables with numbers are {', '.join(map(str, TABLES))}, not {number}{formulas}")
    comparison = _comparison(TABLES[number], source, target)
    console.print(f"Table {number}: {comparison.table.title}", markup=False)
    console.print(f"{written(comparison.rows(), 'simple')}\n", markup=False, soft_wrap=True)
    for claim, verdict, because in comparison.judgements():
        console.print(f"{verdict.upper()}: {claim.text} ({because})", markup=False, soft_wrap=True)
    if source:
        path = place_beside(source) / f"table-{number}.md"
        archive.put(path, comparison.markdown().encode())
        console.print(f"\nWritten: {path}", markup=False, soft_wrap=True)


def paper_figure(number: str, source: Path | None, target: Target) -> None:
    """Draw figure-N.png beside the records; 1, 5 and 6 from what `lngd fisher` and `lngd gaussian` have recorded.

    Raises:
        BenchError: the paper has no such figure, or there is nothing to draw it from.
    """
    if number in REDRAWN:
        path = redraw(number, source)
    elif number in FIGURES:
        path = _draw(number, source, target)
    else:
        raise BenchError(f"the paper has figures 1 to 7, not {number}")
    console.print(f"Written: {path}", markup=False, soft_wrap=True)


def _draw(number: str, source: Path | None, target: Target) -> Path:
    from lngd_bench.report.plots import draw

    table = FIGURES[number]
    comparison = _comparison(table, source, target)
    if comparison.summary is None:
        raise BenchError(f"no runs to draw; {_command(table)} makes some")
    rows = tuple(ours for _, ours in comparison.methods() if ours)
    place = place_beside(source or RESULTS / table.task)
    return draw([replace(comparison.summary, rows=rows)], place / f"figure-{number}.png")


def _comparison(table: PaperTable, source: Path | None, target: Target) -> Comparison:
    """Where nothing else is said, the target is the task's own, or automatic where it has none.

    Raises:
        BenchError: a source that was named holds runs of several tasks or none.
    """
    if source is None and not RESULTS.exists():
        return Comparison(table, None)
    place = source or RESULTS / table.task
    summaries = summarise(read_records(place), "task" if target == "auto" else target)
    if len(summaries) != 1:
        names = ", ".join(summary.task for summary in summaries) or "no finished run"
        raise BenchError(f"{place} holds {names}: one task's runs make a table; {_command(table)} makes them")
    return Comparison(table, summaries[0])


def _command(table: PaperTable) -> str:
    optimizers = ",".join(row.optimizer for row in table.rows)
    return f"lngd race {table.task} --optimizers {optimizers} --seeds 3 --out runs/paper/{table.task}"
