"""`lngd tune`."""

from collections.abc import Sequence
from typing import Annotated

import torch
import typer

from lngd_bench.cli import options
from lngd_bench.cli.names import optimizers_named, tasks_named
from lngd_bench.cli.running import announce, command_line, console, device_named, new_directory, run_all
from lngd_bench.competitors.optimizers import DEFAULT_OPTIMIZERS
from lngd_bench.tasks.metric import METRICS
from lngd_bench.tasks.task import Changes, Task
from lngd_bench.training.race import Place
from lngd_bench.training.train import RunSpec
from lngd_bench.training.tune import PAPER_RATES, ROUNDS, Budget, Grid, Trial, paste_line
from lngd_bench.training.tune import tune as search


def tune(
    task: options.TaskName,
    *,
    optimizers: options.Optimizers = DEFAULT_OPTIMIZERS,
    trials: Annotated[int, typer.Option(min=3, help="Rates of each optimizer's first grid.")] = 5,
    paper: Annotated[bool, typer.Option("--paper-grid", help="The paper's ten rates, 0.0001 to 3, instead.")] = False,
    dampings: Annotated[int, typer.Option(min=0, help="Further trials: of the damping, or of the rate without one.")] = 0,
    rounds: Annotated[int, typer.Option(min=0, help="Of two further rates for all while a best one is at its edge.")] = ROUNDS,
    seeds: Annotated[int, typer.Option(min=1, help="Tuning seeds (1000, 1001, …) of each rate.")] = 1,
    out: options.Out = None,
    resume: options.Resume = False,
    epochs: options.Epochs = None,
    steps: options.Steps = None,
    epoch_steps: options.EpochSteps = None,
    train_samples: options.TrainSamples = None,
    batch_size: options.BatchSize = None,
    data_dir: options.DataDir = None,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    scale: options.TaskScale = "here",
    schedule: options.ScheduleName = None,
    interval: options.Interval = None,
    amp: options.Amp = None,
    ema: options.Ema = None,
    compiled: options.Compile = None,
    channels_last: options.ChannelsLast = None,
) -> None:
    """Find each optimizer's learning rate, and damping if asked for, with an equal grid, judged on held-out training samples."""
    changes = Changes(
        epochs=epochs,
        steps=steps,
        epoch_steps=epoch_steps,
        train_samples=train_samples,
        batch_size=batch_size,
        schedule=options.schedule_named(schedule),
        interval=interval,
        execution=options.execution(amp, ema, compiled=compiled, channels_last=channels_last),
    )
    chosen = changes.apply(tasks_named([task], scale)[0].for_tuning())
    names = optimizers_named(optimizers)
    chosen.look_for_data(data_dir)
    if threads:
        torch.set_num_threads(threads)
    place = Place(
        out=out or new_directory(["tune", task]),
        data_dir=data_dir,
        device=device_named(device),
        held_out=True,
        command=command_line(),
    )
    budget = Budget(rates=trials, grid=PAPER_RATES if paper else None, rounds=rounds, dampings=dampings)
    grids = search(chosen, names, budget=budget, seeds=seeds, place=place, run=_Rounds(place, resume=resume))
    for grid in grids:
        console.print(f"\n[bold]{grid.optimizer}[/bold]")
        for trial in grid.trials:
            console.print(_line(trial, grid, chosen), markup=False)
    console.print(f"\n{paste_line(grids)}", soft_wrap=True, markup=False)


class _Rounds:
    """The first round asks for `--resume` where records exist; the later ones find the earlier rounds' records."""

    def __init__(self, place: Place, *, resume: bool) -> None:
        self.place, self.resume = place, resume

    def __call__(self, specs: Sequence[RunSpec]) -> None:
        announce(specs, self.place.out)
        run_all(specs, self.place, resume=self.resume)
        self.resume = True


def _line(trial: Trial, grid: Grid, task: Task) -> str:
    damping = "" if trial.damping is None else f"damping {trial.damping:g}"
    metric = "diverged" if trial.metric is None else METRICS[task.metric].text(trial.metric)
    best = "  ← best, at the grid's edge" if grid.edge else "  ← best"
    return f"  {trial.rate:<8g} {damping:<14} {metric:>10}{best if trial == grid.best else ''}"
