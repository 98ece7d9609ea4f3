"""What a study leaves in a directory: STUDY.md, STUDY.png and its records, STUDY.jsonl.gz; and how its tables are written."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from tabulate import tabulate

from lngd_bench import archive
from lngd_bench.report.style import png

MISSING = "–"
NARROW = 13
"""Characters of a heading on a terminal, where it may take several lines."""

Rows = Sequence[Sequence[str]]


def records_at(place: Path, study: str) -> Path:
    """Where to read: a directory's archive of the study if it has one, else what was given."""
    packed = place / f"{study}{archive.ENDING}"
    return packed if packed.exists() else place


def leave(directory: Path, study: str, records: Mapping[str, archive.Lines], page: str, figure: Figure) -> str:
    """Writes the three files. Returns a line that names them."""
    directory.mkdir(parents=True, exist_ok=True)
    md, picture, packed = (directory / f"{study}{ending}" for ending in (".md", ".png", archive.ENDING))
    archive.write(packed, records)
    archive.put(md, page.encode())
    archive.put(picture, png(figure))
    return f"Written: {md}, {picture}, {packed}"


def number(value: float) -> str:
    """Three digits or more."""
    return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f}"


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def markdown(headings: Sequence[str], rows: Rows, *, words: int = 1) -> str:
    """`words`: the first so many columns are text, the others numbers."""
    return f"{tabulate(rows, headings, 'pipe', colalign=_sides(headings, words), disable_numparse=True)}\n"


def text(headings: Sequence[str], rows: Rows, *, words: int = 1) -> str:
    """Aligned by spaces."""
    widths = [None if column < words else NARROW for column in range(len(headings))]
    sides = _sides(headings, words)
    return tabulate(rows, headings, "simple", colalign=sides, disable_numparse=True, maxheadercolwidths=widths)


def _sides(headings: Sequence[str], words: int) -> list[str]:
    return ["left" if column < words else "right" for column in range(len(headings))]
