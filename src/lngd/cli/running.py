"""Runs a list of runs and shows how far it is: a live display on a terminal, plain lines elsewhere."""

import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lngd.bench.checkpoint import checkpoint_of
from lngd.bench.errors import BenchError
from lngd.bench.race import Place, estimated_seconds, race, unfinished
from lngd.bench.records import Epoch
from lngd.bench.tables import metric_text
from lngd.bench.train import RunSpec

INTERRUPTED = 130  # the exit status of a command that Ctrl-C ended

console = Console(highlight=False)


def command_line() -> str:
    return shlex.join(["lngd", *sys.argv[1:]])


def device_named(name: str) -> torch.device:
    """The device, tried: a wrong name must not fail after the data has been loaded."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise BenchError(f"--device {name}: {str(error).splitlines()[0]}") from error


def make_directory(out: Path) -> None:
    """Before any work: what can't be written must not be computed first."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"--out {out}: {error.strerror or error}; choose another directory") from error


def new_directory(names: Sequence[str]) -> Path:
    return Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{'-'.join(names)}"


def announce(specs: Sequence[RunSpec], out: Path) -> None:
    """One line: what will happen, how long it takes, where it goes."""
    counts = [len({getattr(spec, name) for spec in specs}) for name in ("optimizer", "seed")]
    names = ", ".join(dict.fromkeys(spec.task.name for spec in specs))
    console.print(
        f"{names}: {_count(counts[0], 'optimizer')} × {_count(counts[1], 'seed')} = {_count(len(specs), 'run')}, "
        f"about {_duration(estimated_seconds(specs))} on two CPU cores; records in {out}",
        markup=False,
    )


def run_all(specs: Sequence[RunSpec], place: Place, *, resume: bool, again: str | None = None) -> None:
    """Every run that the directory lacks or that was broken off in it; Ctrl-C keeps finished epochs and says how to go on.

    `again`: the command that goes on, where it is not the same with `--resume`.
    """
    torch.set_flush_denormal(True)  # dying nets fill with denormal numbers, on which a CPU is a hundred times slower
    waiting = unfinished(specs, place.out, resume=resume)
    done = len(specs) - len(waiting)
    if done:
        console.print(f"{done} of {len(specs)} runs are finished already")
    if begun := sum(checkpoint_of(place.out / spec.file_name).exists() for spec in waiting):
        console.print(f"{begun} of {len(specs)} runs were broken off: they go on after their last finished epoch")
    try:
        _run(waiting, place)
    except KeyboardInterrupt:
        finished = sum((place.out / spec.file_name).exists() for spec in specs)
        console.print(
            f"\nStopped; {finished} of {len(specs)} runs are kept, and the finished epochs of those under way. "
            f"Go on with:\n  {again or _resume_command(place)}",
            soft_wrap=True,
        )
        raise typer.Exit(INTERRUPTED) from None


def _run(specs: Sequence[RunSpec], place: Place) -> None:
    bars = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    with Progress(*bars, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("", total=sum(spec.task.total_epochs for spec in specs))
        shown: Counter[str] = Counter()  # epochs by run; one that goes on starts with several at once
        for spec, epoch in race(specs, place):
            advance = epoch.epoch - shown[spec.file_name]
            shown[spec.file_name] = epoch.epoch
            progress.update(bar, advance=advance, description=f"{spec.task.name} {spec.optimizer} seed {spec.seed}")
            if epoch.diverged or epoch.epoch == spec.task.total_epochs:
                progress.update(bar, advance=spec.task.total_epochs - epoch.epoch)
                progress.console.print(_ended(spec, epoch), markup=False)


def _ended(spec: RunSpec, epoch: Epoch) -> str:
    run = f"{spec.task.name}  {spec.optimizer} {spec.lr:g}  seed {spec.seed}"
    if epoch.metric is None or epoch.train_loss is None:
        return f"{run}  diverged: {epoch.reason}"
    return f"{run}  train loss {epoch.train_loss:.4f}  {spec.task.metric} {metric_text(epoch.metric, spec.task.metric)}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds"
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _resume_command(place: Place) -> str:
    """The command as it was given, with its directory named and `--resume`, whichever of the two it lacked."""
    out = "" if "--out" in place.command else f" --out {shlex.quote(str(place.out))}"
    resume = "" if "--resume" in place.command else " --resume"
    return f"{place.command}{out}{resume}"
