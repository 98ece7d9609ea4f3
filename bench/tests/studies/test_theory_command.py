from pathlib import Path

import pytest
from typer.testing import CliRunner

from lngd_bench import archive
from lngd_bench.cli.app import app
from lngd_bench.errors import BenchError


def run(*words: str) -> str:
    return CliRunner().invoke(app, ["theory", *words], catch_exceptions=False).output


def test_the_command_says_for_each_width_where_the_bound_holds(tmp_path: Path) -> None:
    printed = run("--widths", "8,40", "--seeds", "2", "--steps", "3", "--run-steps", "2", "--out", str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"theory.md", "theory.png", "theory.jsonl.gz"}
    assert "mnist-mlp with LNGD, 2 steps: gain" in printed
    assert "0 steps below 1" in printed
    first_cells = [line.split()[0] for line in printed.splitlines() if line.split()]
    assert [first_cells.count(width) for width in ("8", "40", "∞")] == [5, 5, 3]
    lines = archive.read(tmp_path / "theory.jsonl.gz")["theory.jsonl"]
    runs = [line for line in lines if line["event"] == "run"]
    assert len(runs) == 3 * 2 * 2 * 5  # widths and ∞, seeds, rates, α
    kept = sum(line["first"] is None for line in runs if (line["width"], line["alpha"], line["rate"]) == (40, 0.1, "none"))
    row = next(line for line in printed.splitlines() if line.startswith("40 "))
    assert row.split()[2] == f"{kept}/2"


@pytest.mark.parametrize("widths", ["16,x", ",", "0"])
def test_wrong_widths_are_answered_with_what_is_allowed(tmp_path: Path, widths: str) -> None:
    with pytest.raises(BenchError, match=f"--widths {widths}: give whole numbers from 1"):
        run("--widths", widths, "--out", str(tmp_path))
