"""`lngd tune`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer

from lngd_bench.cli.options import RunOptions, with_run_options
from lngd_bench.cli.running import announce, command_line, console, new_directory, run_all
from lngd_bench.tasks import TASKS
from lngd_bench.tasks.metric import METRICS
from lngd_bench.tasks.task import Task
from lngd_bench.training.race import Place
from lngd_bench.training.train import RunSpec
from lngd_bench.training.tune import PAPER_RATES, ROUNDS, Budget, Grid, Trial, paste_line
from lngd_bench.training.tune import tune as search


@with_run_options
def tune(
    task: Annotated[str, typer.Argument(metavar="TASK", help=f"One of {', '.join(TASKS)}.")],
    *,
    trials: Annotated[int, typer.Option(min=3, help="Rates of each optimizer's first grid.")] = 5,
    paper: Annotated[bool, typer.Option("--paper-grid", help="The paper's ten rates, 0.0001 to 3, instead.")] = False,
    dampings: Annotated[int, typer.Option(min=0, help="Further trials: of the damping, or of the rate without one.")] = 0,
    rests: Annotated[int, typer.Option(min=0, help="Further trials: of AdamW's part's rate, or of the rate without one.")] = 0,
    rounds: Annotated[int, typer.Option(min=0, help="Of two further rates for all while a best one is at its edge.")] = ROUNDS,
    seeds: Annotated[int, typer.Option(min=1, help="Tuning seeds (1000, 1001, …) of each rate.")] = 1,
    options: RunOptions,
) -> None:
    """Find each optimizer's learning rate, and damping if asked for, with an equal grid, judged on held-out training samples."""
    (chosen,), names, device = options.ready([task])
    chosen = options.apply(replace(chosen, **chosen.tuning))
    out = options.out or new_directory(["tune", task])
    place = Place(out=out, data_dir=options.data_dir, device=device, held_out=True, command=command_line())
    resume = options.resume

    def run(specs: Sequence[RunSpec]) -> None:
        """The first round asks for `--resume` where records exist; the later ones find the earlier rounds' records."""
        nonlocal resume
        announce(specs, out)
        run_all(specs, place, resume=resume)
        resume = True

    budget = Budget(rates=trials, grid=PAPER_RATES if paper else None, rounds=rounds, dampings=dampings, rests=rests)
    grids = search(chosen, names, budget=budget, seeds=seeds, place=place, run=run)
    for grid in grids:
        console.print(f"\n[bold]{grid.optimizer}[/bold]")
        for trial in grid.trials:
            console.print(_line(trial, grid, chosen), markup=False)
    console.print(f"\n{paste_line(grids)}", soft_wrap=True, markup=False)


def _line(trial: Trial, grid: Grid, task: Task) -> str:
    chosen = {"damping": trial.damping, "rest": trial.rest}
    further = " ".join(f"{name} {value:g}" for name, value in chosen.items() if value is not None)
    metric = "diverged" if trial.metric is None else METRICS[task.metric].text(trial.metric)
    best = "  ← best, at the grid's edge" if grid.edge else "  ← best"
    return f"  {trial.rate:<8g} {further:<14} {metric:>10}{best if trial == grid.best else ''}"
