"""`lngd race`."""

from dataclasses import replace
from typing import Annotated

import torch
import typer

from lngd_bench.cli.names import figures_given, refuse_unused, target_given
from lngd_bench.cli.options import RunOptions, Target, with_run_options
from lngd_bench.cli.running import announce, command_line, console, help_with, new_directory, run_all
from lngd_bench.cli.show import present
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.errors import BenchError
from lngd_bench.tasks import DEFAULT_TASKS, TASKS
from lngd_bench.training.event_logs import check_installed
from lngd_bench.training.processes import is_helper, together
from lngd_bench.training.race import Place, plan, unfinished

DEFAULT_SEEDS = 2  # of --default
DEFAULT_THREADS = 1  # of --default: its steps are so small that a second thread mostly waits, above all on a busy machine


@with_run_options
def race(
    tasks: Annotated[list[str] | None, typer.Argument(metavar="TASK…", help=f"Any of {', '.join(TASKS)}.")] = None,
    *,
    default: Annotated[bool, typer.Option("--default", help=f"{', '.join(DEFAULT_TASKS)} in three minutes.")] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each optimizer. [3; 2 with --default]")] = None,
    target: Target = "auto",
    lr: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Another rate; repeatable.")] = None,
    damping: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Another damping; repeatable.")] = None,
    rest: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Another rate of AdamW's part, over its default; repeatable.")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard's logs too, into DIR/tensorboard.")
    ] = False,
    nproc: Annotated[
        int, typer.Option(min=1, help="Processes of this machine that share each run's batches, with DistributedDataParallel.")
    ] = 1,
    options: RunOptions,
) -> None:
    """Race optimizers on tasks, taking turns epoch by epoch; write records, run.md, tables, figures and report.html."""
    if bool(tasks) == default:
        raise BenchError("name tasks or give --default, one of the two; lngd race --help lists the tasks")
    if tensorboard:
        check_installed()
    goal, rates, dampings = target_given(target), figures_given("--lr", lr or []), figures_given("--damping", damping or [])
    rests = figures_given("--rest", rest or [])
    refuse_unused("--damping", dampings, {name for name, competitor in OPTIMIZERS.items() if competitor.damping is not None})
    refuse_unused("--rest", rests, {name for name, competitor in OPTIMIZERS.items() if competitor.two_rates})
    if default and not options.threads:
        torch.set_num_threads(DEFAULT_THREADS)
    chosen, names, device = options.ready(tasks or DEFAULT_TASKS)
    chosen = [
        replace(task, rates={**task.rates, **rates}, dampings={**task.dampings, **dampings}, rests={**task.rests, **rests})
        for task in map(options.apply, chosen)
    ]
    specs = plan(chosen, names, range(seeds or (DEFAULT_SEEDS if default else 3)))
    if nproc > 1 and (options.resume or device.type != "cpu"):
        raise BenchError("--nproc goes with neither --resume nor --device: several processes race on the CPU, from the beginning")
    with together(nproc):
        if is_helper():
            help_with(specs, options.data_dir)
            return
        out = options.out or new_directory([task.name for task in chosen])
        place = Place(out=out, data_dir=options.data_dir, device=device, command=command_line(), tensorboard=tensorboard)
        unfinished(specs, out, resume=options.resume)  # refuses a directory that has records before anything is promised
        announce(specs, out)
        console.print("They take an epoch in turn; at the end tables are printed here, and figures and report.html drawn there.")
        notes = run_all(specs, place, resume=options.resume)
    present(out, goal)
    notes.write()
