"""Which runs `lngd report` puts in one table, and what it leaves out."""

import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from lngd_bench.errors import BenchError
from lngd_bench.report.comparison import compare, differences
from lngd_bench.report.summary import TaskSummary
from lngd_bench.training.records import Record, read_below
from runs import hand_made, write
from test_cli import fails, lngd

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def changed(record: Record, **header: object) -> Record:
    return Record(replace(record.header, **header), record.epochs)


def configured(record: Record, **config: object) -> Record:
    return changed(record, config={**record.header.config, **config})


def save(record: Record, directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return write(record, directory)


def rows(summary: TaskSummary) -> dict[str, list[int]]:
    """Seeds by label."""
    return {row.label: [run.header.seed for run in row.runs] for row in summary.rows}


def test_runs_of_one_setting_are_joined_from_any_depth(tmp_path: Path) -> None:
    for seed, folder in enumerate((".", "a", "b/c")):
        save(hand_made("sgd", seed, [0.5], 1.0), tmp_path / folder)
    save(hand_made("lngd", 0, [0.5], 1.0), tmp_path / "b")
    (summary,) = compare([tmp_path], 0.5)
    assert {label: sorted(seeds) for label, seeds in rows(summary).items()} == {"SGD": [0, 1, 2], "LNGD": [0]}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"machine": "another"}, "machine: another"),
        ({"threads": 2}, "threads: 2"),
        ({"clock": "cpu"}, "clock: cpu"),
        ({"device": "cuda"}, "device: cuda"),
        ({"seed": 1000}, "runs: trials on held-out samples"),
    ],
)
def test_runs_under_other_conditions_get_a_table_of_their_own_that_says_so(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    save(hand_made("sgd", 0, [0.5], 1.0), tmp_path / "one")
    save(changed(hand_made("sgd", 1, [0.5], 1.0), **change), tmp_path / "other")
    summaries = compare([tmp_path / "one", tmp_path / "other"], 0.5)
    assert [list(rows(summary)) for summary in summaries] == [["SGD"], ["SGD"]]
    assert differences(summaries)[1] == told


@pytest.mark.parametrize("setting", ["batch_size", "weight_decay", "note", "execution", "total_steps", "schedule"])
def test_runs_with_other_settings_get_a_table_of_their_own(tmp_path: Path, setting: str) -> None:
    save(hand_made("sgd", 0, [0.5], 1.0), tmp_path / "one")
    value = 7 if setting in ("batch_size", "total_steps") else "7"
    save(configured(hand_made("sgd", 1, [0.5], 1.0), **{setting: value}), tmp_path / "other")
    summaries = compare([tmp_path], 0.5)
    assert [rows(summary) for summary in summaries] == [{"SGD": [0]}, {"SGD": [1]}]
    assert differences(summaries)[1] == f"{setting.replace('_', ' ')}: 7"


def test_optimizers_with_lengths_of_their_own_in_one_race_stay_together(tmp_path: Path) -> None:
    for seed, folder in enumerate(("one", "other")):
        save(hand_made("sgd", seed, [0.5], 1.0), tmp_path / folder)
        save(configured(hand_made("lngd", seed, [0.5], 1.0), total_steps=3, schedule="steps"), tmp_path / folder)
    (summary,) = compare([tmp_path], 0.5)
    assert rows(summary) == {"SGD": [0, 1], "LNGD": [0, 1]}


def test_lengths_of_two_races_are_never_mixed_in_a_row(tmp_path: Path) -> None:
    save(hand_made("sgd", 0, [0.5], 1.0), tmp_path / "one")
    save(configured(hand_made("lngd", 0, [0.5], 1.0), total_steps=3), tmp_path / "one")
    save(configured(hand_made("sgd", 1, [0.5], 1.0), total_steps=3), tmp_path / "other")
    save(hand_made("lngd", 1, [0.5], 1.0), tmp_path / "other")
    assert [rows(summary) for summary in compare([tmp_path], 0.5)] == [{"SGD": [0], "LNGD": [0]}, {"SGD": [1], "LNGD": [1]}]


def test_a_seed_that_was_run_twice_is_counted_once_and_the_latest_stays(tmp_path: Path) -> None:
    old = save(hand_made("sgd", 0, [0.5], 1.0), tmp_path / "old")
    save(changed(hand_made("sgd", 0, [0.7], 1.0), date="2026-02-01"), tmp_path / "new")
    with pytest.warns(UserWarning, match=rf"{old}: the same run as .*new.*, not counted"):
        (summary,) = compare([tmp_path], 0.5)
    assert rows(summary) == {"SGD": [0]}
    assert summary.rows[0].best is not None
    assert summary.rows[0].best.mean == 0.7


def test_a_directory_named_twice_is_read_once(tmp_path: Path) -> None:
    save(hand_made("sgd", 0, [0.5], 1.0), tmp_path / "a")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert len(list(read_below([tmp_path, tmp_path / "a", tmp_path / "link"]))) == 1


def test_other_files_of_lines_and_unfinished_runs_are_skipped_with_a_line_each(tmp_path: Path) -> None:
    save(hand_made("sgd", 0, [0.5], 1.0), tmp_path)
    (tmp_path / "prices.jsonl").write_text('{"price": 3}\n')
    (tmp_path / "run.jsonl.partial").write_text("")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(compare([tmp_path])) == 1
    assert sorted(str(warning.message) for warning in caught) == [
        f"{tmp_path}/prices.jsonl: not a readable record, not counted (it lacks 'event')",
        f"{tmp_path}/run.jsonl.partial: an unfinished run, not counted",
    ]


def test_committed_records_of_all_ages_pass_without_a_warning() -> None:
    assert len(list(read_below([RESULTS / "default", RESULTS / "family" / "mnist", RESULTS / "quality" / "mnist-cnn"]))) > 300


def test_no_run_at_all_says_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"no finished run in .*; lngd race"):
        compare([tmp_path])


def test_the_command_writes_one_page_of_several_directories(tmp_path: Path) -> None:
    printed = lngd(
        "report", str(RESULTS / "default"), str(RESULTS / "family" / "mnist"), "--out", str(tmp_path / "new" / "all.html")
    )
    assert "mnist-cnn: 10 rows, 30 runs (machine: Intel(R) Xeon(R) Processor; clock: wall)" in printed
    assert (tmp_path / "new" / "all.html").read_text().count("<section") == 5


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    status, errors = fails("report", str(RESULTS / "default"), "--out", str(tmp_path))
    assert (status, len(errors.splitlines())) == (2, 1)
    assert "name a file" in errors
