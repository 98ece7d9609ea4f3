"""What `lngd overhead` has found: its records, and the tables and the picture that are made from them.

Of each model and batch there is one file in the archive, a line an event; later calls add to it. Of a method that was measured
in several calls the last counts, whole.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lngd_bench import archive
from lngd_bench.clock import clock_of
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.report.colours import colour_of
from lngd_bench.studies.overhead.anatomy import STAGES
from lngd_bench.studies.overhead.timing import ASDL, Interval
from lngd_bench.studies.overhead.workloads import Workload
from lngd_bench.studies.results import MISSING, markdown, number
from lngd_bench.training.machine import processor

MIB = 2**20
HEADINGS = ("optimizer", "ms", "ratio", "worst", "on paper", "B/param.", "peak MiB")
LEGEND = """ms: a step's mean over whole curvature intervals. ratio: that over the median SGD step nearby, median of the rounds
(least–most). worst: the slowest step over the median one. on paper: the ratio predicted from shapes and this machine's calibrated
speed. B/param.: bytes of optimizer state for each parameter. peak MiB: rise of the resident memory of a process that takes a few
steps. Breakdown: milliseconds of a step by stage, mean over one interval under a profiler, and share."""
COLUMNS, BAR, FRAME = 3, 0.22, 0.75
"""Panels a line; inches of a bar's height and of what is no bar."""
TICKS = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0)


@dataclass
class Found:
    """What is known of one method.

    Args:
        state_bytes: the optimizer's.
        parameters: how many there are.
        peak_bytes: by which its process grew; None if that was not measured.
        stages: milliseconds of a step by stage; empty for methods that are not ours.
        predicted: the amortised ratio on paper.
    """

    method: str
    intervals: list[Interval] = field(default_factory=list)
    state_bytes: int = 0
    parameters: int = 1
    peak_bytes: int | None = None
    stages: dict[str, float] = field(default_factory=dict)
    predicted: float | None = None

    @property
    def title(self) -> str:
        return "K-FAC, asdl's" if self.method == ASDL else OPTIMIZERS[self.method].title

    @property
    def ratios(self) -> list[float]:
        """Of the rounds, in order of size."""
        return sorted(interval.ratio for interval in self.intervals)


@dataclass(frozen=True)
class Conditions:
    """On what a call ran."""

    torch: str
    threads: int
    machine: str
    clock: str

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        time = "CPU time" if self.clock == "cpu" else "wall-clock time"
        return f"{self.machine}, {threads}, {time}, torch {self.torch}"


@dataclass(frozen=True)
class Page:
    """One model and batch: its methods, in the order of their first measurement."""

    workload: Workload
    conditions: Sequence[Conditions]
    methods: Sequence[Found]

    @property
    def caption(self) -> str:
        """What its numbers are of; two machines are named as two."""
        return f"{self.workload.title}. {' / '.join(map(str, self.conditions))}."

    @property
    def profiled(self) -> list[Found]:
        """The methods with a breakdown."""
        return [found for found in self.methods if found.stages]


def conditions() -> Conditions:
    """Of this process."""
    return Conditions(str(torch.__version__), torch.get_num_threads(), processor(torch.device("cpu")), clock_of())


def started(workload: Workload, **details: Any) -> dict[str, Any]:
    """The event that a call begins with."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"event": "start", "workload": asdict(workload), "conditions": asdict(conditions()), **details, "date": date}


def append(path: Path, name: str, event: dict[str, Any]) -> None:
    """To one file of the archive, at once: the whole takes long."""
    files = archive.read(path) if path.exists() else {}
    archive.write(path, {**files, name: [*files.get(name, []), event]})


def pages(source: Path) -> list[Page]:
    """Of all files, in the order of their names and batch sizes."""
    found = [page for lines in archive.read(source).values() if (page := _page(lines))]
    return sorted(found, key=lambda page: (page.workload.name, page.workload.width, page.workload.batch))


def _page(lines: archive.Lines) -> Page | None:
    starts = [line for line in lines if line["event"] == "start"]
    if not starts:
        return None
    methods = {line["method"]: _found(line) for line in lines if line["event"] == "method"}
    seen = dict.fromkeys(Conditions(**start["conditions"]) for start in starts)
    return Page(Workload(**starts[-1]["workload"]), [*seen], [*methods.values()])


def _found(line: Any) -> Found:
    own = {name: value for name, value in line.items() if name not in ("event", "intervals")}
    times = [{**each, **{name: tuple(each[name]) for name in ("milliseconds", "reference")}} for each in line["intervals"]]
    return Found(intervals=[Interval(**each) for each in times], **own)


def costs(page: Page) -> list[list[str]]:
    """A method each, under HEADINGS."""
    return [_cost(found) for found in page.methods]


def _cost(found: Found) -> list[str]:
    ratio, ratios = number(statistics.median(found.ratios)), found.ratios
    return [
        found.title,
        number(statistics.median(interval.mean for interval in found.intervals)),
        f"{ratio} ({number(ratios[0])}–{number(ratios[-1])})" if len(ratios) > 1 else ratio,
        number(statistics.median(interval.jerk for interval in found.intervals)),
        MISSING if found.predicted is None else number(found.predicted),
        f"{found.state_bytes / found.parameters:.1f}",
        MISSING if found.peak_bytes is None else f"{found.peak_bytes / MIB:.0f}",
    ]


def stages(page: Page) -> tuple[list[str], list[list[str]]]:
    """Headings, and a stage each, then the sum, of the methods that have a breakdown."""
    totals = [sum(found.stages.values()) for found in page.profiled]
    rows = []
    for stage in STAGES:
        times = [found.stages.get(stage, 0.0) for found in page.profiled]
        if any(times):
            shares = zip(times, totals, strict=True)
            rows.append([stage, *(f"{number(time)} ({time / whole:.0%})" if time else MISSING for time, whole in shares)])
    return ["stage", *(found.title for found in page.profiled)], [*rows, ["all", *map(number, totals)]]


def as_markdown(found: Sequence[Page]) -> str:
    """All tables of all pages."""
    parts = ["# What a step costs\n", f"{LEGEND}\n"]
    for page in found:
        parts += [f"## {page.workload.title}\n", f"{page.caption}\n", markdown(HEADINGS, costs(page))]
        if page.profiled:
            parts.append(markdown(*stages(page)))
    return "\n".join(parts)


def draw(found: Sequence[Page]) -> Figure:
    """A panel a model and batch, a bar a method that begins at SGD's 1, on a logarithmic scale."""
    columns = min(COLUMNS, len(found))
    lines = -(-len(found) // columns)
    height = (BAR * max(len(page.methods) for page in found) + FRAME) * lines
    figure = Figure(figsize=(max(3.0 * columns, 4.5), height), layout="constrained")
    for index, page in enumerate(found):
        _bars(figure.add_subplot(lines, columns, index + 1), page)
    return figure


def _bars(axes: Axes, page: Page) -> None:
    places = range(len(page.methods))
    middles = [statistics.median(found.ratios) for found in page.methods]
    colours = [colour_of(found.method, place) for place, found in enumerate(page.methods)]
    axes.barh(places, [middle - 1 for middle in middles], left=1, color=colours, height=0.72)
    for place, found, middle in zip(places, page.methods, middles, strict=True):
        axes.plot([found.ratios[0], found.ratios[-1]], [place, place], color="black", linewidth=1)
        right = (max(1.0, found.ratios[-1]), place)
        axes.annotate(number(middle), right, xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.axvline(1.0, color="0.3", linewidth=0.8)
    axes.set_yticks(places, [found.title for found in page.methods], fontsize=8)
    axes.invert_yaxis()
    ratios = [ratio for found in page.methods for ratio in found.ratios]
    right_edge = max(2.0, *ratios) ** 1.15 * 1.05
    ticks = [tick for tick in TICKS if tick <= right_edge]
    axes.set_xscale("log")
    axes.set_xlim(min(0.9, 0.95 * min(ratios)), right_edge)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_title(page.workload.title.replace(", batch", ",\nbatch"), fontsize=9)
    axes.set_xlabel("step / SGD's", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
