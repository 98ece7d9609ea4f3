"""`lngd scaling`: how the extra cost of an ordinary step grows with the size of a perceptron."""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lngd_bench import archive
from lngd_bench.cli.names import lookup, names_listed
from lngd_bench.cli.running import command_line, console, make_directory
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.errors import BenchError
from lngd_bench.studies.overhead.on_paper import calibrated
from lngd_bench.studies.overhead.report import conditions, conditions_text
from lngd_bench.studies.overhead.timing import METHODS, STATELESS
from lngd_bench.studies.results import leave, records_at, text
from lngd_bench.studies.scaling.scaling import AXES, BASE, MOST_STEPS, as_markdown, draw, point, tables

STUDY = "scaling"
OURS = tuple(name for name in METHODS if name not in STATELESS and not OPTIMIZERS[name].third_party)


def scaling(
    *,
    axes: Annotated[str, typer.Option(metavar="NAME,…", help=f"Of {', '.join(AXES)}.")] = ",".join(AXES),
    values: Annotated[str, typer.Option(metavar="N,…", help="Sizes, of one axis.", show_default="each axis's own")] = "",
    method: Annotated[str, typer.Option(help=f"One of {', '.join(OURS)}.")] = "lngd",
    steps: Annotated[int, typer.Option(min=1, max=MOST_STEPS, help="Steps of each size.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
    report: Annotated[
        Path | None, typer.Option(metavar="PATH", exists=True, help="Measure nothing; show these records again.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where scaling.md, .png and .jsonl.gz go.")] = Path("runs/scaling"),
) -> None:
    """Time ordinary steps of a method beside SGD's on perceptrons of growing size, and fit the exponents of the difference."""
    if report:
        found = archive.read(records_at(report, STUDY)).get(f"{STUDY}.jsonl")
        if not found:
            raise BenchError(f"{report} has no records of lngd scaling")
        _show(found, report if report.is_dir() else report.parent)
        return
    chosen = names_listed("axis", axes, AXES)
    lookup("method", method, dict.fromkeys(OURS))
    torch.set_num_threads(threads)
    make_directory(out)
    second = calibrated()
    start = {"method": method, "base": BASE, "conditions": conditions(), "calibration": second._asdict()}
    lines: list[dict[str, Any]] = [{"event": "start", **start, "steps": steps, "command": command_line()}]
    for axis in AXES:
        for value in _sizes(axis, chosen, values):
            each = point(axis, BASE | {axis: value}, method, steps, second)
            gc.collect()
            lines.append({"event": "point", **each})
            archive.write(out / f"{STUDY}{archive.ENDING}", {f"{STUDY}.jsonl": lines})
            console.print(f"  {axis} {value}: {each['milliseconds'] / each['sgd']:.2f} × SGD", markup=False)
    _show(lines, out)


def _sizes(axis: str, chosen: Sequence[str], values: str) -> Sequence[int]:
    if axis not in chosen:
        return ()
    if not values:
        return AXES[axis]
    if len(chosen) > 1 or not all(word.strip().isdecimal() and int(word) > 1 for word in values.split(",")):
        raise BenchError(f"--values {values}: give sizes of 2 and more, such as 64,128, and one of --axes")
    return [int(word) for word in values.split(",")]


def _show(lines: archive.Lines, out: Path) -> None:
    start, *points = lines
    place = conditions_text(start["conditions"])
    title = f"{start['method']} on MLPs of width 512, depth 3, batch 128, 10 classes, one of them varied; {place}"
    shown = "\n\n".join(text(*table) for table in tables(points))
    console.print(f"\n{title}\n{shown}\n", markup=False, soft_wrap=True)
    written = leave(out, STUDY, {f"{STUDY}.jsonl": lines}, as_markdown(title, points), draw(points))
    console.print(written, markup=False, soft_wrap=True)
