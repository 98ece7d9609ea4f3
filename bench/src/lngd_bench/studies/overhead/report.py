"""What `lngd overhead` has found: its records, and the tables and the picture that are made from them.

Of each model and batch there is one file in the archive, a line an event; later calls add to it. Of a method that was measured
in several calls the last counts, and for its peak the last that looked for it.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lngd_bench import archive
from lngd_bench.clock import CPU, clock_of
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.report.style import colour_of, tidy
from lngd_bench.studies.overhead.anatomy import STAGES
from lngd_bench.studies.overhead.before import BEFORE
from lngd_bench.studies.overhead.workloads import Workload
from lngd_bench.studies.results import MISSING, markdown, number
from lngd_bench.training.machine import processor

MIB = 2**20
HEADINGS = ("optimizer", "ms", "ratio", "worst", "on paper", "B/param.", "peak MiB")
LEGEND = """ms: a step's mean over whole curvature intervals. ratio: that over the median SGD step nearby, median of the rounds
(least–most). worst: the slowest step over the median one. on paper: the ratio predicted from shapes and this machine's calibrated
speed. B/param.: bytes of optimizer state for each parameter. peak MiB: rise of the resident memory of a process that takes a few
steps. before: of another checkout. Breakdown: milliseconds of a step by stage, mean over one interval under a profiler, and
share."""
COLUMNS, BAR, FRAME = 3, 0.22, 0.75
"""Panels a line; inches of a bar's height and of what is no bar."""
TITLE = 26
"""Letters of a panel's title in a line."""
APART = 0.1
"""Of the axis, between two ticks."""
TICKS = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0)

Line = Mapping[str, Any]
"""Of a method: `intervals`, `state_bytes`, `parameters`, `peak_bytes` by which its process grew, milliseconds of a step by
`stages`, and `predicted`, the amortised ratio on paper; None or empty where there is none."""


@dataclass(frozen=True)
class Page:
    """One model and batch: its methods, in their usual order; two machines are named as two."""

    workload: Workload
    conditions: str
    methods: Sequence[Line]

    @property
    def caption(self) -> str:
        return f"{self.workload.title}. {self.conditions}."

    @property
    def tables(self) -> list[tuple[Sequence[str], list[list[str]]]]:
        """Headings and rows: of the costs, and of the stages where a method has some."""
        profiled = [line for line in self.methods if line["stages"]]
        costs = (HEADINGS, [_cost(line) for line in self.methods])
        return [costs, _stages(profiled)] if profiled else [costs]


def conditions(device: torch.device = CPU) -> dict[str, Any]:
    """On what this process runs."""
    return {
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "machine": processor(device),
        "clock": clock_of(device),
    }


def conditions_text(found: Line) -> str:
    time = "CPU time" if found["clock"] == "cpu" else "wall-clock time"
    return f"{found['machine']}, {found['threads']} thread{'s' * (found['threads'] != 1)}, {time}, torch {found['torch']}"


def append(path: Path, name: str, event: dict[str, Any]) -> None:
    """To one file of the archive, at once: the whole takes long."""
    files = archive.read(path) if path.exists() else {}
    archive.write(path, {**files, name: [*files.get(name, []), event]})


def pages(source: Path) -> list[Page]:
    """Of all files with a method, in the order of their names and batch sizes."""
    found = []
    for lines in archive.read(source).values():
        starts = [line for line in lines if line["event"] == "start"]
        measured = [line for line in lines if line["event"] == "method"]
        peaks = {line["method"]: line["peak_bytes"] for line in measured if line["peak_bytes"]}
        methods = {line["method"]: {**line, "peak_bytes": peaks.get(line["method"])} for line in measured}
        if starts and methods:
            seen = dict.fromkeys(conditions_text(start["conditions"]) for start in starts)
            in_order = sorted(methods.values(), key=lambda line: _place(line["method"]))
            found.append(Page(Workload(**starts[-1]["workload"]), " / ".join(seen), in_order))
    return sorted(found, key=lambda page: (page.workload.name, page.workload.width, page.workload.batch))


def ratios(line: Line) -> list[float]:
    """Of a step to SGD's, amortised; of the rounds, in order of size."""
    return sorted(fmean(interval["milliseconds"]) / median(interval["reference"]) for interval in line["intervals"])


def title(method: str) -> str:
    """Of another checkout's too."""
    known = method.removesuffix(BEFORE)
    return OPTIMIZERS[known].title + method.removeprefix(known)


def _place(method: str) -> tuple[bool, int]:
    """Among the methods of a page: those of another checkout are the last."""
    known = method.removesuffix(BEFORE)
    return known != method, [*OPTIMIZERS].index(known)


def _cost(line: Line) -> list[str]:
    found = ratios(line)
    times = [interval["milliseconds"] for interval in line["intervals"]]
    return [
        title(line["method"]),
        number(median(map(fmean, times))),
        number(median(found)) + (f" ({number(found[0])}–{number(found[-1])})" if len(found) > 1 else ""),
        number(median(max(steps) / median(steps) for steps in times)),
        MISSING if line["predicted"] is None else number(line["predicted"]),
        f"{line['state_bytes'] / line['parameters']:.1f}",
        MISSING if line["peak_bytes"] is None else f"{line['peak_bytes'] / MIB:.0f}",
    ]


def _stages(profiled: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """A stage each, then the sum."""
    totals = [sum(line["stages"].values()) for line in profiled]
    rows = []
    for stage in STAGES:
        times = [line["stages"].get(stage, 0.0) for line in profiled]
        if any(times):
            shares = zip(times, totals, strict=True)
            rows.append([stage, *(f"{number(time)} ({time / whole:.0%})" if time else MISSING for time, whole in shares)])
    return ["stage", *(title(line["method"]) for line in profiled)], [*rows, ["all", *map(number, totals)]]


def as_markdown(found: Sequence[Page]) -> str:
    """All tables of all pages."""
    parts = ["# What a step costs\n", f"{LEGEND}\n"]
    for page in found:
        parts += [f"## {page.workload.title}\n", f"{page.caption}\n", *(markdown(*table) for table in page.tables)]
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
    places, names = range(len(page.methods)), [line["method"] for line in page.methods]
    found = [ratios(line) for line in page.methods]
    middles = [median(each) for each in found]
    colours = [colour_of(name, place) for place, name in enumerate(names)]
    axes.barh(places, [middle - 1 for middle in middles], left=1, color=colours, height=0.72)
    for place, (least, *_, most), middle in zip(places, [[*each, each[-1]] for each in found], middles, strict=True):
        axes.plot([least, most], [place, place], color="black", linewidth=1)
        right = (max(1.0, most), place)
        axes.annotate(number(middle), right, xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.axvline(1.0, color="0.3", linewidth=0.8)
    axes.set_yticks(places, map(title, names), fontsize=8)
    axes.invert_yaxis()
    every = [ratio for each in found for ratio in each]
    right_edge = max(2.0, *every) ** 1.15 * 1.05
    left_edge = min(0.9, 0.95 * min(every))
    ticks: list[float] = []
    for tick in (tick for tick in TICKS if tick <= right_edge):
        if not ticks or tick / ticks[-1] > (right_edge / left_edge) ** APART:
            ticks.append(tick)
    axes.set_xscale("log")
    axes.set_xlim(left_edge, right_edge)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_title(textwrap.fill(page.workload.title.replace("batch ", "batch\N{NO-BREAK SPACE}"), TITLE), fontsize=8)
    axes.set_xlabel("step / SGD's", fontsize=8)
    axes.tick_params(labelsize=8)
    tidy(axes, grid=False)
