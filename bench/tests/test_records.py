from pathlib import Path

import pytest

from lngd_bench.training.records import RecordWriter, finite, read_record, read_records
from runs import diverged, hand_made, write


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    record = diverged(hand_made("sgd", 0, [0.5, 0.75], 1.5))
    assert read_record(write(record, tmp_path)) == record


def test_a_run_has_no_name_before_it_has_ended_but_its_epochs_are_on_disk(tmp_path: Path) -> None:
    record = hand_made("sgd", 0, [0.5], 1.0)
    path = tmp_path / "run.jsonl"
    with RecordWriter(path, record.header) as writer:
        writer.epoch(record.epochs[0])
        assert not path.exists()
        assert len((tmp_path / "run.jsonl.partial").read_text().splitlines()) == 2
        writer.end()
    assert path.exists()
    assert not (tmp_path / "run.jsonl.partial").exists()


def test_an_exception_leaves_the_partial_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), RecordWriter(tmp_path / "run.jsonl", hand_made("sgd", 0, [], 1.0).header):
        raise KeyboardInterrupt
    with pytest.warns(UserWarning, match=r"run\.jsonl\.partial: an unfinished run"):
        assert read_records(tmp_path) == []


@pytest.mark.parametrize(
    "damage", ["", "{", "[]\n", '{"event": "start"}\n', '{"event": "end"}\n', "\x00\x01", '{"no": "event"}\n']
)
def test_a_damaged_file_gives_one_warning_that_names_it(tmp_path: Path, damage: str) -> None:
    good = hand_made("sgd", 0, [0.5], 1.0)
    write(good, tmp_path)
    (tmp_path / "bad.jsonl").write_text(damage)
    with pytest.warns(UserWarning, match=r"bad\.jsonl: not a readable record") as caught:
        assert read_records(tmp_path) == [good]
    assert len(caught) == 1


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_a_record_cut_at_any_line_is_not_counted(tmp_path: Path, keep: int) -> None:
    path = write(hand_made("sgd", 0, [0.5, 0.6], 1.0), tmp_path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:keep]))
    with pytest.warns(UserWarning, match="no beginning or no end"):
        assert read_records(tmp_path) == []


def test_what_is_not_finite_is_null_in_the_file() -> None:
    assert finite(float("nan")) is None
    assert finite(float("inf")) is None
    assert finite(0.5) == 0.5


def test_a_record_from_before_there_was_a_choice_of_clock_counts_wall_seconds(tmp_path: Path) -> None:
    path = write(hand_made("sgd", 0, [0.5], 1.0), tmp_path)
    path.write_text(path.read_text().replace(', "clock": "wall"', ""))
    assert "clock" not in path.read_text()
    assert read_record(path).header.clock == "wall"
