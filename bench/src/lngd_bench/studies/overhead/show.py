"""The terminal's view of what a step costs: tables of at most a hundred columns, and the files beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from lngd_bench.cli.running import console
from lngd_bench.errors import BenchError
from lngd_bench.report.tables import plain_table
from lngd_bench.studies.overhead.plot import draw
from lngd_bench.studies.overhead.prediction import Prediction
from lngd_bench.studies.overhead.records import Page
from lngd_bench.studies.overhead.report import (
    HEADINGS,
    MISSING,
    breakdown_headings,
    breakdown_rows,
    caption,
    markdown,
    number,
    profiled,
    rows,
    title,
)

WIDTH = 100
STAGES = ("measure", "refresh", "precondition", "orthogonalise", "rate", "apply")


def show(pages: Sequence[Page], directory: Path) -> None:
    """Prints every page and writes overhead.md and overhead.png.

    Raises:
        BenchError: the directory has no records.
    """
    if not pages:
        raise BenchError(f"{directory} has no records of lngd overhead")
    narrow = Console(width=WIDTH, highlight=False)
    for page in pages:
        narrow.print("", f"{page.workload.title}. {caption(page)}.", plain_table(HEADINGS, rows(page), words=1), sep="\n")
        if profiled(page):
            narrow.print(plain_table(breakdown_headings(page), breakdown_rows(page), words=1))
    (directory / "overhead.md").write_text(markdown(pages), encoding="utf-8")
    chart = draw(pages, directory / "overhead.png")
    console.print(f"Written: {directory / 'overhead.md'}, {chart}", soft_wrap=True, markup=False)


def show_predictions(found: Mapping[str, Mapping[str, Prediction]]) -> None:
    """A method a row: the ratio, SGD's step, and what each stage adds, in milliseconds."""
    headings = ("optimizer", "ratio", "network", "SGD", *STAGES)
    narrow = Console(width=WIDTH, highlight=False)
    for name, predictions in found.items():
        lines = [_line(method, prediction) for method, prediction in predictions.items()]
        narrow.print("", f"{name}, on paper; milliseconds", plain_table(headings, lines, words=1), sep="\n")


def _line(method: str, prediction: Prediction) -> list[str]:
    stages = [number(prediction.stages[stage]) if stage in prediction.stages else MISSING for stage in STAGES]
    return [title(method), number(prediction.ratio), number(prediction.network), number(prediction.sgd), *stages]
