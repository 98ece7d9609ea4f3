"""`lngd quality`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

from lngd_bench import archive
from lngd_bench.cli import options
from lngd_bench.cli.names import names_listed, optimizers_named
from lngd_bench.cli.running import announce, command_line, console, make_directory, run_all
from lngd_bench.studies.quality.page import as_markdown, caption, draw, remarks, summary_lines, task_table
from lngd_bench.studies.quality.quality import COMPETITORS, SIZES, Comparison
from lngd_bench.studies.quality.report import own_files, tasks_in
from lngd_bench.studies.results import leave, records_at, text
from lngd_bench.training.race import Place
from lngd_bench.training.train import RunSpec

STUDY = "quality"
ALL_OPTIMIZERS = ",".join(COMPETITORS)


def quality(
    *,
    tasks: Annotated[str, typer.Option(metavar="NAME,…", help=f"Of {', '.join(SIZES)}.")] = ",".join(SIZES),
    optimizers: options.Optimizers = ALL_OPTIMIZERS,
    trials: Annotated[int, typer.Option(min=3, help="Rates of each optimizer's first grid.")] = 4,
    seeds: Annotated[int, typer.Option(min=1, help="Reported runs (seeds 0, 1, …) of each schedule.")] = 3,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where runs are, and go on.")] = Path("runs/quality"),
    report: Annotated[Path | None, typer.Option(metavar="PATH", exists=True, help="Run nothing; report these records.")] = None,
    results: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where quality.md, .png and .jsonl.gz go.", show_default="beside the records"),
    ] = None,
    data_dir: options.DataDir = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch; with 1, CPU time is what counts.")] = 1,
) -> None:
    """Time every optimizer to a fixed target on many tasks, all tuned alike; about two hours of one core.

    The same command goes on where a former one was broken off. Processes with different --tasks may fill one directory.
    """
    if report:
        _show(records_at(report, STUDY), results or (report if report.is_dir() else report.parent))
        return
    chosen = [SIZES[name] for name in names_listed("task", tasks, SIZES)]
    names = optimizers_named(optimizers)
    torch.set_num_threads(threads)
    make_directory(out)
    comparison = Comparison(names, seeds, trials, Place(out=out, data_dir=data_dir, command=command_line()), _run)
    for size in chosen:
        comparison.fill(size)
    _show(out, results or out)


def _run(specs: Sequence[RunSpec], place: Place) -> None:
    announce(specs, place.out)
    run_all(specs, place, resume=True, again=place.command)


def _show(source: Path, directory: Path) -> None:
    """Prints the tables and writes the three files."""
    files = own_files(archive.read(source))
    found = tasks_in(files)
    lines = [f"\n{task.task}\n{caption(task)}\n{text(*task_table(task))}" for task in found]
    lines += ["", *summary_lines(found), *(f"! {remark}" for task in found for remark in remarks(task))]
    lines.append("\n" + leave(directory, STUDY, files, as_markdown(found), draw(found)))
    console.print("\n".join(lines), markup=False, soft_wrap=True)
