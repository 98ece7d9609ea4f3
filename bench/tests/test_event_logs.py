"""TensorBoard's own reader finds in the logs exactly what the records say."""

import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lngd_bench.errors import BenchError
from lngd_bench.training.event_logs import EventLog, check_installed
from lngd_bench.training.records import Epoch, Record, read_record
from runs import diverged, hand_made, write
from test_cli import lngd
from test_resume import kill_after

WORDS = ["race", "digits-mlp", "--optimizers", "sgd,lngd", "--seeds", "1", "--train-samples", "256", "--threads", "1"]
TAGS = {
    "train_loss": "train_loss",
    "eval_loss": "eval_loss",
    "metric": "accuracy",
    "seconds": "seconds",
    "largest_norm": "largest_norm",
}

Points = list[tuple[int, float]]


def points(directory: Path) -> dict[str, Points]:
    """Every point of every file of a log, also those that TensorBoard would drop."""
    reader = EventAccumulator(str(directory), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    reader.Reload()
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def expected(epochs: tuple[Epoch, ...]) -> dict[str, Points]:
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


def test_the_flag_writes_every_figure_of_every_epoch_by_step(tmp_path: Path) -> None:
    lngd(*WORDS, "--steps", "12", "--out", str(tmp_path), "--tensorboard")
    assert_logs_are_the_records(tmp_path, 2)


def test_a_race_that_was_killed_and_goes_on_has_every_point_once(tmp_path: Path) -> None:
    words = [*WORDS, "--epochs", "30", "--epoch-steps", "3", "--out", str(tmp_path), "--tensorboard"]
    kill_after(5, words, tmp_path)
    assert len(list(tmp_path.glob("*.partial"))) == 2
    assert list(tmp_path.glob("tensorboard/*/events*"))
    lngd(*words, "--resume")
    assert_logs_are_the_records(tmp_path, 2)


def test_runs_that_were_finished_without_the_flag_get_their_logs_later(tmp_path: Path) -> None:
    lngd(*WORDS, "--steps", "4", "--out", str(tmp_path))
    assert not (tmp_path / "tensorboard").exists()
    lngd(*WORDS, "--steps", "4", "--out", str(tmp_path), "--resume", "--tensorboard")
    lngd(*WORDS, "--steps", "4", "--out", str(tmp_path), "--resume", "--tensorboard")
    assert_logs_are_the_records(tmp_path, 2)


def logged(record: Record, directory: Path) -> EventAccumulator:
    log = EventLog(directory, record.header)
    for epoch in record.epochs:
        log.add(epoch)
    log.close()
    reader = EventAccumulator(str(directory))
    reader.Reload()
    return reader


def test_what_is_not_finite_has_no_point(tmp_path: Path) -> None:
    record = diverged(hand_made("sgd", 0, [0.5], 1.0))
    logged(record, tmp_path)
    assert points(tmp_path) == expected(record.epochs)


def test_the_time_between_points_is_that_of_training(tmp_path: Path) -> None:
    reader = logged(hand_made("sgd", 0, [0.5, 0.6, 0.7], 2.5), tmp_path)
    first, second, third = (event.wall_time for event in reader.Scalars("accuracy"))
    assert (second - first, third - second) == (2.5, 2.5)


def test_a_log_takes_away_its_former_self_and_nothing_else(tmp_path: Path) -> None:
    record = hand_made("sgd", 0, [0.5], 1.0)
    (tmp_path / "mine.txt").write_text("kept")
    for _ in range(2):
        logged(record, tmp_path)
    assert points(tmp_path) == expected(record.epochs)
    assert (tmp_path / "mine.txt").exists()
    assert len(list(tmp_path.iterdir())) == 2


def test_without_tensorboard_one_line_says_what_to_install_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_installed()
    monkeypatch.setattr(sys, "path", [])
    for module in [key for key in sys.modules if key.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(BenchError, match=r"--tensorboard needs tensorboard: pip install"):
        lngd(*WORDS, "--steps", "4", "--out", str(tmp_path / "out"), "--tensorboard")
    assert not (tmp_path / "out").exists()


def test_a_record_from_elsewhere_can_be_logged_from_its_file(tmp_path: Path) -> None:
    record = read_record(write(hand_made("lngd", 3, [0.25, 0.5], 1.0), tmp_path))
    logged(record, tmp_path / "log")
    assert points(tmp_path / "log")["accuracy"] == [(6, 0.25), (12, 0.5)]
