import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.errors import BenchError
from lngd_bench.studies.quality.plot import REACH, draw_ratios, span
from lngd_bench.studies.quality.quality import COMPETITORS, SIZES, Comparison, Size, folder, scheduled, steps_to_target
from lngd_bench.studies.quality.report import PAIRS, bootstrap, crossing, ratios, read_quality
from lngd_bench.studies.quality.tables import quality_json, quality_markdown, shortfalls, summary_lines
from lngd_bench.tasks import TASKS
from lngd_bench.training.race import Place, race, unfinished
from lngd_bench.training.records import Record, read_records
from lngd_bench.training.train import RunSpec
from runs import diverged, hand_made, write

TINY = Size(task="digits-mlp", steps=8, epoch_steps=2, train_samples=1000, evaluations=50, target=0.3, fractions=(0.5, 1.0))
LNGD_AND_FIRST_ORDER, LNGD_AND_KFAC, _ = PAIRS
Plan = dict[str, list[tuple[float, float]]]  # by optimizer the final accuracy and seconds of the half and of the full schedule


def made(record: Record, *, target: float = 0.9, steps: int = 20) -> Record:
    header = record.header
    return Record(replace(header, config={**header.config, "target": target, "total_steps": steps}), record.epochs)


def directory_of(plan: Plan, out: Path, seeds: int = 3) -> Path:
    """Every optimizer tuned to rate 0.1; seed s takes s % longer than seed 0."""
    for name, figures in plan.items():
        for rate, metric in ((0.05, 0.7), (0.1, 0.95), (0.2, 0.5)):
            put(made(hand_made(name, 1000, [0.1, metric], 1.0, lr=rate)), folder(out, "toy"))
        for fraction, steps, (metric, seconds) in zip((0.5, 1), (10, 20), figures, strict=True):
            for seed in range(seeds):
                record = hand_made(name, seed, [0.1, metric], seconds * (1 + seed / 100) / 2)
                put(made(record, steps=steps), folder(out, "toy", fraction))
    return out


def put(record: Record, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    write(record, directory)


def test_the_table_of_sizes_names_tasks_and_optimizers_that_exist() -> None:
    assert set(SIZES) <= set(TASKS)
    assert set(COMPETITORS) <= set(OPTIMIZERS)
    for size in SIZES.values():
        assert size.steps == 10 * size.epoch_steps
        assert max(size.fractions) == 1


def test_a_shorter_schedule_is_evaluated_once_at_its_end() -> None:
    full = TINY.full()
    half = scheduled(full, 0.5)
    assert (full.total_steps, full.total_epochs, full.target) == (8, 4, 0.3)
    assert (half.total_steps, half.total_epochs) == (4, 1)
    assert scheduled(full, 1) is full
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
    rows = {row.optimizer: row for row in read_quality(directory_of(plan, tmp_path))[0].rows}
    assert list(rows) == ["sgd", "adamw", "kfac"]
    assert [row.shortest(row.seeds) for row in rows.values()] == [20, 10, None]
    assert rows["sgd"].seconds("honest", [0]) == rows["sgd"].seconds("paper", [0]) == pytest.approx(8)
    assert rows["adamw"].seconds("honest", [0, 1, 2]) == pytest.approx(5.05)
    assert rows["adamw"].each("paper", [0, 1]) == pytest.approx([10, 10.1])
    assert math.isinf(rows["kfac"].seconds("honest", [0]))
    assert [row.reached for row in rows.values()] == [3, 3, 0]


def test_the_median_of_the_seeds_decides_whether_a_schedule_ends_at_the_target(tmp_path: Path) -> None:
    directory_of({"sgd": [(0.95, 4.0), (0.95, 8.0)]}, tmp_path)
    put(made(hand_made("sgd", 0, [0.1, 0.2], 2.0), steps=10), folder(tmp_path, "toy", 0.5))
    row = read_quality(tmp_path)[0].rows[0]
    assert row.shortest([0, 1, 2]) == 10
    assert row.shortest([0, 1]) == 20


def test_the_rate_that_reaches_the_target_first_is_reported_and_the_customary_one_compared(tmp_path: Path) -> None:
    directory_of({"kfac": [(0.95, 4.0), (0.95, 8.0)]}, tmp_path)
    row = read_quality(tmp_path)[0].rows[0]
    assert (row.grid.best.rate, len(row.grid.trials), row.grid.edge) == (0.1, 3, 0)
    assert row.customary == 1  # K-FAC's customary rate is 0.1
    put(made(hand_made("kfac", 1000, [0.95, 0.95], 1.0, lr=0.05)), folder(tmp_path, "toy"))
    put(made(hand_made("kfac", 0, [0.1, 0.95], 1.0, lr=0.05), steps=10), folder(tmp_path, "toy", 0.5))
    put(made(hand_made("kfac", 0, [0.1, 0.95], 1.0, lr=0.05)), folder(tmp_path, "toy", 1))
    row = read_quality(tmp_path)[0].rows[0]
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
    tasks = read_quality(directory_of({"lngd": lngd, "kfac": kfac}, tmp_path))
    (ratio,) = ratios(tasks, LNGD_AND_KFAC, "honest")
    assert (ratio.verdict, ratio.value) == (verdict, value and pytest.approx(value))
    assert ratios(tasks, LNGD_AND_FIRST_ORDER, "honest") == []
    dot, low, high = span(ratio)
    assert 1 / REACH <= low <= dot <= high <= REACH


def test_the_faster_of_several_optimizers_stands_for_its_side(tmp_path: Path) -> None:
    plan: Plan = {
        "sgd": [(0.95, 4.0), (0.95, 8.0)],
        "adamw": [(0.95, 3.0), (0.95, 9.0)],
        "lngd": [(0.95, 1.0), (0.95, 2.0)],
    }
    tasks = read_quality(directory_of(plan, tmp_path))
    assert [ratios(tasks, LNGD_AND_FIRST_ORDER, way)[0].theirs.optimizer for way in ("paper", "honest")] == ["sgd", "adamw"]


def test_the_bootstrap_has_every_resample_of_few_seeds_and_repeats_with_many() -> None:
    def mean(drawn: Sequence[int]) -> float:
        return sum(drawn) / len(drawn)

    assert bootstrap(mean, [0, 1, 2]) == (0, 2)
    low, high = bootstrap(mean, range(20))
    assert bootstrap(mean, range(20)) == (low, high)
    assert low == pytest.approx(9.5 - 1.96 * 5.77 / 20**0.5, abs=0.3)
    assert low < 9.5 < high


def test_the_report_has_a_table_a_task_the_ratios_and_their_counts(tmp_path: Path) -> None:
    plan: Plan = {
        "sgd": [(0.95, 4.0), (0.95, 8.0)],
        "lngd": [(0.95, 2.0), (0.95, 4.0)],
        "kfac": [(0.1, 4.0), (0.1, 8.0)],
        "soap": [(0.95, 1.0), (0.95, 2.0)],
    }
    tasks = read_quality(directory_of(plan, tmp_path))
    text = quality_markdown(tasks)
    assert "| SGD | 0.1 | 3 | 1.00 | 8.08 ± 0.08 | 3/3 | 4.04 ± 0.04 | 10 | 95.00 ± 0.00 |" in text
    assert "| K-FAC | 0.1 | 3 | 1.00 | – | 0/3 | – | – | 10.00 ± 0.00 |" in text
    assert "| toy | LNGD | SGD | 2.02 | 4.04 | 0.50 [0.50, 0.50] | win |" in text
    assert "| toy | LNGD | K-FAC | 2.02 | – | – | win |" in text
    assert "| toy | LNGD | SOAP | 2.02 | 1.01 | 2.00 [2.00, 2.00] | loss |" in text
    assert "wall-clock time" in text
    assert any(line.endswith(": 0 won, 0 tied, 1 lost") for line in summary_lines(tasks))
    figures = json.loads(json.dumps(quality_json(tasks), allow_nan=False))
    assert [row["seconds"]["honest"] for row in figures["tasks"][0]["optimizers"]] == pytest.approx([4.04, 1.01, None, 2.02])
    assert draw_ratios(tasks, tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")


def test_what_makes_a_comparison_unfair_is_pointed_out(tmp_path: Path) -> None:
    directory_of({"sgd": [(0.95, 4.0), (0.95, 8.0)], "lngd": [(0.95, 2.0), (0.95, 4.0)]}, tmp_path)
    remarks = shortfalls(read_quality(tmp_path))
    assert remarks == ["toy: LNGD at its default rate does not train"]  # there is no trial at 0.5
    put(made(hand_made("sgd", 1000, [0.1, 0.2], 1.0, lr=0.4)), folder(tmp_path, "toy"))
    slow = made(hand_made("lngd", 3, [0.1, 0.95], 1.0))
    put(Record(replace(slow.header, clock="cpu"), slow.epochs), folder(tmp_path, "toy", 1))
    text = "\n".join(shortfalls(read_quality(tmp_path)))
    assert "same number of trials" in text
    assert "clocks: seconds don't compare" in text


def test_a_directory_without_a_finished_comparison_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="lngd quality --out"):
        read_quality(tmp_path)


def test_a_comparison_fills_a_directory_goes_on_after_a_break_and_runs_nothing_twice(tmp_path: Path) -> None:
    made_runs: list[str] = []

    def run(specs: Sequence[RunSpec], place: Place, most: int = 10**6) -> None:
        for spec, epoch in race(unfinished(specs, place.out, resume=True)[:most], place):
            if epoch.epoch == spec.task.total_epochs:
                made_runs.append(f"{place.out.name}/{spec.file_name}")

    def broken(specs: Sequence[RunSpec], place: Place) -> None:
        run(specs, place, 2)
        raise KeyboardInterrupt

    names = ["sgd", "lngd"]
    with pytest.raises(KeyboardInterrupt):
        Comparison(names, 2, 3, Place(out=tmp_path), broken).fill(TINY)
    Comparison(names, 2, 3, Place(out=tmp_path), run).fill(TINY)
    Comparison(names, 2, 3, Place(out=tmp_path), run).fill(TINY)
    assert len(made_runs) == len(set(made_runs))
    trials = read_records(folder(tmp_path, "digits-mlp"))
    assert {record.header.seed for record in trials} == {1000}
    assert len(trials) in (2 * 3, 2 * 5)
    for fraction, steps in ((0.5, 4), (1, 8)):
        records = read_records(folder(tmp_path, "digits-mlp", fraction))
        assert sorted((record.header.optimizer, record.header.seed) for record in records) == [
            ("lngd", 0),
            ("lngd", 1),
            ("sgd", 0),
            ("sgd", 1),
        ]
        assert {record.header.config["total_steps"] for record in records} == {steps}
    assert [row.optimizer for row in read_quality(tmp_path)[0].rows] == names


def test_the_crossing_of_a_run_that_never_reaches_the_target_is_infinite() -> None:
    record = made(hand_made("sgd", 0, [0.5, 0.91, 0.7], 1.5))
    assert crossing(record) == 3
    assert math.isinf(crossing(made(record, target=0.95)))
