from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lngd_bench.errors import BenchError
from lngd_bench.studies.theory.command import theory

app = typer.Typer()
app.command()(theory)

TINY = ["--widths", "8,40", "--seeds", "2", "--steps", "3", "--run-steps", "2"]


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_prints_narrow_tables_and_draws_both_figures(tmp_path: Path) -> None:
    printed = run(*TINY, "--out", str(tmp_path / "new"))
    for name in ("theorem-1.png", "theorem-2.png"):
        assert (tmp_path / "new" / name).read_bytes().startswith(b"\x89PNG")
        assert name in printed
    tables, _, _ = printed.partition("Written")
    assert max(map(len, tables.splitlines())) <= 80
    assert "mnist-mlp with LNGD, 2 steps: gain" in tables
    assert "0 steps below 1" in tables
    first_cells = [line.split()[0] for line in tables.splitlines() if line.split()]
    assert [first_cells.count(width) for width in ("8", "40", "∞")] == [5, 5, 3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--widths", "16,x"], "--widths 16,x: give whole numbers from 1"),
        (["--widths", ","], "separated by commas"),
        (["--widths", "0"], "give whole numbers from 1"),
        (["--seeds", "0"], "--seeds 0: give a whole number of 1 or more"),
        (["--steps", "-1"], "--steps -1"),
        (["--run-steps", "0"], "--run-steps 0"),
    ],
)
def test_a_wrong_value_is_answered_with_what_is_allowed(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        run(*words, "--out", str(tmp_path))


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BenchError, match="choose another directory"):
        run(*TINY, "--out", str(tmp_path / "file"))
