import re
from dataclasses import replace
from pathlib import Path

import pytest

from lngd_bench.errors import BenchError
from lngd_bench.report.curves import curve
from lngd_bench.report.report import load_summaries, write_figures, write_page, write_tables
from lngd_bench.report.summary import auto_target, summarise
from lngd_bench.report.tables import cells, columns, markdown_table, shortfalls, text_table
from lngd_bench.training.records import Record
from runs import diverged, hand_made, write

RECORDS = [
    hand_made("sgd", 0, [0.5, 0.7, 0.8, 0.9], 1.0),
    hand_made("sgd", 1, [0.5, 0.7, 0.9, 0.92], 1.0),
    hand_made("adamw", 0, [0.5, 0.6, 0.7, 0.8], 1.0),
    hand_made("adamw", 1, [0.5, 0.6, 0.7, 0.91], 1.0),
    hand_made("lngd", 0, [0.8, 0.9, 0.95, 0.96], 1.5),
    hand_made("lngd", 1, [0.91, 0.92, 0.95, 0.94], 1.5),
]


def test_time_to_target_is_the_known_answer() -> None:
    sgd, adamw, lngd = summarise(RECORDS, 0.9)[0].rows
    assert (sgd.epochs, sgd.seconds, sgd.reached) == (3.5, 3.5, 2)
    assert (adamw.epochs, adamw.seconds, adamw.reached) == (None, None, 1)
    assert (lngd.epochs, lngd.seconds, lngd.reached) == (1.5, 2.25, 2)
    assert sgd.saved == pytest.approx(1 - 2.25 / 3.5)
    assert adamw.saved is None
    assert lngd.saved is None


def test_best_metric_and_its_spread_are_over_seeds() -> None:
    lngd = summarise(RECORDS, 0.9)[0].rows[2]
    assert lngd.best is not None
    assert lngd.best.mean == pytest.approx(0.955)
    assert lngd.best.deviation == pytest.approx(0.01 / 2**0.5)
    assert lngd.epoch_seconds.mean == pytest.approx(1.5)


def test_a_target_missed_by_some_seed_is_printed_as_missed_with_the_count() -> None:
    summary = summarise(RECORDS, 0.9)[0]
    table = cells(summary, columns(summary))
    assert table[1][2:4] == ["– (1/2)", "– (1/2)"]
    assert table[0][5] == "36 %"
    never = summarise(RECORDS, 0.99)[0]
    assert {tuple(row[2:4]) for row in cells(never, columns(never))} == {("–", "–")}


def test_a_loss_reaches_its_target_from_above() -> None:
    records = [
        hand_made("lngd", 0, [2.0, 1.6, 1.4], 1.0, metric="loss"),
        hand_made("sgd", 0, [2.0, 1.8, 1.5], 1.0, metric="loss"),
    ]
    sgd, lngd = summarise(records, 1.5)[0].rows
    assert (sgd.epochs, lngd.epochs) == (3, 3)
    assert summarise(records)[0].target == pytest.approx(1.5)


def test_the_automatic_target_is_the_worst_runs_best_on_the_easier_side() -> None:
    groups = [[hand_made("sgd", 0, [0.9, 0.912], 1.0), hand_made("sgd", 1, [0.907], 1.0)], [hand_made("lngd", 0, [0.93], 1.0)]]
    assert auto_target(groups, "accuracy") == pytest.approx(0.905)


def test_an_outlier_does_not_set_the_automatic_target() -> None:
    groups = [[hand_made(name, 0, [best], 1.0)] for name, best in (("sgd", 0.5), ("adamw", 0.9), ("lngd", 0.91))]
    assert auto_target(groups, "accuracy") == pytest.approx(0.9)


def test_everyone_but_outliers_reaches_the_automatic_target() -> None:
    summary = summarise(RECORDS)[0]
    assert [row.reached for row in summary.rows if row.optimizer != "adamw"] == [2, 2]
    assert "automatic" in summary.target_meaning


def test_the_target_of_the_task_is_used_when_it_has_one() -> None:
    record = hand_made("sgd", 0, [0.5, 0.9], 1.0)
    own = type(record.header)(**{**vars(record.header), "config": {**record.header.config, "target": 0.6}})
    assert summarise([type(record)(own, record.epochs)], "task")[0].target == 0.6


def test_two_dampings_of_one_optimizer_are_two_rows() -> None:
    plain, damped = (hand_made("lngd", 0, [metric], 1.0) for metric in (0.5, 0.6))
    damped = Record(replace(damped.header, damping=0.3), damped.epochs)
    assert [row.label for row in summarise([plain, damped], 0.5)[0].rows] == ["LNGD @0.1", "LNGD @0.1 λ0.3"]


def test_two_rates_of_one_optimizer_are_two_rows() -> None:
    records = [hand_made("sgd", 0, [0.5], 1.0, lr=0.1), hand_made("sgd", 0, [0.6], 1.0, lr=0.2)]
    assert [row.label for row in summarise(records, 0.5)[0].rows] == ["SGD @0.1", "SGD @0.2"]


def test_a_diverged_run_is_said_to_have_diverged() -> None:
    summary = summarise([*RECORDS, diverged(hand_made("muon", 0, [0.4], 1.0))], 0.9)[0]
    muon = next(row for row in summary.rows if row.optimizer == "muon")
    assert cells(summary, columns(summary))[summary.rows.index(muon)][-1] == "diverged (1/1)"
    assert "Muon has 1 of 2 runs" in shortfalls(summary)
    assert "Muon, seed 0, diverged: training loss nan" in shortfalls(summary)


@pytest.mark.parametrize("width", [50, 60, 80, 120, 200])
def test_a_table_fits_the_terminal_and_says_what_it_left_out(width: int) -> None:
    summary = summarise(RECORDS, 0.9)[0]
    lines = text_table(summary, width).splitlines()
    table = lines[:-1] if lines[-1].startswith("(") else lines
    assert max(map(len, table)) <= width
    assert ("no room for" in lines[-1]) == (width < 100)
    assert "epochs" in lines[0]


def test_the_markdown_table_has_every_column_and_a_caption() -> None:
    text = markdown_table(summarise(RECORDS, 0.9)[0])
    assert "| SGD | 0.1 | 3.5 | 3.50 | 1.000 ± 0.000 | 36 % | 91.00 ± 1.41 |" in text
    assert "accuracy ≥ 90.00 % (given)" in text
    assert "a machine, cpu, 1 thread" in text


def test_a_curve_ends_where_a_seed_diverged() -> None:
    points = curve([diverged(hand_made("sgd", 0, [0.5, 0.6], 1.0)), hand_made("sgd", 1, [0.7, 0.8, 0.9], 3.0)], "metric")
    assert points.mean.tolist() == pytest.approx([0.6, 0.7])
    assert points.seconds.tolist() == [2.0, 4.0]


def test_everything_is_made_from_records_only_and_the_page_needs_nothing_else(tmp_path: Path) -> None:
    for record in [*RECORDS, diverged(hand_made("muon", 0, [], 1.0))]:
        write(record, tmp_path)
    summaries = load_summaries(tmp_path)
    figures = write_figures(summaries, tmp_path)
    page = write_page(summaries, tmp_path / "report.html").read_text()
    assert figures[0].read_bytes().startswith(b"\x89PNG")
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "lngd race toy" in page
    assert write_tables(summaries, tmp_path).read_text().startswith("### toy")


def test_runs_under_different_conditions_are_pointed_out() -> None:
    other = hand_made("sgd", 1, [0.5], 1.0)
    moved = type(other)(type(other.header)(**{**vars(other.header), "threads": 2}), other.epochs)
    assert any("don't compare" in text for text in shortfalls(summarise([hand_made("sgd", 0, [0.5], 1.0), moved], 0.5)[0]))


def test_lengths_and_versions_that_differ_within_a_table_are_pointed_out() -> None:
    plain, other = hand_made("sgd", 0, [0.5, 0.6], 1.0), hand_made("lngd", 0, [0.5, 0.6, 0.7], 1.0)
    assert shortfalls(summarise([plain], 0.5)[0]) == []
    newer = Record(replace(other.header, torch="3"), other.epochs)
    schedule = plain.header.config["schedule"]
    assert shortfalls(summarise([plain, newer], 0.5)[0]) == [
        f"steps and schedule are each optimizer's own: SGD 12, {schedule}; LNGD 18, {schedule}",
        "the runs were made with torch 2 and 3",
    ]


def test_a_directory_without_runs_says_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no finished run"):
        load_summaries(tmp_path)
