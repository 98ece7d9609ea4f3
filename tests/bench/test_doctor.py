"""`lngd doctor` on models of a user's own."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from lngd.bench.doctor import load_model, sample_input
from lngd.bench.errors import BenchError
from lngd.cli.app import app

MODULE = """
from torch import nn


def image():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))


def words():
    return nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50))


def number():
    return 3
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "users_model.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_doctor_lists_every_parameter_and_times_a_step(project: Path):
    result = CliRunner().invoke(app, ["doctor", "users_model:image", "--input", "4x3x8x8"])
    assert result.exit_code == 0, result.output
    for expected in ("0.weight", "no curvature for BatchNorm2d", "MiB of curvature", "× SGD"):
        assert expected in result.output


def test_doctor_times_a_model_that_reads_tokens(project: Path):
    result = CliRunner().invoke(app, ["doctor", "users_model:words", "--input", "4x7", "--tokens", "50"])
    assert result.exit_code == 0, result.output
    assert "× SGD" in result.output


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("users_model", "no MODULE:FACTORY"),
        ("absent_module:build", "no module 'absent_module'"),
        ("users_model:absent", "has no 'absent'"),
        ("users_model:number", "gave a int"),
    ],
)
def test_a_wrong_factory_is_one_error_that_says_what_is_wrong(project: Path, spec: str, message: str):
    with pytest.raises(BenchError, match=message):
        load_model(spec)


@pytest.mark.parametrize("shape", ["", "4x", "0x3", "4,3", "-1x2"])
def test_a_wrong_shape_is_refused_with_an_example(shape: str):
    with pytest.raises(BenchError, match="32x3x224x224"):
        sample_input(shape, None)


def test_an_input_that_the_model_does_not_take_is_one_error(project: Path):
    result = CliRunner().invoke(app, ["doctor", "users_model:image", "--input", "4x1x8x8"])
    assert isinstance(result.exception, BenchError)
    assert "does not take an input of shape (4, 1, 8, 8)" in str(result.exception)
