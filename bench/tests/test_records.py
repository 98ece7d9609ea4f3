from dataclasses import replace
from pathlib import Path

import pytest

from lngd_bench import archive
from lngd_bench.errors import BenchError
from lngd_bench.training.records import (
    NEEDED,
    Record,
    add,
    begin,
    best_metric,
    finite,
    frame,
    partial_of,
    read_below,
    read_record,
    read_records,
    read_run,
    read_runs,
)
from runs import diverged, hand_made, write


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    record = diverged(hand_made("sgd", 0, [0.5, 0.75], 1.5))
    assert read_record(write(record, tmp_path)) == record
    assert best_metric(record) == 0.75


def test_a_run_has_no_name_before_it_has_ended_but_its_epochs_are_there(tmp_path: Path) -> None:
    record, path = hand_made("sgd", 0, [0.5], 1.0), tmp_path / "run.jsonl"
    begin(path, record.header)
    add(path, record.epochs[0])
    assert not path.exists()
    with partial_of(path).open("a") as file:
        file.write('{"event": "ep')
    assert read_run(path) == Record(record.header, record.epochs, finished=False)
    with pytest.warns(UserWarning, match=r"run\.jsonl\.partial: an unfinished run, not counted"):
        assert read_records(tmp_path) == []


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]\n", '{"event": "start"}\n', '{"event": "end"}\n', "\x00\x01", '{"price": 3}\n', "[" * 100_000],
    ids=["empty", "cut", "no object", "no epoch", "no start", "no text", "no event", "nested too deep"],
)
def test_a_file_that_is_no_record_gives_one_warning_that_names_it(tmp_path: Path, damage: str) -> None:
    good = hand_made("sgd", 0, [0.5], 1.0)
    write(good, tmp_path)
    (tmp_path / "bad.jsonl").write_text(damage)
    with pytest.warns(UserWarning, match=r"bad\.jsonl: not a readable record, not counted") as caught:
        assert read_records(tmp_path) == [good]
    assert len(caught) == 1
    assert read_run(tmp_path / "bad.jsonl") is None


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_a_record_cut_at_any_line_is_not_counted(tmp_path: Path, keep: int) -> None:
    path = write(hand_made("sgd", 0, [0.5, 0.6], 1.0), tmp_path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:keep]))
    with pytest.warns(UserWarning, match="it has no end"):
        assert read_records(tmp_path) == []


@pytest.mark.parametrize(("config", "message"), [(dict.fromkeys(NEEDED, "beauty"), "metric is 'beauty'"), ({}, "it lacks")])
def test_a_record_without_what_reports_need_is_not_counted(tmp_path: Path, config: dict[str, object], message: str) -> None:
    record = hand_made("sgd", 0, [0.5], 1.0)
    write(Record(replace(record.header, config=config), record.epochs), tmp_path)
    with pytest.warns(UserWarning, match=message):
        assert read_records(tmp_path) == []


def test_a_directory_and_its_archive_read_alike(tmp_path: Path) -> None:
    records = [hand_made("sgd", 0, [0.5], 1.0), hand_made("lngd", 1, [0.25, 0.5], 1.0)]
    (tmp_path / "runs" / "below").mkdir(parents=True)
    write(records[0], tmp_path / "runs")
    write(records[1], tmp_path / "runs" / "below")
    packed = tmp_path / "runs.jsonl.gz"
    archive.write(packed, archive.read(tmp_path / "runs"))
    for source in (tmp_path / "runs", packed):
        assert read_records(source) == records[:1]
        assert sorted(read_runs(source)) == ["below/toy--lngd--lr0.1--seed1.jsonl", "toy--sgd--lr0.1--seed0.jsonl"]
        assert sorted(record.header.seed for _, record in read_below([source, source / "below"])) == [0, 1]
    with pytest.raises(BenchError, match="no such file"):
        read_runs(tmp_path / "nothing")


def test_a_frame_has_a_row_an_epoch(tmp_path: Path) -> None:
    write(diverged(hand_made("sgd", 0, [0.5, 0.75], 1.5)), tmp_path)
    table = frame(read_runs(tmp_path))
    assert list(table.columns[:6]) == ["file", "task", "optimizer", "seed", "lr", "damping"]
    assert list(table["step"]) == [6, 12, 18]
    assert table["metric"].max() == 0.75
    assert list(table["diverged"]) == [False, False, True]


def test_what_is_not_finite_is_null_in_the_file() -> None:
    assert [finite(value) for value in (float("nan"), float("inf"), 0.5)] == [None, None, 0.5]


def test_a_record_from_before_there_was_a_choice_of_clock_counts_wall_seconds(tmp_path: Path) -> None:
    path = write(hand_made("sgd", 0, [0.5], 1.0), tmp_path)
    path.write_text(path.read_text().replace(', "clock": "wall"', ""))
    assert "clock" not in path.read_text()
    assert read_record(path).header.clock == "wall"
