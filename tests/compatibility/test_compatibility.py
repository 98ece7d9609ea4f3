"""Every cell of the compatibility matrix, and the page that shows it."""

import subprocess
import sys
from pathlib import Path

import pytest

from compatibility.cells import CELLS, FILES, ROWS
from compatibility.page import PAGE, render, tables
from compatibility.table import METHODS, REGISTERED
from tiers import THREE

HERE = Path(__file__).parent


COLUMNS = [pytest.param(*cell, id="-".join(cell), marks=[pytest.mark.slow] * (cell[1] not in THREE)) for cell in CELLS]


@pytest.mark.parametrize(("row", "method"), COLUMNS)
def test_cell(row: str, method: str):
    ROWS[row].check(METHODS[method])


def test_every_file_of_rows_is_in_the_table():
    assert {Path(file.__file__) for file in FILES} == set(HERE.glob("rows_*.py"))
    assert ROWS == REGISTERED


def test_the_committed_page_shows_exactly_these_cells_and_all_pass():
    """If it fails for a new row: `make compatibility`."""
    everything = tables(dict.fromkeys(CELLS, True))
    assert PAGE.read_text().endswith(f"\n\n{everything}")


def test_the_page_shows_a_cell_that_failed():
    outcomes = dict.fromkeys(CELLS, True) | {CELLS[0]: False}
    assert render(outcomes).count("✗ |") == 1
    assert f"{len(CELLS) - 1} of {len(CELLS)} cells pass" in render(outcomes)


@pytest.mark.slow
def test_a_partial_run_writes_no_page(tmp_path: Path):
    page = tmp_path / "page.md"
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(HERE),
        "-k",
        "test_cell and linear_layer and NGPlus",
        "--write-page",
        str(page),
    ]
    done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True)
    assert done.returncode != 0
    assert f"{len(CELLS) - 1} of {len(CELLS)} cells were not run" in done.stdout + done.stderr
    assert not page.exists()
