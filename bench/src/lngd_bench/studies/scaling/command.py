"""`lngd scaling`: how the extra cost of an ordinary step grows with the size of a perceptron."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from lngd_bench.cli.names import lookup, names_listed
from lngd_bench.cli.running import command_line, console, make_directory
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.errors import BenchError
from lngd_bench.report.tables import plain_table
from lngd_bench.studies.overhead.machine import calibrated
from lngd_bench.studies.overhead.overhead import METHODS, STATELESS
from lngd_bench.studies.overhead.records import append, conditions
from lngd_bench.studies.overhead.show import WIDTH
from lngd_bench.studies.scaling.report import FITS, HEADINGS, draw, fits, markdown, rows
from lngd_bench.studies.scaling.scaling import AXES, MOST_STEPS, Axis, Perceptron, Point, measure

OURS = tuple(name for name in METHODS if name not in STATELESS and name in OPTIMIZERS and OPTIMIZERS[name].module is None)


def scaling(
    *,
    axes: Annotated[str, typer.Option(metavar="NAME,…", help=f"Of {', '.join(AXES)}.")] = ",".join(AXES),
    values: Annotated[str, typer.Option(metavar="N,…", help="Sizes, of one axis. [default: each axis's own]")] = "",
    method: Annotated[str, typer.Option(help=f"One of {', '.join(OURS)}.")] = "lngd",
    steps: Annotated[int, typer.Option(min=1, max=MOST_STEPS, help="Steps of each size.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where scaling.md, .png and .jsonl go.")] = Path("runs/scaling"),
) -> None:
    """Time ordinary steps of a method beside SGD's on perceptrons of growing size, and fit the exponents of the difference."""
    chosen = names_listed("axis", axes, {str(axis): sizes for axis, sizes in AXES.items()})
    lookup("method", method, dict.fromkeys(OURS))
    torch.set_num_threads(threads)
    make_directory(out)
    machine = calibrated()
    record = out / "scaling.jsonl"
    record.unlink(missing_ok=True)
    start = {"method": method, "base": asdict(Perceptron()), "conditions": asdict(conditions()), "calibration": asdict(machine)}
    append(record, {"event": "start", **start, "steps": steps, "command": command_line()})
    points: list[Point] = []
    for axis in AXES:
        for each in measure(axis, _sizes(axis, chosen, values), method, steps, machine):
            points.append(each)
            append(record, {"event": "point", **asdict(each)})
            console.print(f"  {axis} {each.value}: {each.ratio:.2f} × SGD", markup=False)
    _show(f"{method} on MLPs of width 512, depth 3, batch 128, 10 classes, one of them varied; {conditions()}", points, out)


def _sizes(axis: Axis, chosen: Sequence[str], values: str) -> Sequence[int]:
    if axis not in chosen:
        return ()
    if not values:
        return AXES[axis]
    if len(chosen) > 1 or not all(word.strip().isdecimal() and int(word) > 1 for word in values.split(",")):
        raise BenchError(f"--values {values}: give sizes of 2 and more, such as 64,128, and one of --axes")
    return [int(word) for word in values.split(",")]


def _show(title: str, points: Sequence[Point], out: Path) -> None:
    narrow = Console(width=WIDTH, highlight=False)
    narrow.print("", title, plain_table(HEADINGS, rows(points), words=1), plain_table(FITS, fits(points), words=1), sep="\n")
    (out / "scaling.md").write_text(markdown(title, points), encoding="utf-8")
    chart = draw(points, out / "scaling.png")
    console.print(f"Written: {out / 'scaling.md'}, {chart}, {out / 'scaling.jsonl'}", soft_wrap=True, markup=False)
