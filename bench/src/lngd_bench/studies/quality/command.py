"""`lngd quality`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

from lngd_bench.cli import options
from lngd_bench.cli.names import names_listed, optimizers_named
from lngd_bench.cli.running import announce, command_line, console, make_directory, run_all
from lngd_bench.report.tables import plain_table
from lngd_bench.studies.quality.quality import COMPETITORS, SIZES, Comparison
from lngd_bench.studies.quality.report import TaskQuality, read_quality
from lngd_bench.studies.quality.tables import caption, quality_json, quality_markdown, shortfalls, summary_lines, task_rows
from lngd_bench.training.race import Place
from lngd_bench.training.train import RunSpec

ALL_TASKS = ",".join(SIZES)
ALL_OPTIMIZERS = ",".join(COMPETITORS)
TaskList = Annotated[str, typer.Option(metavar="NAME,…", help=f"Of {', '.join(SIZES)}.")]
Existing = Annotated[
    Path | None,
    typer.Option("--report", metavar="DIR", exists=True, file_okay=False, help="Run nothing; report what DIR has."),
]


def quality(
    *,
    tasks: TaskList = ALL_TASKS,
    optimizers: options.Optimizers = ALL_OPTIMIZERS,
    trials: Annotated[int, typer.Option(min=3, help="Rates of each optimizer's first grid.")] = 4,
    seeds: Annotated[int, typer.Option(min=1, help="Reported runs (seeds 0, 1, …) of each schedule.")] = 3,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where records and report go, or go on.")] = Path("runs/quality"),
    report: Existing = None,
    data_dir: options.DataDir = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch; with 1, CPU time is what counts.")] = 1,
) -> None:
    """Time every optimizer to a fixed target on many tasks, all tuned alike; about two hours of one core.

    The same command goes on where a former one was broken off. Processes with different --tasks may fill one directory.
    """
    if report:
        _present(read_quality(report), report)
        return
    chosen = [SIZES[name] for name in names_listed("task", tasks, SIZES)]
    names = optimizers_named(optimizers)
    torch.set_num_threads(threads)
    make_directory(out)
    place = Place(out=out, data_dir=data_dir, command=command_line())
    comparison = Comparison(names, seeds, trials, place, _run)
    for size in chosen:
        comparison.fill(size)
    _present(read_quality(out), out)


def _run(specs: Sequence[RunSpec], place: Place) -> None:
    announce(specs, place.out)
    run_all(specs, place, resume=True, again=place.command)


def _present(tasks: Sequence[TaskQuality], directory: Path) -> None:
    """Matplotlib is imported here: a wrong option need not wait for it."""
    from lngd_bench.studies.quality.plot import draw_ratios

    for task in tasks:
        headings, *rows = task_rows(task)
        console.print(f"\n[bold]{task.task}[/bold]")
        console.print(caption(task), markup=False)
        console.print(plain_table(headings, rows, words=1))
    for line in [*summary_lines(tasks), *(f"! {remark}" for remark in shortfalls(tasks))]:
        console.print(line, markup=False)
    table, figures, figure = (directory / name for name in ("quality.md", "quality.json", "quality.png"))
    table.write_text(quality_markdown(tasks), encoding="utf-8")
    figures.write_text(json.dumps(quality_json(tasks), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    draw_ratios(tasks, figure)
    console.print(f"\nWritten: {table}, {figures}, {figure}", soft_wrap=True, markup=False)
