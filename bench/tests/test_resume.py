"""A race that was broken off, in whatever way, goes on to the very epochs of one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn

from killed import SPECS
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.errors import BenchError
from lngd_bench.tasks.data import Batches
from lngd_bench.training import checkpoint
from lngd_bench.training.race import Place, plan, race, records_of, unfinished
from lngd_bench.training.records import Epoch, read_record
from lngd_bench.training.train import RunSpec, train
from runs import TOY, toy_split, without_seconds
from test_cli import command, lngd

ROOT = Path(__file__).parents[2]


def mixed_model() -> nn.Module:
    """Convolutions, both kinds of normalisation, and dropout, which draws from the run's own randomness."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 4)),
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(32, 16), nn.LayerNorm(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3)),
    )


MIXED = replace(TOY, name="mixed", model=mixed_model, epoch_steps=5, steps=28)  # six batches a pass, five steps an epoch


def rows(spec: RunSpec) -> list[Epoch]:
    """The epochs of the run, never broken off."""
    return without_seconds(list(train(spec, toy_split())))


def finish(specs: list[RunSpec], out: Path) -> list[list[Epoch]]:
    """What `--resume` does."""
    list(race(unfinished(specs, out, resume=True), Place(out=out)))
    assert [path.suffix for path in sorted(out.iterdir())] == [".jsonl"] * len(specs)
    return [without_seconds(list(record.epochs)) for record in records_of(specs, out)]


def break_off(specs: list[RunSpec], out: Path, epochs: int) -> None:
    started = race(specs, Place(out=out))
    assert len(list(islice(started, epochs))) == epochs
    started.close()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_goes_on_bit_equal(tmp_path: Path, optimizer: str) -> None:
    spec = RunSpec(MIXED, optimizer, MIXED.rates.get(optimizer, 0.01), 0)
    break_off([spec], tmp_path, 3)
    torch.manual_seed(12345)
    assert finish([spec], tmp_path) == [rows(spec)]


def test_a_race_killed_before_any_operation_on_a_file_goes_on_bit_equal(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    subprocess.run([sys.executable, "-m", "killed", str(tmp_path)], check=True, cwd=ROOT, env=environment)
    expected = [rows(spec) for spec in SPECS]
    lives = sorted(tmp_path.glob("once-*"))
    assert len(lives) > 20
    assert all(finish(SPECS, out) == expected for out in [*lives, tmp_path / "often"])


def test_a_killed_command_goes_on_to_the_same_records(tmp_path: Path) -> None:
    words = ["race", "digits-mlp", "--optimizers", "sgd,lngd", "--seeds", "1", "--epochs", "60", "--epoch-steps", "3"]
    words += ["--train-samples", "256", "--threads", "1"]
    lngd(*words, "--out", str(tmp_path / "whole"))
    out = tmp_path / "killed"
    kill_after(5, [*words, "--out", str(out)], out)
    assert len(list(out.glob("*.partial"))) == 2
    assert not list(out.glob("*.jsonl"))
    assert "2 of 2 runs were broken off" in lngd(*words, "--out", str(out), "--resume")
    for path in sorted((tmp_path / "whole").glob("*.jsonl")):
        assert without_seconds(read_record(out / path.name).epochs) == without_seconds(read_record(path).epochs)


def kill_after(lines: int, words: list[str], out: Path) -> None:
    """SIGKILL once a record holds so many lines."""
    with subprocess.Popen(command(*words), stdout=subprocess.DEVNULL) as process:
        while not any(len(path.read_bytes().splitlines()) >= lines for path in out.glob("*.partial")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)


def test_the_seconds_and_the_header_of_the_first_part_are_kept(tmp_path: Path) -> None:
    spec = RunSpec(TOY, "sgd", 0.1, 0)
    break_off([spec], tmp_path, 2)
    before = partial(spec, tmp_path).read_text()
    list(race([spec], Place(out=tmp_path, command="another")))
    assert (tmp_path / spec.file_name).read_text().startswith(before)


def partial(spec: RunSpec, out: Path) -> Path:
    return out / f"{spec.file_name}.partial"


def saved(spec: RunSpec, out: Path) -> Path:
    return checkpoint.checkpoint_of(out / spec.file_name)


def next_lines(spec: RunSpec, directory: Path, after: int) -> str:
    """The lines that a whole run writes after so many epochs."""
    list(race([spec], Place(out=directory)))
    return "".join((directory / spec.file_name).read_text().splitlines(keepends=True)[1 + after :])


@pytest.mark.parametrize("characters", [1, 50, -2, -1, None])
@pytest.mark.parametrize("epochs", [1, 2])
def test_lines_that_the_checkpoint_does_not_know_are_run_again(tmp_path: Path, epochs: int, characters: int | None) -> None:
    spec = RunSpec(TOY, "adamw", 0.01, 0)
    break_off([spec], tmp_path / "run", epochs)
    with partial(spec, tmp_path / "run").open("a") as file:
        file.write(next_lines(spec, tmp_path / "whole", epochs)[:characters])
    assert finish([spec], tmp_path / "run") == [rows(spec)]


def test_a_finished_run_loses_the_checkpoint_that_a_kill_has_left(tmp_path: Path) -> None:
    spec = RunSpec(TOY, "sgd", 0.1, 0)
    list(race([spec], Place(out=tmp_path)))
    saved(spec, tmp_path).write_bytes(b"old")
    assert unfinished([spec], tmp_path, resume=True) == []
    assert not saved(spec, tmp_path).exists()


DAMAGES = {
    "empty": lambda _: b"",
    "cut in its head": lambda content: content[:30],
    "cut in the middle": lambda content: content[: len(content) // 2],
    "cut at its end": lambda content: content[:-1],
    "one bit flipped": lambda content: content[:2000] + bytes([content[2000] ^ 1]) + content[2001:],
    "something else": lambda content: b"\n\n\n" + content,
    "with its checksum right": lambda _: signed(b"PK\x03\x04 no archive"),
    "with an object that would run code": lambda _: signed(b"cos\nsystem\n(S'touch ran'\ntR."),
}


def signed(content: bytes) -> bytes:
    return b"\n".join([checkpoint.FORMAT, checkpoint._digest(content), content])


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_gives_one_warning_and_a_run_from_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.chdir(tmp_path)
    spec, out = RunSpec(TOY, "sgd", 0.1, 0), tmp_path / "run"
    break_off([spec], out, 2)
    saved(spec, out).write_bytes(DAMAGES[damage](saved(spec, out).read_bytes()))
    starts_from_scratch(spec, out, "it is")
    assert not Path("ran").exists()


def starts_from_scratch(spec: RunSpec, out: Path, reason: str) -> None:
    with pytest.warns(UserWarning, match=f"{saved(spec, out)}: .*{reason}.*; this run starts from scratch") as caught:
        assert finish([spec], out) == [rows(spec)]
    assert len(caught) == 1


def test_the_checkpoint_of_another_run_is_not_used(tmp_path: Path) -> None:
    one, other = RunSpec(TOY, "sgd", 0.1, 0), RunSpec(TOY, "sgd", 0.1, 1)
    for spec in (one, other):
        break_off([spec], tmp_path / str(spec.seed), 1)
    saved(other, tmp_path / "1").replace(saved(one, tmp_path / "0"))
    starts_from_scratch(one, tmp_path / "0", "is not its record")


def test_a_checkpoint_without_the_epochs_that_it_knows_is_not_used(tmp_path: Path) -> None:
    spec = RunSpec(TOY, "sgd", 0.1, 0)
    break_off([spec], tmp_path, 2)
    lines = partial(spec, tmp_path).read_text().splitlines(keepends=True)
    partial(spec, tmp_path).write_text("".join(lines[:2]))
    starts_from_scratch(spec, tmp_path, "it knows 2 epochs, its record 1")


def test_a_checkpoint_without_its_record_is_not_used(tmp_path: Path) -> None:
    spec = RunSpec(TOY, "sgd", 0.1, 0)
    break_off([spec], tmp_path, 2)
    partial(spec, tmp_path).unlink()
    starts_from_scratch(spec, tmp_path, "is not its record")


@pytest.mark.parametrize(("field", "value"), [("torch", "1.0"), ("threads", 64), ("machine", "another"), ("device", "cuda")])
def test_a_run_made_elsewhere_is_not_gone_on_with(tmp_path: Path, field: str, value: str | int) -> None:
    spec = RunSpec(TOY, "sgd", 0.1, 0)
    break_off([spec], tmp_path, 2)
    first, *others = partial(spec, tmp_path).read_text().splitlines(keepends=True)
    partial(spec, tmp_path).write_text("".join([json.dumps({**json.loads(first), field: value}) + "\n", *others]))
    found = checkpoint.load(saved(spec, tmp_path))
    assert found
    checkpoint.save(replace(found, header=replace(found.header, **{field: value})), saved(spec, tmp_path))
    starts_from_scratch(spec, tmp_path, f"made with {field} {value}, now it is")


def test_a_checkpoint_of_another_model_is_not_used(tmp_path: Path) -> None:
    spec = RunSpec(TOY, "lngd", 0.1, 0)
    break_off([replace(spec, task=replace(TOY, model=lambda: nn.Linear(8, 3)))], tmp_path, 2)
    starts_from_scratch(spec, tmp_path, "does not fit this version")


def test_a_race_that_was_broken_off_is_only_gone_on_with_when_asked_and_with_the_same_settings(tmp_path: Path) -> None:
    break_off(plan([TOY], ["sgd"], range(1)), tmp_path, 1)
    with pytest.raises(BenchError, match="--resume"):
        unfinished(plan([TOY], ["sgd"], range(1)), tmp_path, resume=False)
    with pytest.raises(BenchError, match="partial was run with other settings"):
        unfinished(plan([replace(TOY, epochs=5)], ["sgd"], range(1)), tmp_path, resume=True)


@pytest.mark.parametrize("taken", [0, 1, 5, 6, 7, 12])
def test_the_order_of_batches_goes_on_anywhere_in_a_pass(taken: int) -> None:
    one, other = (Batches(toy_split(), 16, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    for _ in range(taken):
        next(one)
    other.load_state_dict(one.state_dict())
    for (x, y), (other_x, other_y) in islice(zip(one, other, strict=True), 13):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)
