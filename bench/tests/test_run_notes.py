"""`run.md`: what a person finds in a run directory."""

import re
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from lngd_bench.report.run_notes import Notes
from lngd_bench.training.race import Place, plan, race
from lngd_bench.training.records import partial_of
from lngd_bench.training.train import RunSpec
from runs import TOY, diverged, hand_made, write
from test_cli import TINY, command, lngd

SPECS = plan([TOY], ["sgd", "lngd"], range(1))


def states(page: str) -> list[tuple[str, ...]]:
    """The cells of the table of runs, by row."""
    table = page.split("## Runs")[1].split("## Files")[0]
    rows = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in table.splitlines() if line.startswith("|")]
    return [tuple(row) for row in rows[2:]]


def files(page: str) -> dict[str, int]:
    return {name: int(count) for name, count in re.findall(r"^\| `(.+?)` \| (\d+) \|", page.split("## Files")[1], re.MULTILINE)}


def notes(out: Path, specs: list[RunSpec] = SPECS, again: str = "lngd race toy --resume") -> str:
    return Notes(specs, Place(out=out, command="lngd race toy"), again).write().read_text()


def test_before_the_first_run_everything_is_waiting(tmp_path: Path) -> None:
    page = notes(tmp_path)
    assert page.startswith("# Runs of toy\n\n    lngd race toy\n")
    assert "0 of 2 runs are over, 0 unfinished, 2 waiting" in page
    assert states(page)[0] == ("toy", "sgd", "0.1", "–", "0", "waiting", "–", "–")
    assert files(page) == {"run.md": 1}


def test_each_state_is_told_with_its_last_figures(tmp_path: Path) -> None:
    write(hand_made("sgd", 0, [0.5, 0.75], 1.0), tmp_path)
    write(diverged(hand_made("muon", 0, [0.5], 1.0)), tmp_path)
    started = race(SPECS[1:], Place(out=tmp_path))
    next(started)
    started.close()
    page = notes(tmp_path, [*SPECS, RunSpec(TOY, "adamw", 0.01, 5, 0.3)])
    assert [row[5] for row in states(page)] == [
        "finished",
        "unfinished, 1 of 3 epochs",
        "waiting",
        "diverged in epoch 2: training loss nan",
    ]
    assert states(page)[0][6:] == ("0.8000", "accuracy 75.00 %")
    assert states(page)[2][:5] == ("toy", "adamw", "0.01", "0.3", "5")
    assert "2 of 4 runs are over, 1 unfinished, 1 waiting" in page
    assert files(page) == {"*.jsonl": 2, "*.jsonl.partial": 1, "*.checkpoint": 1, "run.md": 1}


def test_it_says_how_to_go_on_only_while_something_is_left(tmp_path: Path) -> None:
    assert "`lngd race toy --resume`" in notes(tmp_path)
    list(race(SPECS, Place(out=tmp_path, command="lngd race toy")))
    page = notes(tmp_path)
    assert "--resume" not in page
    assert f"`lngd table {tmp_path}`" in page
    assert [row[5] for row in states(page)] == ["finished", "finished"]


def test_conditions_and_commands_are_those_of_the_runs(tmp_path: Path) -> None:
    record = hand_made("sgd", 0, [0.5], 1.0)
    write(record, tmp_path)
    write(
        type(record)(
            replace(record.header, seed=1, machine="another", command="lngd race toy --seeds 2", torch="3"), record.epochs
        ),
        tmp_path,
    )
    page = notes(tmp_path)
    assert "\n    lngd race toy\n    lngd race toy --seeds 2\n" in page
    assert "- a machine, cpu, 1 thread; seconds are wall-clock time\n- another, cpu, 1 thread" in page
    assert "torch 2, 3, Python" in page


@pytest.mark.parametrize("content", ['{"price": 3}\n', "", "\x00", '{"event": "start", "task": "toy"}\n'])
def test_what_is_no_record_is_named_and_not_counted(tmp_path: Path, content: str) -> None:
    (tmp_path / "prices.jsonl").write_text(content)
    page = notes(tmp_path)
    assert states(page)[-1][0] == "prices.jsonl"
    assert states(page)[-1][5] == "not a readable record"
    assert "0 of 2 runs are over, 0 unfinished, 2 waiting" in page


def test_a_text_with_bars_and_line_breaks_stays_in_its_cell(tmp_path: Path) -> None:
    record = diverged(hand_made("sgd", 0, [], 1.0))
    last = replace(record.epochs[-1], reason="a | b\n## c")
    write(type(record)(record.header, (last,)), tmp_path)
    assert states(notes(tmp_path))[0][5] == r"diverged in epoch 1: a \| b ## c"


def test_a_race_leaves_it_with_everything_that_it_made(tmp_path: Path) -> None:
    lngd("race", *TINY, "--out", str(tmp_path), "--tensorboard")
    page = (tmp_path / "run.md").read_text()
    assert "2 of 2 runs are over" in page
    assert files(page) == {"*.jsonl": 2, "table.md": 1, "*.png": 1, "report.html": 1, "tensorboard": 1, "run.md": 1}
    assert {path.name.removesuffix(".new") for path in tmp_path.iterdir() if path.suffix != ".jsonl"} == {
        *("table.md", "digits-mlp.png", "report.html", "tensorboard", "run.md")
    }


def test_a_second_race_in_the_directory_keeps_the_runs_of_the_first(tmp_path: Path) -> None:
    lngd("race", *TINY, "--out", str(tmp_path))
    lngd("race", *TINY[:1], "--optimizers", "adamw", *TINY[3:], "--out", str(tmp_path), "--resume")
    assert sorted(row[1] for row in states((tmp_path / "run.md").read_text())) == ["adamw", "lngd", "sgd"]


def test_after_ctrl_c_it_says_what_is_on_the_disk(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["race", "digits-mlp", "--optimizers", "sgd,adamw", "--seeds", "300", "--epochs", "8", "--out", str(out)]
    with subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "seed 1 " not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130
    page = (out / "run.md").read_text()
    told = {f"digits-mlp--{row[1]}--lr{row[2]}--seed{row[4]}.jsonl": row[5] for row in states(page)}
    assert len(told) == 600
    for name, state in told.items():
        partial = partial_of(out / name)
        epochs = len(partial.read_text().splitlines()) - 1 if partial.exists() else None
        waiting = "waiting" if epochs is None else f"unfinished, {epochs} of 8 epochs"
        assert state == ("finished" if (out / name).exists() else waiting)
    assert "`lngd race digits-mlp" not in page.split("## Runs")[1]
    assert "--resume`" in page
