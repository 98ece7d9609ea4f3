import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lngd_bench.cli.app import app
from lngd_bench.errors import BenchError
from lngd_bench.report.summary import TaskSummary, summarise
from lngd_bench.studies.paper.claims import FIGURES, compared, judge
from lngd_bench.studies.paper.paper import CLAIMS, TABLES, Claim, PaperTable
from lngd_bench.studies.paper.tables import Comparison, markdown, text
from lngd_bench.training.records import Record
from runs import hand_made, write

INCONSISTENT = {"adamw": 0.09, "kfac": 0.09, "tkfac": -0.025, "lngd": -0.036}
"""By how much epochs × seconds differs from the total that the paper's Tables 1 and 6 print."""

NO_SAVING = {(5, "lngd-sample"): 9}
"""What the paper prints as a saving and is none: how much more time LNGD-sample takes. The saving is 8.5 %."""

RECORDS = [
    hand_made("sgd", 0, [0.5, 0.7, 0.8, 0.9], 1.0),
    hand_made("sgd", 1, [0.5, 0.7, 0.8, 0.91], 1.0),
    hand_made("kfac", 0, [0.5, 0.9, 0.91, 0.92], 3.0),
    hand_made("kfac", 1, [0.5, 0.9, 0.91, 0.93], 3.0),
    hand_made("lngd", 0, [0.9, 0.92, 0.95, 0.95], 1.5),
    hand_made("lngd", 1, [0.9, 0.92, 0.95, 0.96], 1.5),
    hand_made("muon", 0, [0.6, 0.9, 0.95, 0.95], 2.0),
]


def summary(records: list[Record] = RECORDS, target: float = 0.9) -> TaskSummary:
    return summarise(records, target)[0]


def cell(comparison: Comparison, optimizer: str, heading: str) -> str:
    line = next(line for line in comparison.lines() if line.optimizer == optimizer)
    return next(column.cell(line) for column in comparison.columns() if column.heading == heading)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_the_papers_savings_are_its_own_totals_rounded_or_cut_off(table: PaperTable) -> None:
    own = next(row.total for row in table.rows if row.optimizer == "lngd")
    for row in table.rows:
        if row.saves is not None and row.total and own:
            saving = round(100 * (1 - own / row.total), 6)
            printed = NO_SAVING.get((table.number, row.optimizer), math.floor(saving))
            assert row.saves in {printed, max(printed, round(saving))}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_the_papers_totals_are_epochs_times_seconds_but_for_four(table: PaperTable) -> None:
    hour = 3600 if table.total_unit == "h" else 1
    for row in table.rows:
        if row.total and row.epochs and row.each:
            excess = INCONSISTENT.get(row.optimizer, 0.0) if table.total_unit == "s" else 0.0
            assert row.epochs * row.each / hour / row.total - 1 == pytest.approx(excess, abs=0.02)


def test_ours_and_the_papers_stand_side_by_side() -> None:
    comparison = Comparison(TABLES[1], summary())
    assert cell(comparison, "sgd", "epochs") == "4.0"
    assert cell(comparison, "sgd", "paper's epochs") == "79"
    assert cell(comparison, "kfac", "seconds") == "6.0"
    assert cell(comparison, "kfac", "× SGD's epoch") == "3.00"
    assert cell(comparison, "kfac", "paper's ×") == "1.73"
    assert cell(comparison, "sgd", "LNGD saves") == "62 %"
    assert cell(comparison, "sgd", "paper's") == "29 %"
    assert cell(comparison, "lngd", "best acc. %") == "95.50 ± 0.71"


def test_what_was_not_run_and_what_the_paper_lacks_is_a_dash() -> None:
    comparison = Comparison(TABLES[1], summary())
    assert [cell(comparison, "adamw", heading) for heading in ("epochs", "seconds", "best acc. %")] == ["–", "–", "–"]
    assert cell(comparison, "muon", "paper's epochs") == "–"
    assert {cell(Comparison(TABLES[3], None), row.optimizer, "epochs") for row in TABLES[3].rows} == {"–"}


def test_the_ablation_shows_its_own_methods_only() -> None:
    records = [*RECORDS, hand_made("lngd-lr", 0, [0.8], 1.0)]
    assert [line.optimizer for line in Comparison(TABLES[5], summary(records)).lines()] == ["lngd-lr", "lngd-sample", "lngd"]


@pytest.mark.parametrize(
    ("ours", "theirs", "sign"),
    [
        ([1.0, 1.1], [2.0, 2.1], -1),
        ([2.0, 2.1], [1.0, 1.1], 1),
        ([1.0, 2.0], [1.4, 2.2], None),
        ([1.0], [2.0], None),
        ([3.0, 3.0, 3.0], [3.0, 3.0, 3.0], None),
        ([1.0, 7.0, 4.0], [2.0, 8.1, 4.9], -1),
        ([1.0, None], [5.0, 6.0], 1),
        ([1.0, 2.0], [5.0, None], -1),
        ([None, None], [None, 3.0], None),
    ],
)
def test_methods_differ_where_a_paired_test_over_the_seeds_says_so(ours: list, theirs: list, sign: int | None) -> None:
    assert compared(dict(enumerate(ours)), dict(enumerate(theirs))) == sign


@pytest.mark.parametrize("n", [2, 3, 4, 5, 10, 11])
def test_the_paired_test_finds_a_difference_in_one_of_twenty_tables_without_any(n: int) -> None:
    """Its level, from normal differences; two thousand tables, four standard errors."""
    generator = random.Random(n)
    tables = [{seed: generator.gauss(0, 1) for seed in range(n)} for _ in range(2000)]
    share = sum(compared(table, dict.fromkeys(table, 0.0)) is not None for table in tables) / len(tables)
    assert abs(share - 0.05) < 0.02


def test_only_seeds_that_both_have_are_compared() -> None:
    assert compared({0: 1.0, 1: 1.0, 2: 9.0}, {0: 2.0, 1: 2.1, 3: 0.0}) == -1
    assert compared({0: 1.0, 1: 1.0}, {1: 2.0, 2: 2.0}) is None


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        (Claim("", "", "lngd", ("sgd", "kfac"), "seconds"), "reproduced"),
        (Claim("", "", "kfac", ("lngd",), "each"), "not reproduced"),
        (Claim("", "", "lngd", ("kfac",), "each"), "reproduced"),
        (Claim("", "", "lngd", ("sgd",), "best"), "reproduced"),
        (Claim("", "", "sgd", ("lngd",), "best"), "not reproduced"),
        (Claim("", "", "sgd", ("kfac",), "loss"), "undecided"),
        (Claim("", "", "lngd", ("adamw",), "epochs"), "untestable here"),
        (Claim("", "", "muon", ("sgd",), "epochs"), "undecided"),
        (Claim("", "", "sgd", ("lngd", "adamw"), "seconds"), "not reproduced"),
        (Claim("", "", "lngd", ("sgd", "adamw"), "seconds"), "untestable here"),
    ],
)
def test_each_verdict_has_its_rule(claim: Claim, verdict: str) -> None:
    assert judge(claim, summary()).verdict == verdict


def test_the_numbers_that_decide_are_printed() -> None:
    judged = judge(Claim("", "", "lngd", ("sgd",), "best"), summary())
    assert judged.because == "LNGD 95.50 ± 0.71; SGD 90.50 ± 0.71"
    missed = judge(Claim("", "", "sgd", ("lngd",), "seconds"), summary(target=0.905))
    assert (missed.verdict, missed.because) == ("not reproduced", "SGD 1 of 2 seeds; LNGD 3.0 ± 0.0 s")


def test_of_several_rates_the_one_that_reaches_the_target_first_counts() -> None:
    failed = [hand_made("sgd", seed, [0.1, 0.1, 0.1, 0.1], 1.0, lr=3.0) for seed in (0, 1)]
    both = summary([*RECORDS, *failed])
    assert judge(Claim("", "", "lngd", ("sgd",), "seconds"), both).because.startswith("LNGD 1.5 ± 0.0 s; SGD @0.1 4.0")
    assert cell(Comparison(TABLES[1], both), "sgd", "epochs") == "4.0"


def test_seconds_of_different_machines_are_not_compared() -> None:
    elsewhere = [Record(replace(record.header, machine="another"), record.epochs) for record in RECORDS[:2]]
    mixed = summary([*elsewhere, *RECORDS[2:]])
    assert judge(Claim("", "", "lngd", ("sgd",), "seconds"), mixed).verdict == "untestable here"
    assert judge(Claim("", "", "lngd", ("sgd",), "epochs"), mixed).verdict == "reproduced"


def test_a_loss_is_better_when_it_is_smaller() -> None:
    records = [
        hand_made(name, seed, [2.0, best + seed / 100], 1.0, metric="loss")
        for name, best in (("lngd", 1.0), ("sgd", 1.5))
        for seed in (0, 1)
    ]
    assert judge(Claim("", "", "lngd", ("sgd",), "best"), summary(records, 1.6)).verdict == "reproduced"


def test_every_claim_is_of_a_known_figure_and_of_methods_that_its_table_has() -> None:
    for number, claims in CLAIMS.items():
        printed = {row.optimizer for row in TABLES[number].rows}
        for claim in claims:
            assert claim.figure in FIGURES
            assert {claim.ours, *claim.others} <= printed


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_table_fits_a_terminal_that_has_room_for_what_matters(width: int) -> None:
    lines = text(Comparison(TABLES[6], summary()), width).split("\n\n")[0].splitlines()
    assert max(map(len, lines)) <= max(width, 72)
    assert "paper's best" in lines[0]


def test_markdown_has_the_caption_the_claims_and_the_rule() -> None:
    page = markdown(Comparison(TABLES[1], summary()))
    assert "### Table 1: ResNet-18, CIFAR-10, top-1 91 %" in page
    assert "Three blobs." in page
    assert "| LNGD needs the least time to the target | Table 1 | untestable here | LNGD 1.5 ± 0.0 s; SGD 4.0" in page
    assert "paired t-test" in page
    assert "No runs of ours." in markdown(Comparison(TABLES[2], None))


def lngd(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_command_reads_a_directory_and_leaves_the_table_beside_the_records(tmp_path: Path) -> None:
    for record in RECORDS:
        write(record, tmp_path)
    assert "paper's epochs" in lngd("table", "1", str(tmp_path), "--target", "0.9")
    assert "### Table 1" in (tmp_path / "table-1.md").read_text()
    lngd("figure", "7", str(tmp_path))
    assert (tmp_path / "figure-7.png").stat().st_size > 10_000


def test_without_records_the_papers_numbers_stand_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "33.55" in lngd("table", "3")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table", "4"], "a table of formulas: docs/methods.md"),
        (["table", "9"], "the paper has tables 1 to 6, not 9"),
        (["figure", "9"], "the paper has figures 1 to 7, not 9"),
        (["table", "nowhere"], "there is no directory nowhere"),
        (["figure", "2"], "no runs to draw; lngd race cifar10-resnet18 --optimizers sgd,adamw,kfac,ekfac"),
        (["table", "1", "."], "no finished run: one task's runs make a table; lngd race cifar10-resnet18"),
    ],
)
def test_a_wrong_number_or_an_empty_directory_says_what_to_do(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BenchError, match=message):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_runs_of_two_tasks_make_no_table_of_the_papers(tmp_path: Path) -> None:
    write(RECORDS[0], tmp_path)
    other = Record(replace(RECORDS[0].header, task="toy2"), RECORDS[0].epochs)
    write(other, tmp_path)
    with pytest.raises(BenchError, match="holds toy, toy2: one task's runs"):
        CliRunner().invoke(app, ["table", "1", str(tmp_path)], catch_exceptions=False)
