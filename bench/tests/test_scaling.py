"""`lngd scaling` on small perceptrons."""

import math
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lngd_bench import archive
from lngd_bench.errors import BenchError
from lngd_bench.studies.overhead.on_paper import Work
from lngd_bench.studies.scaling.command import scaling
from lngd_bench.studies.scaling.scaling import exponents, point, slope

APP = typer.Typer()
APP.command()(scaling)


def test_the_slope_of_a_power_is_its_exponent_and_what_is_not_positive_is_left_out() -> None:
    assert slope([(x, 5 * x**3) for x in (1, 2, 4, 8)]) == pytest.approx(3)
    assert slope([(1, -1.0), (2, 2.0), (4, 4.0)]) == pytest.approx(1)
    assert math.isnan(slope([(1, -1.0), (2, 2.0)]))


def test_exponents_of_the_upper_half_forget_a_constant_that_small_sizes_show() -> None:
    measured, upper, operations, _ = exponents(
        [{"value": w, "milliseconds": 100 + w**3, "sgd": 50, "operations": w**3, "predicted": w**3} for w in (1, 2, 64, 128)]
    )
    assert operations == pytest.approx(3)
    assert measured < upper < 3


def test_the_operations_of_an_ordinary_step_are_counted_from_the_shapes() -> None:
    """Two layers of 8 inputs and a bias: 2·o·i² each to precondition, 2·r·i·o each for the rate of r = 4 samples."""
    found = point("depth", {"width": 8, "depth": 1, "batch": 4, "classes": 10}, "lngd", 1, Work(1.0, 1.0, 1.0, 1.0))
    assert found["operations"] == sum(2 * o * 9**2 + 2 * 4 * 9 * o for o in (8, 10))


def test_the_command_leaves_points_exponents_and_a_chart_and_shows_them_again(tmp_path: Path) -> None:
    words = ["--axes", "width", "--values", "8,16", "--steps", "1", "--out", str(tmp_path)]
    assert CliRunner().invoke(APP, words, catch_exceptions=False).exit_code == 0
    start, *points = archive.read(tmp_path / "scaling.jsonl.gz")["scaling.jsonl"]
    assert start["method"] == "lngd"
    assert [(p["axis"], p["value"]) for p in points] == [("width", 8), ("width", 16)]
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "scaling.md").read_text()
    assert CliRunner().invoke(APP, ["--report", str(tmp_path)], catch_exceptions=False).exit_code == 0
    assert (tmp_path / "scaling.md").read_text() == page


@pytest.mark.parametrize("words", [("--axes", "width,depth", "--values", "8"), ("--axes", "width", "--values", "some")])
def test_sizes_belong_to_one_axis_and_are_numbers(words: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="give sizes"):
        CliRunner().invoke(APP, [*words, "--out", str(tmp_path)], catch_exceptions=False)
