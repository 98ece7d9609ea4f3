"""Time to a target, from records made by hand and from tiny runs."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lngd_bench import archive
from lngd_bench.cli.app import app
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.errors import BenchError
from lngd_bench.studies.quality.page import REACH, as_markdown, remarks, span
from lngd_bench.studies.quality.quality import COMPETITORS, SIZES, Size, folder, scheduled, steps_to_target
from lngd_bench.studies.quality.report import PAIRS, TaskQuality, bootstrap, own_files, ratios, tasks_in
from lngd_bench.tasks import TASKS
from lngd_bench.training.records import Record
from runs import diverged, hand_made, write

TINY = Size(task="digits-mlp", steps=10, epoch_steps=1, train_samples=700, evaluations=50, target=0.3, fractions=(0.5, 1.0))
LNGD_AND_FIRST_ORDER, LNGD_AND_KFAC, _ = PAIRS
Plan = dict[str, list[tuple[float, float]]]  # by optimizer the final accuracy and seconds of the half and of the full schedule


def made(record: Record, *, target: float = 0.9, steps: int = 20) -> Record:
    header = record.header
    return Record(replace(header, config={**header.config, "target": target, "total_steps": steps}), record.epochs)


def put(record: Record, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    write(record, directory)


def read(plan: Plan, out: Path, *others: tuple[Record, Path]) -> TaskQuality:
    """Every optimizer tuned to rate 0.1; seed s takes s % longer than seed 0."""
    for name, figures in plan.items():
        for rate, metric in ((0.05, 0.7), (0.1, 0.95), (0.2, 0.5)):
            put(made(hand_made(name, 1000, [0.1, metric], 1.0, lr=rate)), folder(out, "toy"))
        for fraction, steps, (metric, seconds) in zip((0.5, 1), (10, 20), figures, strict=True):
            for seed in range(3):
                record = hand_made(name, seed, [0.1, metric], seconds * (1 + seed / 100) / 2)
                put(made(record, steps=steps), folder(out, "toy", fraction))
    for record, directory in others:
        put(record, directory)
    (task,) = tasks_in(own_files(archive.read(out)))
    return task


def test_tasks_and_optimizers_exist_and_a_shorter_schedule_is_evaluated_once_at_its_end() -> None:
    assert set(SIZES) <= set(TASKS)
    assert set(COMPETITORS) <= set(OPTIMIZERS)
    full = TINY.full()
    half = scheduled(full, 0.5)
    assert (full.total_steps, full.total_epochs, full.target) == (10, 10, 0.3)
    assert (half.total_steps, half.total_epochs) == (5, 1)
    assert len(full.data(None).test_x) == 50


def test_steps_to_the_target_lie_between_two_evaluations_and_beyond_the_run_where_it_is_missed() -> None:
    record = made(hand_made("sgd", 0, [0.5, 0.8, 1.0], 1.0), steps=18)
    assert steps_to_target(record) == pytest.approx(15)  # halfway from step 12 to 18
    assert steps_to_target(made(record, target=0.4)) == 6
    assert steps_to_target(made(record, target=1.25, steps=18)) == pytest.approx(18 * 1.2)
    assert steps_to_target(diverged(made(hand_made("sgd", 0, [], 1.0)))) is None
    falling = made(hand_made("sgd", 0, [3.0, 1.0], 1.0, metric="loss"), target=2.0)
    assert steps_to_target(falling) == pytest.approx(9)


def test_seconds_count_to_the_first_crossing_and_in_the_honest_way_the_whole_of_the_shortest_schedule(tmp_path: Path) -> None:
    plan: Plan = {"sgd": [(0.8, 4.0), (0.92, 8.0)], "adamw": [(0.93, 5.0), (0.95, 10.0)], "kfac": [(0.1, 5.0), (0.2, 10.0)]}
    rows = {row.optimizer: row for row in read(plan, tmp_path).rows}
    assert [row.shortest(row.seeds) for row in rows.values()] == [20, 10, None]
    assert rows["sgd"].seconds("honest", [0]) == rows["sgd"].seconds("paper", [0]) == pytest.approx(8)
    assert rows["adamw"].seconds("honest", [0, 1, 2]) == pytest.approx(5.05)
    assert rows["adamw"].each("paper", [0, 1]) == pytest.approx([10, 10.1])
    assert math.isinf(rows["kfac"].seconds("honest", [0]))
    assert [row.reached for row in rows.values()] == [3, 3, 0]


def test_the_median_of_the_seeds_decides_whether_a_schedule_ends_at_the_target(tmp_path: Path) -> None:
    short = made(hand_made("sgd", 0, [0.1, 0.2], 2.0), steps=10)
    (row,) = read({"sgd": [(0.95, 4.0), (0.95, 8.0)]}, tmp_path, (short, folder(tmp_path, "toy", 0.5))).rows
    assert row.shortest([0, 1, 2]) == 10
    assert row.shortest([0, 1]) == 20


def test_the_rate_that_reaches_the_target_first_is_reported_and_the_customary_one_compared(tmp_path: Path) -> None:
    plan: Plan = {"kfac": [(0.95, 4.0), (0.95, 8.0)]}
    (row,) = read(plan, tmp_path).rows
    assert (row.grid.best.rate, row.customary, row.seeds) == (0.1, 1, [0, 1, 2])  # K-FAC's customary rate is 0.1
    short, full = (made(hand_made("kfac", 0, [0.1, 0.95], 1.0, lr=0.05), steps=steps) for steps in (10, 20))
    sooner = made(hand_made("kfac", 1000, [0.95, 0.95], 1.0, lr=0.05))
    places = folder(tmp_path, "toy"), folder(tmp_path, "toy", 0.5), folder(tmp_path, "toy", 1)
    (row,) = read(plan, tmp_path, *zip((sooner, short, full), places, strict=True)).rows
    assert (row.grid.best.rate, row.grid.edge, row.seeds) == (0.05, -1, [0])
    assert row.customary is not None
    assert row.customary > 1.1


@pytest.mark.parametrize(
    ("lngd", "kfac", "verdict", "value"),
    [
        ([(0.95, 2.0), (0.95, 4.0)], [(0.95, 4.0), (0.95, 8.0)], "win", 0.5),
        ([(0.95, 8.0), (0.95, 9.0)], [(0.95, 4.0), (0.95, 8.0)], "loss", 2.0),
        ([(0.95, 4.0), (0.95, 8.0)], [(0.95, 4.0), (0.95, 8.0)], "tie", 1.0),
        ([(0.95, 4.0), (0.95, 8.0)], [(0.1, 4.0), (0.1, 8.0)], "win", None),
        ([(0.1, 4.0), (0.1, 8.0)], [(0.95, 4.0), (0.95, 8.0)], "loss", None),
        ([(0.1, 4.0), (0.1, 8.0)], [(0.1, 4.0), (0.1, 8.0)], "loss", None),
    ],
)
def test_a_target_that_we_miss_is_a_loss_and_an_interval_around_one_a_tie(
    tmp_path: Path, lngd: list, kfac: list, verdict: str, value: float | None
) -> None:
    task = read({"lngd": lngd, "kfac": kfac}, tmp_path)
    (ratio,) = ratios([task], LNGD_AND_KFAC, "honest")
    assert (ratio.verdict, ratio.value) == (verdict, value and pytest.approx(value))
    assert ratios([task], LNGD_AND_FIRST_ORDER, "honest") == []
    dot, low, high = span(ratio)
    assert 1 / REACH <= low <= dot <= high <= REACH


def test_the_faster_of_several_optimizers_stands_for_its_side_and_the_page_says_so(tmp_path: Path) -> None:
    plan: Plan = {"sgd": [(0.95, 4.0), (0.95, 8.0)], "adamw": [(0.95, 3.0), (0.95, 9.0)], "lngd": [(0.95, 1.0), (0.95, 2.0)]}
    task = read(plan, tmp_path)
    assert [ratios([task], LNGD_AND_FIRST_ORDER, way)[0].theirs.optimizer for way in ("paper", "honest")] == ["sgd", "adamw"]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in as_markdown([task]).splitlines()]
    assert ["LNGD", "0.1", "3", "–", "2.02 ± 0.02", "3/3", "1.01 ± 0.01", "10", "95.00 ± 0.00"] in rows
    assert ["toy", "LNGD", "AdamW", "1.01", "3.03", "0.33 [0.33, 0.33]", "win"] in rows


def test_the_bootstrap_has_every_resample_of_few_seeds_and_repeats_with_many() -> None:
    def mean(drawn: Sequence[int]) -> float:
        return sum(drawn) / len(drawn)

    assert bootstrap(mean, [0, 1, 2]) == (0, 2)
    low, high = bootstrap(mean, range(20))
    assert bootstrap(mean, range(20)) == (low, high)
    assert low == pytest.approx(9.5 - 1.96 * 5.77 / 20**0.5, abs=0.3)


def test_what_makes_a_comparison_unfair_is_pointed_out(tmp_path: Path) -> None:
    plan: Plan = {"sgd": [(0.95, 4.0), (0.95, 8.0)], "lngd": [(0.95, 2.0), (0.95, 4.0)]}
    assert [*remarks(read(plan, tmp_path))] == ["toy: LNGD at its default rate does not train"]  # there is no trial at 0.5
    slow = made(hand_made("lngd", 3, [0.1, 0.95], 1.0))
    further = made(hand_made("sgd", 1000, [0.1, 0.2], 1.0, lr=0.4)), folder(tmp_path, "toy")
    other = Record(replace(slow.header, clock="cpu"), slow.epochs), folder(tmp_path, "toy", 1)
    found = "\n".join(remarks(read(plan, tmp_path, further, other)))
    assert "same number of trials" in found
    assert "clocks: seconds don't compare" in found


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The digits task among the others, and the number of threads as it was."""
    threads = torch.get_num_threads()
    monkeypatch.setattr("lngd_bench.studies.quality.command.SIZES", {**SIZES, "digits-mlp": TINY})
    yield
    torch.set_num_threads(threads)


def lngd(*words: str) -> str:
    result = CliRunner().invoke(app, ["quality", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.usefixtures("tiny")
def test_the_command_leaves_three_files_reports_them_again_and_runs_nothing_twice(tmp_path: Path) -> None:
    work, results = tmp_path / "runs", tmp_path / "results"
    words = ["--tasks", "digits-mlp", "--trials", "3", "--seeds", "2", "--optimizers", "sgd,lngd"]
    printed = lngd(*words, "--out", str(work), "--results", str(results))
    assert "Target: accuracy ≥ 30.00 %. Schedules of 5, 10 steps" in printed
    assert {path.name for path in results.iterdir()} == {"quality.md", "quality.png", "quality.jsonl.gz"}
    written = {path.name: path.read_bytes() for path in results.iterdir()}
    lngd("--report", str(results))
    assert "4 of 4 runs are finished already" in lngd(*words, "--out", str(work), "--results", str(results))
    assert {path.name: path.read_bytes() for path in results.iterdir()} == written
    files = archive.read(results / "quality.jsonl.gz")
    assert {lines[0]["seed"] for name, lines in files.items() if "tuning" in name} == {1000}
    assert len([name for name in files if "schedule-50" in name]) == 4


@pytest.mark.usefixtures("tiny")
def test_one_directory_takes_only_runs_of_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--tasks", "digits-mlp", "--trials", "3", "--seeds", "1", "--optimizers", "sgd", "--out", str(tmp_path)]
    lngd(*words)
    other = replace(TINY, steps=20, epoch_steps=2)
    monkeypatch.setattr("lngd_bench.studies.quality.command.SIZES", {"digits-mlp": other})
    with pytest.raises(BenchError, match="other settings"):
        lngd(*words)


def test_a_report_of_an_empty_directory_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="lngd quality makes one"):
        lngd("--report", str(tmp_path))
