"""A race that was broken off, in whatever way, goes on to the very epochs of one that was not."""

import signal
import subprocess
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn

from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.errors import BenchError
from lngd_bench.tasks.data import Batches
from lngd_bench.training.race import Place, race, records_of, unfinished
from lngd_bench.training.recorded import checkpoint_of
from lngd_bench.training.records import Epoch, partial_of, read_record
from lngd_bench.training.train import RunSpec, train
from runs import TOY, toy_split, without_seconds
from test_cli import command, lngd


def mixed_model() -> nn.Module:
    """Convolutions, both kinds of normalisation, and dropout, which draws from the run's own randomness."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 4)),
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(32, 16), nn.LayerNorm(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3)),
    )


MIXED = replace(TOY, name="mixed", model=mixed_model, epoch_steps=5, steps=28)  # six batches a pass, five steps an epoch
SGD = RunSpec(TOY, "sgd", 0.1, 0)


def rows(spec: RunSpec) -> list[Epoch]:
    """The epochs of the run, never broken off."""
    return without_seconds(list(train(spec, toy_split())))


def finish(spec: RunSpec, out: Path) -> list[Epoch]:
    """What `--resume` does."""
    list(race(unfinished([spec], out, resume=True), Place(out=out)))
    assert [path.name for path in out.iterdir()] == [spec.file_name]
    return without_seconds(list(records_of([spec], out)[0].epochs))


def break_off(specs: list[RunSpec], out: Path, epochs: int) -> None:
    started = race(specs, Place(out=out))
    assert len(list(islice(started, epochs))) == epochs
    started.close()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_goes_on_bit_equal(tmp_path: Path, optimizer: str) -> None:
    spec = RunSpec(MIXED, optimizer, MIXED.rates.get(optimizer, 0.01), 0)
    break_off([spec], tmp_path, 3)
    torch.manual_seed(12345)
    assert finish(spec, tmp_path) == rows(spec)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_command_that_was_killed_or_interrupted_goes_on_to_the_same_records(tmp_path: Path, end: signal.Signals) -> None:
    words = ["race", "digits-mlp", "--optimizers", "sgd,lngd", "--seeds", "1", "--epochs", "30", "--epoch-steps", "3"]
    words += ["--train-samples", "256", "--threads", "1"]
    lngd(*words, "--out", str(tmp_path / "whole"))
    out = tmp_path / "broken"
    ended, said = end_after(5, [*words, "--out", str(out)], out, end)
    assert ended == (130 if end is signal.SIGINT else -signal.SIGKILL)
    assert ("Stopped; 0 of 2 runs are kept" in said) == ("--resume" in said) == (end is signal.SIGINT)
    assert len(list(out.glob("*.partial"))) == len(list(out.glob("*.checkpoint"))) == 2
    assert "2 of 2 runs were broken off" in lngd(*words, "--out", str(out), "--resume")
    for path in sorted((tmp_path / "whole").glob("*.jsonl")):
        assert without_seconds(read_record(out / path.name).epochs) == without_seconds(read_record(path).epochs)


def end_after(lines: int, words: list[str], out: Path, end: signal.Signals = signal.SIGKILL) -> tuple[int, str]:
    """Exit status and output of a command that gets a signal once a record holds so many lines."""
    with subprocess.Popen(command(*words), stdout=subprocess.PIPE, text=True) as process:
        while not any(len(path.read_bytes().splitlines()) >= lines for path in out.glob("*.partial")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(end)
        said, _ = process.communicate()
    return process.returncode, said


def test_the_seconds_and_the_header_of_the_first_part_are_kept(tmp_path: Path) -> None:
    break_off([SGD], tmp_path, 2)
    before = partial_of(tmp_path / SGD.file_name).read_text()
    list(race([SGD], Place(out=tmp_path, command="another")))
    assert (tmp_path / SGD.file_name).read_text().startswith(before)


@pytest.mark.parametrize("characters", [0, 50, None])
def test_lines_that_the_checkpoint_does_not_know_are_run_again(tmp_path: Path, characters: int | None) -> None:
    break_off([SGD], tmp_path, 1)
    checkpoint = saved(tmp_path).read_bytes()
    before = partial_of(tmp_path / SGD.file_name).read_text()
    break_off([SGD], tmp_path, 1)
    after = partial_of(tmp_path / SGD.file_name).read_text().removeprefix(before)
    partial_of(tmp_path / SGD.file_name).write_text(before + after[:characters])
    saved(tmp_path).write_bytes(checkpoint)
    assert finish(SGD, tmp_path) == rows(SGD)


def saved(out: Path, spec: RunSpec = SGD) -> Path:
    return checkpoint_of(out / spec.file_name)


def test_a_finished_run_loses_the_checkpoint_that_a_kill_has_left(tmp_path: Path) -> None:
    list(race([SGD], Place(out=tmp_path)))
    saved(tmp_path).write_bytes(b"old")
    saved(tmp_path).with_name(f"{saved(tmp_path).name}.new").write_bytes(b"next")
    assert unfinished([SGD], tmp_path, resume=True) == []
    assert [path.name for path in tmp_path.iterdir()] == [SGD.file_name]


DAMAGES = {
    "empty": lambda _: b"",
    "cut in the middle": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "an object that would run code": lambda _: b"cos\nsystem\n(S'touch ran'\ntR.",
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_torn_checkpoint_gives_one_warning_and_a_run_from_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    break_off([SGD], out, 2)
    saved(out).write_bytes(DAMAGES[damage](saved(out).read_bytes()))
    starts_from_scratch(SGD, out, "")
    assert not Path("ran").exists()


def starts_from_scratch(spec: RunSpec, out: Path, reason: str) -> None:
    with pytest.warns(
        UserWarning, match=f"{saved(out, spec)} can't be used .*{reason}.*; this run starts from scratch"
    ) as caught:
        assert finish(spec, out) == rows(spec)
    assert len(caught) == 1


def test_the_checkpoint_of_another_run_is_not_used(tmp_path: Path) -> None:
    other = replace(SGD, seed=1)
    break_off([SGD], tmp_path / "one", 1)
    break_off([other], tmp_path / "other", 1)
    saved(tmp_path / "other", other).replace(saved(tmp_path / "one"))
    starts_from_scratch(SGD, tmp_path / "one", "seed 1, now it is 0")


@pytest.mark.parametrize(("field", "value"), [("torch", "1.0"), ("threads", 64)])
def test_a_run_made_elsewhere_is_not_gone_on_with(tmp_path: Path, field: str, value: str | int) -> None:
    break_off([SGD], tmp_path, 2)
    found = torch.load(saved(tmp_path))
    torch.save({**found, "header": {**found["header"], field: value}}, saved(tmp_path))
    starts_from_scratch(SGD, tmp_path, f"made with {field} {value}, now it is")


def test_a_checkpoint_of_another_model_is_not_used(tmp_path: Path) -> None:
    spec = RunSpec(TOY, "lngd", 0.1, 0)
    break_off([replace(spec, task=replace(TOY, model=lambda: nn.Linear(8, 3)))], tmp_path, 2)
    starts_from_scratch(spec, tmp_path, "loading state_dict")


@pytest.mark.parametrize("epochs", [1, 3])
def test_records_are_only_gone_on_with_when_asked_and_with_the_same_settings(tmp_path: Path, epochs: int) -> None:
    break_off([SGD], tmp_path, epochs)
    with pytest.raises(BenchError, match="--resume"):
        unfinished([SGD], tmp_path, resume=False)
    with pytest.raises(BenchError, match="was run with other settings"):
        unfinished([replace(SGD, task=replace(TOY, epochs=5))], tmp_path, resume=True)


@pytest.mark.parametrize("taken", [0, 1, 5, 6, 7, 12])
def test_the_order_of_batches_goes_on_anywhere_in_a_pass(taken: int) -> None:
    one, other = (Batches(toy_split(), 16, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    for _ in range(taken):
        next(one)
    other.load_state_dict(one.state_dict())
    for (x, y), (other_x, other_y) in islice(zip(one, other, strict=True), 13):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)
