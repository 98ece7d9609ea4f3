"""The paper's numbers agree with themselves, ours stand beside them, and each claim gets the verdict that its rule demands."""

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from lngd_bench.errors import BenchError
from lngd_bench.report.summary import TaskSummary, summarise
from lngd_bench.studies.paper.claims import compared, judge
from lngd_bench.studies.paper.paper import CLAIMS, TABLES, Claim, PaperTable
from lngd_bench.studies.paper.tables import Comparison
from lngd_bench.training.records import Record
from runs import hand_made, write
from test_cli import lngd

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


def shown(comparison: Comparison) -> dict[str, dict[str, str]]:
    """Cells by heading, by the method's name."""
    return {row["method"]: dict(row) for row in comparison.rows()}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_the_papers_numbers_agree_with_each_other(table: PaperTable) -> None:
    """Savings are its totals', rounded or cut off; totals are epochs times seconds but for four."""
    own = next(row.total for row in table.rows if row.optimizer == "lngd")
    hour = 3600 if table.total_unit == "h" else 1
    for row in table.rows:
        if row.saves is not None and row.total and own:
            saving = round(100 * (1 - own / row.total), 6)
            printed = NO_SAVING.get((table.number, row.optimizer), math.floor(saving))
            assert row.saves in {printed, max(printed, round(saving))}
        if row.total and row.epochs and row.each:
            excess = INCONSISTENT.get(row.optimizer, 0.0) if table.total_unit == "s" else 0.0
            assert row.epochs * row.each / hour / row.total - 1 == pytest.approx(excess, abs=0.02)


def test_ours_and_the_papers_stand_side_by_side_and_what_is_lacking_is_a_dash() -> None:
    rows = shown(Comparison(TABLES[1], summary()))
    assert (rows["SGD"]["epochs"], rows["SGD"]["paper's epochs"]) == ("4.0", "79")
    assert (rows["K-FAC"]["seconds"], rows["K-FAC"]["× SGD's epoch"], rows["K-FAC"]["paper's ×"]) == ("6.0", "3.00", "1.73")
    assert (rows["SGD"]["LNGD saves"], rows["SGD"]["paper's"]) == ("62 %", "29 %")
    assert rows["LNGD"]["best acc. %"] == "95.50 ± 0.71"
    assert {rows["AdamW"][heading] for heading in ("epochs", "seconds", "best acc. %")} == {"–"}
    assert rows["Muon"]["paper's epochs"] == "–"
    assert {row["epochs"] for row in shown(Comparison(TABLES[3], None)).values()} == {"–"}


def test_the_ablation_shows_its_own_methods_only() -> None:
    records = [*RECORDS, hand_made("lngd-lr", 0, [0.8], 1.0)]
    assert list(shown(Comparison(TABLES[5], summary(records)))) == ["LNGD-lr", "LNGD-sample", "LNGD"]


@pytest.mark.parametrize(
    ("ours", "theirs", "sign"),
    [
        ({0: 1.0, 1: 1.1}, {0: 2.0, 1: 2.1}, -1),
        ({0: 2.0, 1: 2.1}, {0: 1.0, 1: 1.1}, 1),
        ({0: 1.0, 1: 2.0}, {0: 1.4, 1: 2.2}, None),
        ({0: 1.0}, {0: 2.0}, None),
        ({0: 3.0, 1: 3.0, 2: 3.0}, {0: 3.0, 1: 3.0, 2: 3.0}, None),
        ({0: 1.0, 1: None}, {0: 5.0, 1: 6.0}, 1),
        ({0: 1.0, 1: 2.0}, {0: 5.0, 1: None}, -1),
        ({0: None}, {0: None, 1: 3.0}, None),
        ({0: 1.0, 1: 1.0, 2: 9.0}, {0: 2.0, 1: 2.1, 3: 0.0}, -1),  # only seeds that both have
    ],
)
def test_methods_differ_where_a_paired_test_over_the_seeds_says_so(ours: dict, theirs: dict, sign: int | None) -> None:
    assert compared(ours, theirs) == sign


@pytest.mark.parametrize("n", [2, 3, 5, 11])
def test_the_paired_test_finds_a_difference_in_one_of_twenty_tables_without_any(n: int) -> None:
    """Its level, from normal differences; two thousand tables, four standard errors."""
    generator = random.Random(n)
    tables = [{seed: generator.gauss(0, 1) for seed in range(n)} for _ in range(2000)]
    share = sum(compared(table, dict.fromkeys(table, 0.0)) is not None for table in tables) / len(tables)
    assert abs(share - 0.05) < 0.02


@pytest.mark.parametrize(
    ("ours", "others", "figure", "verdict"),
    [
        ("lngd", ("sgd", "kfac"), "seconds", "reproduced"),
        ("kfac", ("lngd",), "epoch_seconds", "not reproduced"),
        ("lngd", ("sgd",), "best", "reproduced"),
        ("sgd", ("lngd",), "best", "not reproduced"),
        ("sgd", ("kfac",), "train_loss", "undecided"),
        ("lngd", ("adamw",), "epochs", "untestable here"),
        ("muon", ("sgd",), "epochs", "undecided"),
        ("sgd", ("lngd", "adamw"), "seconds", "not reproduced"),
        ("lngd", ("sgd", "adamw"), "seconds", "untestable here"),
    ],
)
def test_each_verdict_has_its_rule(ours: str, others: tuple[str, ...], figure: str, verdict: str) -> None:
    assert judge(Claim("", "", ours, others, figure), summary())[0] == verdict


def test_the_numbers_that_decide_are_printed() -> None:
    assert judge(Claim("", "", "lngd", ("sgd",), "best"), summary())[1] == "LNGD 95.50 ± 0.71; SGD 90.50 ± 0.71"
    missed = judge(Claim("", "", "sgd", ("lngd",), "seconds"), summary(target=0.905))
    assert missed == ("not reproduced", "SGD 1 of 2 seeds; LNGD 3.0 ± 0.0 s")
    failed = [hand_made("sgd", seed, [0.1, 0.1, 0.1, 0.1], 1.0, lr=3.0) for seed in (0, 1)]
    of_two_rates = judge(Claim("", "", "lngd", ("sgd",), "seconds"), summary([*RECORDS, *failed]))
    assert of_two_rates[1].startswith("LNGD 1.5 ± 0.0 s; SGD @0.1 4.0")


def test_seconds_of_different_machines_are_not_compared() -> None:
    elsewhere = [Record(replace(record.header, machine="another"), record.epochs) for record in RECORDS[:2]]
    mixed = summary([*elsewhere, *RECORDS[2:]])
    assert judge(Claim("", "", "lngd", ("sgd",), "seconds"), mixed)[0] == "untestable here"
    assert judge(Claim("", "", "lngd", ("sgd",), "epochs"), mixed)[0] == "reproduced"


def test_a_loss_is_better_when_it_is_smaller() -> None:
    finals = {"lngd": (1.0, 1.01), "sgd": (1.5, 1.51)}
    records = [hand_made(name, seed, [2.0, finals[name][seed]], 1.0, metric="loss") for name in finals for seed in (0, 1)]
    assert judge(Claim("", "", "lngd", ("sgd",), "best"), summary(records, 1.6))[0] == "reproduced"


def test_every_claim_is_of_methods_that_its_table_has() -> None:
    for number, claims in CLAIMS.items():
        printed = {row.optimizer for row in TABLES[number].rows}
        assert all({claim.ours, *claim.others} <= printed for claim in claims)


def test_the_commands_leave_table_and_figure_beside_the_records(tmp_path: Path) -> None:
    for record in RECORDS:
        write(record, tmp_path)
    assert "paper's" in lngd("table", "1", str(tmp_path), "--target", "0.9")
    page = (tmp_path / "table-1.md").read_text()
    assert page.startswith("### Table 1: ResNet-18, CIFAR-10, top-1 91 %\n\nThree blobs.")
    assert "| LNGD needs the least time to the target" in page
    assert "paired t-test" in page
    lngd("figure", "7", str(tmp_path))
    assert (tmp_path / "figure-7.png").stat().st_size > 10_000
    write(Record(replace(RECORDS[0].header, task="toy2"), RECORDS[0].epochs), tmp_path)
    with pytest.raises(BenchError, match="holds toy, toy2: one task's runs"):
        lngd("table", "1", str(tmp_path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table", "4"], "a table of formulas: docs/methods.md"),
        (["figure", "9"], "the paper has figures 1 to 7, not 9"),
        (["table", "nowhere"], "nowhere: no such file or directory"),
        (["figure", "2"], "no runs to draw; lngd race cifar10-resnet18 --optimizers sgd,adamw,kfac,ekfac"),
        (["table", "1", "."], "no finished run: one task's runs make a table; lngd race cifar10-resnet18"),
    ],
)
def test_what_cannot_be_shown_says_what_to_do(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "33.55" in lngd("table", "3")
    with pytest.raises(BenchError, match=message):
        lngd(*words)
