"""TensorBoard's own reader finds in the logs exactly what the records say."""

import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lngd_bench.errors import BenchError
from lngd_bench.training.event_logs import EventLogs
from lngd_bench.training.records import Epoch, read_record
from lngd_bench.training.train import RunSpec
from runs import TOY, diverged, hand_made, write
from test_cli import lngd
from test_resume import end_after

WORDS = ["race", "digits-mlp", "--optimizers", "sgd,lngd", "--seeds", "1", "--train-samples", "256", "--threads", "1"]
TAGS = {"train_loss": "train_loss", "eval_loss": "eval_loss", "metric": "accuracy", "seconds": "seconds"}
TAGS["largest_norm"] = "largest_norm"
Points = dict[str, list[tuple[int, float]]]


def reader(directory: Path) -> EventAccumulator:
    """With every point of every file of a log, also those that TensorBoard would drop."""
    found = EventAccumulator(str(directory), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    found.Reload()
    return found


def points(directory: Path) -> Points:
    found = reader(directory)
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def expected(epochs: tuple[Epoch, ...]) -> Points:
    """A float32 has seven digits."""
    found = {
        tag: [(epoch.step, pytest.approx(value, rel=1e-6)) for epoch in epochs if (value := getattr(epoch, name)) is not None]
        for name, tag in TAGS.items()
    }
    return {tag: values for tag, values in found.items() if values}


def assert_logs_are_the_records(out: Path, runs: int) -> None:
    records = sorted(out.glob("*.jsonl"))
    assert len(records) == runs
    assert sorted(path.name for path in (out / "tensorboard").iterdir()) == sorted(path.stem for path in records)
    for path in records:
        assert points(out / "tensorboard" / path.stem) == expected(read_record(path).epochs)


def test_a_race_that_was_killed_and_goes_on_has_every_point_once(tmp_path: Path) -> None:
    words = [*WORDS, "--epochs", "30", "--epoch-steps", "3", "--out", str(tmp_path), "--tensorboard"]
    end_after(5, words, tmp_path)
    assert list(tmp_path.glob("tensorboard/*/events*"))
    lngd(*words, "--resume")
    assert_logs_are_the_records(tmp_path, 2)


def test_runs_that_were_finished_without_the_flag_get_their_logs_later(tmp_path: Path) -> None:
    lngd(*WORDS, "--steps", "4", "--out", str(tmp_path))
    assert not (tmp_path / "tensorboard").exists()
    for _ in range(2):
        lngd(*WORDS, "--steps", "4", "--out", str(tmp_path), "--resume", "--tensorboard")
    assert_logs_are_the_records(tmp_path, 2)


def test_the_time_between_points_is_that_of_training_and_what_is_not_finite_has_none(tmp_path: Path) -> None:
    record = diverged(hand_made("sgd", 0, [0.5, 0.6, 0.7], 2.5))
    path = write(record, tmp_path)
    EventLogs(tmp_path).finished(RunSpec(TOY, "sgd", 0.1, 0))
    assert points(tmp_path / "tensorboard" / path.stem) == expected(record.epochs)
    first, second, third = (event.wall_time for event in reader(tmp_path / "tensorboard" / path.stem).Scalars("accuracy"))
    assert (second - first, third - second) == (2.5, 2.5)


def test_without_tensorboard_one_line_says_what_to_install_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    for module in [key for key in sys.modules if key.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(BenchError, match=r"--tensorboard needs tensorboard: pip install"):
        lngd(*WORDS, "--steps", "4", "--out", str(tmp_path / "out"), "--tensorboard")
    assert not (tmp_path / "out").exists()
