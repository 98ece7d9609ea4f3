"""What a race shows while it runs: on a terminal of any width, and in a pipe."""

import io
import os
import pty
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lngd_bench.cli.progress import Progress, clock_text, ended, status
from lngd_bench.training.race import Place, plan, race, unfinished
from lngd_bench.training.records import Epoch
from lngd_bench.training.train import Run, RunSpec, train
from runs import TOY, toy_split, without_seconds
from test_cli import command

LONG = replace(TOY, name="cifar10-resnet18", epochs=200, samples=50_000, batch_size=256)
SPEC = RunSpec(LONG, "lngd-spectral", 0.0125, 4)
NARROW = 60  # columns
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def epoch_of(number: int, **changes: object) -> Epoch:
    row = Epoch(epoch=number, step=6 * number, train_loss=0.5, eval_loss=0.5, metric=0.75, seconds=0.1)
    return replace(row, **changes)


def shown(progress: Progress, width: int) -> list[str]:
    """The display as a terminal of that width has it."""
    file = io.StringIO()
    Console(file=file, force_terminal=True, color_system=None, width=width).print(progress.lines())
    return file.getvalue().splitlines()


@given(st.integers(10, 200), st.integers(0, LONG.total_steps), st.none() | st.floats(0, 1))
def test_a_status_fits_any_width(width: int, steps: int, metric: float | None) -> None:
    text = status(SPEC, steps, metric, width)
    assert 0 < len(text) <= width


def test_a_status_says_as_much_as_fits() -> None:
    known = {width: status(SPEC, 200, 0.9123, width) for width in (120, 75, 60, 45, 25)}
    assert known == {
        120: "cifar10-resnet18  lngd-spectral 0.0125 seed 4  epoch 2/200  step 5/195  accuracy 91.23 %",
        75: "cifar10-resnet18  lngd-spectral 0.0125 seed 4  epoch 2/200  91.23 %",
        60: "lngd-spectral 0.0125 seed 4  epoch 2/200  91.23 %",
        45: "lngd-spectral  epoch 2/200  91.23 %",
        25: "epoch 2/200",
    }


@pytest.mark.parametrize(
    ("steps", "epoch"),
    [(0, "epoch 1/7  step 0/6"), (5, "epoch 1/7  step 5/6"), (6, "epoch 2/7  step 0/6"), (38, "epoch 7/7  step 2/4")],
)
def test_a_step_is_counted_within_its_epoch_and_the_last_may_be_shorter(steps: int, epoch: str) -> None:
    assert epoch in status(RunSpec(replace(TOY, steps=40), "sgd", 0.1, 0), steps, None, 100)


@given(st.integers(10, 200))
def test_the_line_of_a_run_that_ends_fits_any_width(width: int) -> None:
    for row in (epoch_of(200), epoch_of(3, metric=None, train_loss=None, diverged=True, reason="a long story " * 9)):
        assert 0 < len(ended(SPEC, row, width)) <= width


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (65, "1:05"), (3599, "59:59"), (7265, "2:01:05"), (432_000, "5 days")]
)
def test_a_duration_is_read_at_a_glance(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text


@pytest.mark.parametrize("width", [20, 40, NARROW, 100])
def test_the_display_is_two_lines_whatever_the_width(width: int) -> None:
    specs = plan([LONG], ["sgd", "lngd-spectral"], range(3))
    progress = Progress(specs, Console(width=width), {})
    assert len(shown(progress, width)) == 2
    progress.step(specs[1], 20)
    lines = shown(progress, width)
    assert len(lines) == 2
    assert max(map(len, lines)) <= width
    assert "epoch 1/200" in lines[1] or width == 20


def test_the_bar_goes_by_the_cost_of_steps_and_counts_what_an_earlier_race_has_done() -> None:
    cheap, dear = specs = plan([TOY], ["sgd", "lngd"], range(1))  # LNGD's step costs two of SGD's
    progress = Progress(specs, Console(), {cheap.file_name: 9})
    assert " 17 % " in shown(progress, 80)[0]
    for spec in (cheap, dear):
        progress.step(spec, 18)
        progress.epoch(spec, epoch_of(3))
    assert " 100 % " in shown(progress, 80)[0]
    assert "0:00 left" in shown(progress, 80)[0]


def test_a_run_that_diverges_leaves_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    spec = RunSpec(TOY, "sgd", 0.1, 0)
    progress = Progress([spec], Console(), {})
    progress.epoch(spec, epoch_of(1, metric=None, train_loss=None, diverged=True, reason="training loss nan at step 3"))
    assert "diverged: training loss nan at step 3" in capsys.readouterr().out
    assert " 100 % " in shown(progress, 80)[0]


def test_with_nothing_to_run_nothing_is_shown() -> None:
    file = io.StringIO()
    with Progress([], Console(file=file, force_terminal=True), {}):
        pass
    assert file.getvalue() == ""


def test_every_step_is_told_and_changes_nothing(tmp_path: Path) -> None:
    specs = plan([TOY], ["sgd", "lngd"], range(1))
    told: list[tuple[str, int]] = []
    rows = [row for spec, row in race(specs, Place(out=tmp_path), lambda spec, steps: told.append((spec.optimizer, steps)))]
    assert told == [
        (name, step) for epoch in range(3) for name in ("sgd", "lngd") for step in range(6 * epoch + 1, 6 * epoch + 7)
    ]
    alone = [without_seconds(list(train(spec, toy_split()))) for spec in specs]
    assert without_seconds(rows) == [row for pair in zip(*alone, strict=True) for row in pair]


def test_a_run_that_goes_on_tells_its_steps_from_where_it_was(tmp_path: Path) -> None:
    specs = plan([TOY], ["sgd"], range(1))
    started = race(specs, Place(out=tmp_path))
    next(started)
    started.close()
    told: list[int] = []
    list(race(unfinished(specs, tmp_path, resume=True), Place(out=tmp_path), lambda _, steps: told.append(steps)))
    assert told == list(range(7, 19))


def test_a_learner_is_watched_by_none_at_first() -> None:
    assert Run(RunSpec(TOY, "sgd", 0.1, 0), toy_split()).learner.watch is None


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
    frames = [line for line in lines if "left" in line or "loss" in line or "epoch" in line]
    assert status == 130
    assert len(frames) > 3
    assert max(map(len, frames)) <= NARROW
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 1  # the cursor is hidden, and shown again
    assert "--resume" in last
