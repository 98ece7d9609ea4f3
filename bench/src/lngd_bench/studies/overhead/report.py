"""The tables of `lngd overhead` from its records."""

import statistics
from collections.abc import Callable, Iterator, Sequence

from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.studies.overhead.breakdown import STAGES, total
from lngd_bench.studies.overhead.overhead import ASDL
from lngd_bench.studies.overhead.records import Found, Page

MISSING = "–"
OTHERS = {ASDL: "K-FAC, asdl's"}
MIB = 2**20
HEADINGS = ("optimizer", "ms", "ratio", "worst", "on paper", "B/param.", "peak MiB")
LEGEND = """ms: a step's mean over whole curvature intervals. ratio: that over the median SGD step nearby, median of the rounds
(least–most). worst: the slowest step over the median one. on paper: the ratio predicted from shapes and this machine's calibrated
speed. B/param.: bytes of optimizer state for each parameter. peak MiB: rise of the resident memory of a process that takes a few
steps. Breakdown: milliseconds of a step by stage, mean over one interval under a profiler, and share."""


def rows(page: Page) -> list[list[str]]:
    """A method each."""
    return [_row(found) for found in page.methods.values()]


def breakdown_headings(page: Page) -> list[str]:
    """`stage` and the methods that have one."""
    return ["stage", *(title(found.method) for found in profiled(page))]


def breakdown_rows(page: Page) -> list[list[str]]:
    """A stage each, then the sum."""
    columns = profiled(page)
    used = [stage for stage in STAGES if any(found.stages.get(stage) for found in columns)]
    lines = [[stage, *(_share(found.stages.get(stage, 0.0), total(found.stages)) for found in columns)] for stage in used]
    return [*lines, ["all", *(number(total(found.stages)) for found in columns)]]


def profiled(page: Page) -> list[Found]:
    """The methods with a breakdown."""
    return [found for found in page.methods.values() if found.stages]


def markdown(all_pages: Sequence[Page]) -> str:
    """All tables of all pages."""
    return "\n".join(["# What a step costs\n", f"{LEGEND}\n", *(_section(page) for page in all_pages)])


def title(method: str) -> str:
    """A method's name for a table."""
    return OPTIMIZERS[method].title if method in OPTIMIZERS else OTHERS.get(method, method)


def ratios(found: Found) -> list[float]:
    """Of the rounds."""
    return sorted(interval.ratio for interval in found.intervals)


def number(value: float) -> str:
    """Three digits or more."""
    return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f}"


def caption(page: Page) -> str:
    """On what its numbers were measured; two machines are named as two."""
    return " / ".join(map(str, page.conditions))


def _section(page: Page) -> str:
    tables = [table(HEADINGS, rows(page))]
    if profiled(page):
        tables.append(table(breakdown_headings(page), breakdown_rows(page)))
    return "\n".join([f"## {page.workload.title}\n", f"{caption(page)}.\n", *tables])


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """In Markdown; the first column is text."""
    written: Iterator[Sequence[str]] = iter([headings, ["---", *["---:"] * (len(headings) - 1)], *lines])
    return "".join(f"| {' | '.join(line)} |\n" for line in written)


def _row(found: Found) -> list[str]:
    measured: list[Callable[[Found], str]] = [_milliseconds, _ratio, _worst]
    times = [cell(found) if found.intervals else MISSING for cell in measured]
    paper = MISSING if found.predicted is None else number(found.predicted)
    kept = f"{found.bytes_per_parameter:.1f}" if found.intervals else MISSING
    peak = MISSING if found.peak_bytes is None else f"{found.peak_bytes / MIB:.0f}"
    return [title(found.method), *times, paper, kept, peak]


def _milliseconds(found: Found) -> str:
    return number(statistics.median(interval.mean for interval in found.intervals))


def _ratio(found: Found) -> str:
    values = ratios(found)
    median = number(statistics.median(values))
    return f"{median} ({number(values[0])}–{number(values[-1])})" if len(values) > 1 else median


def _worst(found: Found) -> str:
    return number(statistics.median(interval.jerk for interval in found.intervals))


def _share(milliseconds: float, whole: float) -> str:
    return f"{number(milliseconds)} ({milliseconds / whole:.0%})" if milliseconds else MISSING
