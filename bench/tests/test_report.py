from dataclasses import replace
from pathlib import Path

import pytest

from lngd_bench.report.curves import curve, focus
from lngd_bench.report.summary import Row, TaskSummary, auto_target, summarise
from lngd_bench.report.tables import caption, cells, markdown, shortfalls
from lngd_bench.training.records import Record
from runs import diverged, hand_made, write
from test_cli import lngd as run

RECORDS = [
    hand_made("sgd", 0, [0.5, 0.7, 0.8, 0.9], 1.0),
    hand_made("sgd", 1, [0.5, 0.7, 0.9, 0.92], 1.0),
    hand_made("adamw", 0, [0.5, 0.6, 0.7, 0.8], 1.0),
    hand_made("adamw", 1, [0.5, 0.6, 0.7, 0.91], 1.0),
    hand_made("lngd", 0, [0.8, 0.9, 0.95, 0.96], 1.5),
    hand_made("lngd", 1, [0.91, 0.92, 0.95, 0.94], 1.5),
]


def figures(row: Row) -> tuple[float | None, ...]:
    return row.mean("epochs"), row.mean("seconds"), row.saved


def shown(summary: TaskSummary, row: int) -> dict[str, str]:
    return dict(cells(summary.rows[row], summary.metric))


def test_time_to_target_and_best_metric_are_the_known_answers() -> None:
    sgd, adamw, lngd = summarise(RECORDS, 0.9)[0].rows
    assert figures(sgd) == (3.5, 3.5, pytest.approx(1 - 2.25 / 3.5))
    assert figures(adamw) == (None, None, None)
    assert figures(lngd) == (1.5, 2.25, None)
    assert lngd.mean("epoch_seconds") == pytest.approx(1.5)
    assert lngd.values("best") == [0.96, 0.95]


def test_a_target_missed_by_some_seed_is_printed_as_missed_with_the_count() -> None:
    summary = summarise(RECORDS, 0.9)[0]
    assert (shown(summary, 1)["epochs"], shown(summary, 1)["seconds"]) == ("– (1/2)", "– (1/2)")
    assert shown(summary, 0)["LNGD saves"] == "36 %"
    assert shown(summarise(RECORDS, 0.99)[0], 0)["epochs"] == "–"


def test_a_loss_reaches_its_target_from_above() -> None:
    records = [
        hand_made("lngd", 0, [2.0, 1.6, 1.4], 1.0, metric="loss"),
        hand_made("sgd", 0, [2.0, 1.8, 1.5], 1.0, metric="loss"),
    ]
    assert [row.mean("epochs") for row in summarise(records, 1.5)[0].rows] == [3, 3]
    assert summarise(records)[0].target == pytest.approx(1.5)


def test_the_automatic_target_is_the_worst_runs_best_on_the_easier_side() -> None:
    groups = [[hand_made("sgd", 0, [0.9, 0.912], 1.0), hand_made("sgd", 1, [0.907], 1.0)], [hand_made("lngd", 0, [0.93], 1.0)]]
    assert auto_target(groups) == pytest.approx(0.905)


def test_an_outlier_does_not_set_the_automatic_target() -> None:
    groups = [[hand_made(name, 0, [best], 1.0)] for name, best in (("sgd", 0.5), ("adamw", 0.9), ("lngd", 0.91))]
    assert auto_target(groups) == pytest.approx(0.9)


def test_the_target_of_the_task_is_used_when_it_has_one() -> None:
    record = hand_made("sgd", 0, [0.5, 0.9], 1.0)
    own = replace(record.header, config={**record.header.config, "target": 0.6})
    assert summarise([Record(own, record.epochs)], "task")[0].target == 0.6


def test_two_rates_or_dampings_of_one_optimizer_are_two_rows() -> None:
    plain, faster = (hand_made("lngd", 0, [0.5], 1.0, lr=lr) for lr in (0.1, 0.2))
    damped = Record(replace(plain.header, damping=0.3), plain.epochs)
    labels = [row.label for row in summarise([faster, damped, plain], 0.5)[0].rows]
    assert labels == ["LNGD @0.1", "LNGD @0.1 λ0.3", "LNGD @0.2"]


def test_a_diverged_run_is_said_to_have_diverged() -> None:
    summary = summarise([*RECORDS, diverged(hand_made("muon", 0, [0.4], 1.0))], 0.9)[0]
    assert shown(summary, 2)["train loss"] == "diverged (1/1)"
    assert {"Muon has 1 of 2 runs", "Muon, seed 0, diverged: training loss nan"} <= set(shortfalls(summary))


def test_a_task_of_which_every_run_diverges_has_no_target() -> None:
    summary = summarise([diverged(hand_made("sgd", 0, [], 1.0))])[0]
    assert "Target: none, no run has a finite figure. " in caption(summary)


def test_another_rate_of_adamws_part_stands_beside_the_rate() -> None:
    plain = hand_made("muon", 0, [0.5], 1.0, lr=0.1)
    other = Record(replace(plain.header, rest=3.0), plain.epochs)
    assert [shown(summarise([record], 0.5)[0], 0)["rate"] for record in (plain, other)] == ["0.1", "0.1 × 3"]


def test_markdown_has_every_column_a_caption_and_the_remarks() -> None:
    lines = markdown(summarise([*RECORDS, hand_made("muon", 0, [0.95], 1.0)], 0.9)[0]).splitlines()
    assert "accuracy ≥ 90.00 % (given)" in lines[2]
    assert "a machine, cpu, 1 thread" in lines[2]
    first = [cell.strip() for cell in lines[6].split("|")[1:8]]
    assert first == ["SGD", "0.1", "3.5", "3.50", "1.000 ± 0.000", "36 %", "91.00 ± 1.41"]
    assert lines[-2] == "- Muon has 1 of 2 runs"


def test_runs_that_are_not_quite_alike_are_pointed_out() -> None:
    plain, other = hand_made("sgd", 0, [0.5, 0.6], 1.0), hand_made("lngd", 0, [0.5, 0.6, 0.7], 1.0)
    assert shortfalls(summarise([plain], 0.5)[0]) == []
    newer = Record(replace(other.header, torch="3", threads=2), other.epochs)
    schedule = plain.header.config["schedule"]
    assert shortfalls(summarise([plain, newer], 0.5)[0]) == [
        "the runs come from different machines, thread counts or clocks: seconds don't compare",
        f"steps and schedule are each optimizer's own: SGD 12, {schedule}; LNGD 18, {schedule}",
        "the runs were made with torch 2 and 3",
    ]


def test_a_curve_ends_where_a_seed_diverged() -> None:
    points = curve([diverged(hand_made("sgd", 0, [0.5, 0.6], 1.0)), hand_made("sgd", 1, [0.7, 0.8, 0.9], 3.0)], "metric")
    assert points.mean.tolist() == pytest.approx([0.6, 0.7])
    assert points.deviation.tolist() == pytest.approx([0.2 / 2**0.5] * 2)
    assert points.seconds.tolist() == [2.0, 4.0]


def test_a_competitor_that_failed_does_not_stretch_the_charts() -> None:
    good = [hand_made(name, 0, [0.9, 0.9 + at / 100], 1.0) for at, name in enumerate(("sgd", "adamw", "muon", "lngd"))]
    limits = focus(summarise([*good, hand_made("kfac", 0, [0.1, 0.1], 1.0)], 0.9)[0])
    assert limits is not None
    assert limits[0] > 0.85
    assert focus(summarise([diverged(hand_made("kfac", 0, [], 1.0))])[0]) is None


def test_everything_is_made_from_records_even_where_a_run_failed_at_once(tmp_path: Path) -> None:
    for record in [*RECORDS, diverged(hand_made("muon", 0, [], 1.0))]:
        write(record, tmp_path)
    write(Record(replace(RECORDS[0].header, seed=1000), RECORDS[0].epochs), tmp_path)
    assert "! Muon, seed 0, diverged: training loss nan" in run("table", str(tmp_path))
    run("figure", str(tmp_path))
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")
    assert "lngd race toy" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "table.md").read_text().startswith("### toy")
