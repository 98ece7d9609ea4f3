"""`run.md`: what a person finds in a run directory."""

from dataclasses import replace
from pathlib import Path

from lngd_bench.report.run_notes import Notes
from lngd_bench.training.race import Place, plan, race
from lngd_bench.training.records import Record
from lngd_bench.training.train import RunSpec
from runs import TOY, diverged, hand_made, write

SPECS = plan([TOY], ["sgd", "lngd"], range(1))


def notes(out: Path, specs: list[RunSpec] = SPECS) -> str:
    return Notes(specs, Place(out=out, command="lngd race toy"), "lngd race toy --resume").write().read_text()


def states(page: str) -> list[str]:
    return [line.split(" | ")[1].strip() for line in page.splitlines() if line.startswith("| ")][1:]


def test_each_state_is_told_and_how_to_go_on(tmp_path: Path) -> None:
    write(hand_made("sgd", 0, [0.5, 0.75], 1.0), tmp_path)
    lost = diverged(hand_made("muon", 0, [], 1.0))
    write(Record(lost.header, (replace(lost.epochs[0], reason="a | b\n## c"),)), tmp_path)
    (tmp_path / "prices.jsonl").write_text('{"price": 3}\n')
    started = race(SPECS[1:], Place(out=tmp_path))
    next(started)
    started.close()
    page = notes(tmp_path, [*SPECS, RunSpec(TOY, "adamw", 0.01, 5, 0.3)])
    assert states(page) == ["finished", "unfinished, 1 of 3 epochs", "waiting", r"diverged in epoch 1: a \| b ## c"]
    assert "2 of 4 runs are over" in page
    assert "accuracy 75.00 %" in page
    assert "`lngd race toy --resume`" in page


def test_when_all_is_over_it_says_how_to_look_at_it(tmp_path: Path) -> None:
    list(race(SPECS, Place(out=tmp_path, command="lngd race toy")))
    page = notes(tmp_path)
    assert "\n    lngd race toy\n" in page
    assert "--resume" not in page
    assert f"`lngd table {tmp_path}`" in page
    assert states(page) == ["finished", "finished"]
