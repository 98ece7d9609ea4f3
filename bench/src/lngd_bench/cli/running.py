"""Runs a list of runs, shows how far it is, and leaves records, notes and, if wished, TensorBoard's logs."""

import shlex
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path

import torch
import typer
from rich.console import Console

from lngd_bench.cli import INTERRUPTED
from lngd_bench.cli.progress import Progress
from lngd_bench.errors import BenchError
from lngd_bench.report.run_notes import Notes
from lngd_bench.training.event_logs import EventLogs
from lngd_bench.training.race import Place, estimated_seconds, race, unfinished
from lngd_bench.training.recorded import checkpoint_of
from lngd_bench.training.records import read_run
from lngd_bench.training.train import RunSpec

NOTES_EVERY = 10.0  # seconds between two writings of the notes while no run ends

console = Console(highlight=False)


def command_line() -> str:
    return shlex.join(["lngd", *sys.argv[1:]])


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
    optimizers, seeds = ({getattr(spec, name) for spec in specs} for name in ("optimizer", "seed"))
    names = ", ".join(dict.fromkeys(spec.task.name for spec in specs))
    console.print(
        f"{names}: {_count(len(optimizers), 'optimizer')} × {_count(len(seeds), 'seed')} = {_count(len(specs), 'run')}, "
        f"about {_duration(estimated_seconds(specs))} on two CPU cores; records in {out}",
        markup=False,
    )


def run_all(specs: Sequence[RunSpec], place: Place, *, resume: bool, again: str | None = None) -> Notes:
    """Every run that the directory lacks or that was broken off in it; Ctrl-C keeps finished epochs and says how to go on.

    `again`: the command that goes on, where it is not the same with `--resume`. Returns the notes that the directory has now.
    """
    torch.set_flush_denormal(True)  # dying nets fill with denormal numbers, on which a CPU is a hundred times slower
    waiting = unfinished(specs, place.out, resume=resume)
    if done := len(specs) - len(waiting):
        console.print(f"{done} of {len(specs)} runs are finished already")
    if begun := sum(checkpoint_of(place.out / spec.file_name).exists() for spec in waiting):
        console.print(f"{begun} of {len(specs)} runs were broken off: they go on after their last finished epoch")
    make_directory(place.out)
    notes = Notes(specs, place, again or _resume_command(place))
    try:
        _run(specs, waiting, notes)
    except KeyboardInterrupt:
        finished = sum((place.out / spec.file_name).exists() for spec in specs)
        kept = f"{finished} of {len(specs)} runs are kept, and the finished epochs of those under way"
        console.print(f"\nStopped; {kept}. Go on with:\n  {notes.again}", soft_wrap=True, markup=False)
        raise typer.Exit(INTERRUPTED) from None
    return notes


def help_with(specs: Sequence[RunSpec], data_dir: Path | None) -> None:
    """The same runs in another process than the one that keeps the records."""
    torch.set_flush_denormal(True)
    with tempfile.TemporaryDirectory() as folder:
        deque(race(specs, Place(out=Path(folder), data_dir=data_dir)), maxlen=0)


def _run(specs: Sequence[RunSpec], waiting: Sequence[RunSpec], notes: Notes) -> None:
    """The notes are right whatever ends this, short of a kill."""
    place = notes.place
    begun = {spec.file_name: read_run(place.out / spec.file_name) for spec in waiting}
    steps = {name: record.epochs[-1].step for name, record in begun.items() if record and record.epochs}
    notes.write()
    written = time.monotonic()
    with ExitStack() as stack:
        stack.callback(notes.write)
        logs = stack.enter_context(closing(EventLogs(place.out))) if place.tensorboard else None
        if logs:
            for spec in (spec for spec in specs if spec.file_name not in begun):
                logs.finished(spec)
        progress = stack.enter_context(Progress(waiting, console, steps))
        for spec, epoch in race(waiting, place, progress.step):
            if logs:
                logs.epoch(spec, epoch)
            progress.epoch(spec, epoch)
            if spec.ended_by(epoch) or time.monotonic() - written > NOTES_EVERY:
                notes.write()
                written = time.monotonic()


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return _count(max(1, round(seconds)), "second")
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _resume_command(place: Place) -> str:
    """The command as it was given, with its directory named and `--resume`, whichever of the two it lacked."""
    out = "" if "--out" in place.command else f" --out {shlex.quote(str(place.out))}"
    resume = "" if "--resume" in place.command else " --resume"
    return f"{place.command}{out}{resume}"
