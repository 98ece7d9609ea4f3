"""`lngd race`."""

from typing import Annotated

import torch
import typer

from lngd_bench.cli import options
from lngd_bench.cli.names import figures_given, optimizers_named, target_given, tasks_named
from lngd_bench.cli.running import announce, command_line, device_named, new_directory, run_all
from lngd_bench.cli.show import present
from lngd_bench.competitors.optimizers import DEFAULT_OPTIMIZERS
from lngd_bench.errors import BenchError
from lngd_bench.tasks import DEFAULT_TASKS
from lngd_bench.tasks.task import Changes
from lngd_bench.training.event_logs import check_installed
from lngd_bench.training.race import Place, plan

DEFAULT_SEEDS = 2  # of --default
DEFAULT_THREADS = 1  # of --default: its steps are so small that a second thread mostly waits, above all on a busy machine


def race(
    tasks: options.TaskNames = None,
    *,
    default: Annotated[bool, typer.Option("--default", help=f"{', '.join(DEFAULT_TASKS)} in three minutes.")] = False,
    optimizers: options.Optimizers = DEFAULT_OPTIMIZERS,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each optimizer. [3; 2 with --default]")] = None,
    target: options.Target = "auto",
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
    lr: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Another rate; repeatable.")] = None,
    damping: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Another damping; repeatable.")] = None,
    scale: options.TaskScale = "here",
    schedule: options.ScheduleName = None,
    interval: options.Interval = None,
    amp: options.Amp = None,
    ema: options.Ema = None,
    compiled: options.Compile = None,
    channels_last: options.ChannelsLast = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard's logs too, into DIR/tensorboard.")
    ] = False,
) -> None:
    """Race optimizers on tasks, taking turns epoch by epoch; write records, run.md, tables, figures and report.html."""
    goal = target_given(target)
    if tensorboard:
        check_installed()
    changes = Changes(
        epochs=epochs,
        steps=steps,
        epoch_steps=epoch_steps,
        train_samples=train_samples,
        batch_size=batch_size,
        rates=figures_given("--lr", lr or []),
        dampings=figures_given("--damping", damping or []),
        schedule=options.schedule_named(schedule),
        interval=interval,
        execution=options.execution(amp, ema, compiled=compiled, channels_last=channels_last),
    )
    chosen = [changes.apply(task) for task in tasks_named(_names(tasks, default=default), scale)]
    count = seeds or (DEFAULT_SEEDS if default else 3)
    specs = plan(chosen, optimizers_named(optimizers), range(count))
    if threads or default:
        torch.set_num_threads(threads or DEFAULT_THREADS)
    directory = out or new_directory([task.name for task in chosen])
    place = Place(out=directory, data_dir=data_dir, device=device_named(device), command=command_line(), tensorboard=tensorboard)
    for task in chosen:
        task.look_for_data(data_dir)
    announce(specs, directory)
    notes = run_all(specs, place, resume=resume)
    present(directory, goal)
    notes.write()


def _names(tasks: list[str] | None, *, default: bool) -> list[str]:
    if bool(tasks) == default:
        raise BenchError("name tasks or give --default, one of the two; lngd race --help lists the tasks")
    return tasks or list(DEFAULT_TASKS)
