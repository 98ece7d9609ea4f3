"""What a race shows while it runs: a bar on a terminal, a line a run everywhere."""

import io
import os
import pty
import re
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from lngd_bench.cli.progress import Progress
from lngd_bench.training.race import Place, plan, race, unfinished
from lngd_bench.training.records import Epoch
from lngd_bench.training.train import Run, RunSpec, train
from runs import TOY, toy_split, without_seconds
from test_cli import command

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
NARROW = 60  # columns
LAST = Epoch(epoch=3, step=18, train_loss=0.5, eval_loss=0.5, metric=0.75, seconds=0.1)


def shown(progress: Progress) -> str:
    file = io.StringIO()
    Console(file=file, force_terminal=True, color_system=None, width=80).print(progress.get_renderable())
    return file.getvalue()


def test_the_bar_goes_by_the_cost_of_steps_and_counts_what_an_earlier_race_has_done() -> None:
    cheap, dear = specs = plan([TOY], ["sgd", "lngd"], range(1))  # LNGD's step costs two of SGD's
    progress = Progress(specs, Console(file=io.StringIO(), force_terminal=True), {cheap.file_name: 9})
    assert " 17% " in shown(progress)
    for spec in (cheap, dear):
        progress.step(spec, 18)
        progress.epoch(spec, LAST)
    assert "100%" in shown(progress)


def test_a_pipe_has_a_line_for_each_epoch_of_a_task_and_for_each_run_that_ends() -> None:
    spec, file = RunSpec(TOY, "sgd", 0.1, 0), io.StringIO()
    with Progress([spec], Console(file=file), {}) as progress:
        progress.epoch(spec, replace(LAST, epoch=1))
        progress.epoch(replace(spec, optimizer="adamw"), replace(LAST, epoch=1))
        progress.epoch(spec, LAST)
        progress.epoch(spec, replace(LAST, train_loss=None, metric=None, diverged=True, reason="training loss nan " * 9))
    epoch, last, first, second = file.getvalue().splitlines()
    assert epoch == f"toy  epoch 1/{LAST.epoch}"
    assert last == f"toy  epoch {LAST.epoch}/{LAST.epoch}"
    assert first == "toy  sgd 0.1  seed 0  train loss 0.5000  accuracy 75.00 %"
    assert second.startswith("toy  sgd 0.1  seed 0  diverged: training loss nan")


def test_every_step_is_told_from_where_a_run_was_and_changes_nothing(tmp_path: Path) -> None:
    specs = plan([TOY], ["sgd", "lngd"], range(1))
    started = race(specs, Place(out=tmp_path))
    rows = [next(started)[1] for _ in specs]
    started.close()
    told: list[tuple[str, int]] = []
    waiting = unfinished(specs, tmp_path, resume=True)
    rows += [row for _, row in race(waiting, Place(out=tmp_path), lambda spec, steps: told.append((spec.optimizer, steps)))]
    assert told == [(name, 6 * epoch + step) for epoch in (1, 2) for name in ("sgd", "lngd") for step in range(1, 7)]
    alone = [without_seconds(list(train(spec, toy_split()))) for spec in specs]
    assert without_seconds(rows) == [row for pair in zip(*alone, strict=True) for row in pair]
    assert Run(specs[0], toy_split()).learner.watch is None


def in_a_terminal(words: list[str], width: int) -> tuple[int, str]:
    """Status and output of a command whose terminal has so many columns; Ctrl-C is pressed when its second run has ended."""
    child, terminal = pty.fork()
    if not child:
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": str(width), "PYTHONPATH": os.pathsep.join(sys.path)}
        os.execv(sys.executable, command(*words))  # noqa: S606
    output, pressed = b"", False
    try:
        while chunk := os.read(terminal, 65536):
            output += chunk
            if not pressed and output.count(b"loss") >= 2:
                os.write(terminal, b"\x03")
                pressed = True
    except OSError:  # Linux ends a terminal whose last process has gone with an error
        pass
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), output.decode().replace("^C", "")  # the terminal's own echo


def test_nothing_wraps_in_a_narrow_terminal_and_ctrl_c_leaves_it_clean(tmp_path: Path) -> None:
    words = ["race", "digits-mlp", "--optimizers", "sgd", "--seeds", "500", "--epochs", "4", "--out", str(tmp_path)]
    status, output = in_a_terminal(words, NARROW)
    live, _, last = output.partition("Stopped;")
    lines = [CONTROL.sub("", line) for line in re.split(r"[\r\n]+", live)]
    assert status == 130
    assert max(map(len, lines)) <= NARROW
    assert any("%" in line and "━" in line for line in lines)
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 1  # the cursor is hidden, and shown again
    assert "--resume" in last
