"""Which runs stand in one table, what the tables say of each other, and the command that shows them."""

from dataclasses import replace
from pathlib import Path

import pytest

from lngd_bench import archive
from lngd_bench.errors import BenchError
from lngd_bench.report.comparison import compare
from lngd_bench.report.report import MARK, load_summaries
from lngd_bench.report.summary import TaskSummary
from lngd_bench.training.records import Record, read_below
from runs import hand_made, write
from test_cli import lngd


def changed(record: Record, **header: object) -> Record:
    return Record(replace(record.header, **header), record.epochs)


def configured(record: Record, **config: object) -> Record:
    return changed(record, config={**record.header.config, **config})


def save(record: Record, directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return write(record, directory)


def tables(*sources: Path) -> list[TaskSummary]:
    return compare(read_below(sources), 0.5)


def rows(summary: TaskSummary) -> dict[str, list[int]]:
    """Seeds by label."""
    return {row.label: sorted(run.header.seed for run in row.runs) for row in summary.rows}


def test_runs_of_one_setting_are_joined_from_any_depth(tmp_path: Path) -> None:
    for seed, folder in enumerate((".", "a", "b/c")):
        save(hand_made("sgd", seed, [0.5], 1.0), tmp_path / folder)
    save(hand_made("lngd", 0, [0.5], 1.0), tmp_path / "b")
    (summary,) = tables(tmp_path)
    assert rows(summary) == {"SGD": [0, 1, 2], "LNGD": [0]}
    assert summary.difference == ""


@pytest.mark.parametrize("setting", ["machine", "threads", "clock", "batch_size", "weight_decay", "total_steps", "schedule"])
def test_other_conditions_and_settings_get_a_table_of_their_own_that_says_so(tmp_path: Path, setting: str) -> None:
    save(hand_made("sgd", 0, [0.5], 1.0), tmp_path / "one")
    change = changed if setting in ("machine", "threads", "clock") else configured
    value = "cpu" if setting == "clock" else 7
    save(change(hand_made("sgd", 1, [0.5], 1.0), **{setting: value}), tmp_path / "other")
    summaries = tables(tmp_path / "one", tmp_path / "other")
    assert [rows(summary) for summary in summaries] == [{"SGD": [0]}, {"SGD": [1]}]
    assert summaries[1].difference == f"{setting.replace('_', ' ')}: {value}"


def test_lengths_of_their_own_keep_a_race_together_and_are_never_mixed_in_a_row(tmp_path: Path) -> None:
    for seed, folder in enumerate(("one", "two")):
        save(hand_made("sgd", seed, [0.5], 1.0), tmp_path / folder)
        save(configured(hand_made("lngd", seed, [0.5], 1.0), total_steps=3), tmp_path / folder)
    save(configured(hand_made("sgd", 2, [0.5], 1.0), total_steps=3), tmp_path / "three")
    save(hand_made("lngd", 2, [0.5], 1.0), tmp_path / "three")
    found = [rows(summary) for summary in tables(*(tmp_path / name for name in ("one", "two", "three")))]
    assert found == [{"SGD": [0, 1], "LNGD": [0, 1]}, {"SGD": [2], "LNGD": [2]}]


def test_a_seed_that_was_run_twice_is_counted_once_and_the_latest_stays(tmp_path: Path) -> None:
    old = save(hand_made("sgd", 0, [0.5], 1.0), tmp_path / "old")
    save(changed(hand_made("sgd", 0, [0.7], 1.0), date="2026-02-01"), tmp_path / "new")
    with pytest.warns(UserWarning, match=rf"{old}: the same run as .*new.*, not counted"):
        (summary,) = tables(tmp_path)
    assert (rows(summary), summary.rows[0].mean("best")) == ({"SGD": [0]}, 0.7)


def test_trials_of_a_search_are_shown_only_where_there_is_nothing_else(tmp_path: Path) -> None:
    save(hand_made("sgd", 0, [0.5], 1.0), tmp_path)
    save(hand_made("sgd", 1000, [0.5], 1.0), tmp_path / "tuning")
    assert [rows(summary) for summary in tables(tmp_path)] == [{"SGD": [0]}]
    assert [rows(summary) for summary in tables(tmp_path / "tuning")] == [{"SGD": [1000]}]


def test_no_run_at_all_says_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"no finished run in .*; lngd race"):
        load_summaries([tmp_path])


def test_the_command_compares_a_directory_with_an_archive(tmp_path: Path) -> None:
    save(hand_made("sgd", 0, [0.5], 1.0), tmp_path / "new")
    old, page = save(changed(hand_made("sgd", 0, [0.6], 1.0), threads=2), tmp_path / "old"), tmp_path / "a" / "all.html"
    archive.write(tmp_path / "old.jsonl.gz", archive.read(old))
    printed = lngd("report", str(tmp_path / "new"), str(tmp_path / "old.jsonl.gz"), "--out", str(page))
    assert "toy, rows: 1, runs: 1 (threads: 2)" in printed
    assert page.read_text().count("<section") == 2


def test_a_study_is_a_page_a_picture_and_an_archive_and_keeps_a_persons_words(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(changed(hand_made("sgd", 0, [0.5], 1.0), task=name), tmp_path / name)
    study, sources = tmp_path / "results" / "study", [str(tmp_path / name) for name in ("a", "b")]
    lngd("report", *sources, "--into", str(study))
    text = study.with_suffix(".md").read_text()
    assert "lngd race toy\n" in text
    assert "| SGD " in text
    assert "![Training loss and metric](study.png)" in text
    assert study.with_suffix(".png").stat().st_size > 10_000
    assert list(archive.read(tmp_path / "results" / "study.jsonl.gz")) == [
        f"{n}/{n}--sgd--lr0.1--seed0.jsonl" for n in ("a", "b")
    ]
    study.with_suffix(".md").write_text(f"What was found.\n{MARK}\nold tables")
    lngd("report", str(tmp_path / "results" / "study.jsonl.gz"), "--into", str(study))
    again = study.with_suffix(".md").read_text()
    assert again == f"What was found.\n{text[text.index(MARK) :]}"
    study.with_suffix(".md").write_text("All by hand.")
    with pytest.raises(BenchError, match="was written by somebody"):
        lngd("report", *sources, "--into", str(study))
