"""`python -m lngd doctor` on models of a user's own."""

import platform
import sys
from pathlib import Path

import pytest
import torch

import lngd
from lngd.__main__ import main
from lngd.doctor import METHODS, DoctorError, load_model, sample_input

MODULE = """
from torch import nn


def image():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))


def words():
    return nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50))


def number():
    return 3


def with_arguments(width):
    return nn.Linear(width, width)


def broken():
    return [][1]


def stumbling():
    return nn.nothing


def frozen():
    return nn.Linear(3, 3).requires_grad_(False)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "users_model.py").write_text(MODULE)
    (tmp_path / "lacking.py").write_text("import absent_package")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Calls the command: its exit status, standard output and standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lngd", "doctor", *arguments])
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return call


def test_doctor_lists_every_parameter_and_times_a_step(project: Path, doctor):
    status, output, error = doctor("users_model:image", "--input", "4x3x8x8")
    assert status == 0, error
    for expected in ("0.weight", "no curvature for BatchNorm2d", "MiB of curvature", "× SGD"):
        assert expected in output


@pytest.mark.parametrize("name", METHODS)
def test_doctor_takes_any_optimizer_and_times_it_beside_adamw(project: Path, doctor, name: str):
    status, output, error = doctor("users_model:image", "--input", "4x3x8x8", "--optimizer", name)
    assert status == 0, error
    assert f"; {name} " in output
    assert "; AdamW " in output


def test_doctor_times_a_model_that_reads_tokens(project: Path, doctor):
    status, output, error = doctor("users_model:words", "--input", "4x7", "--tokens", "50")
    assert status == 0, error
    assert "× SGD" in output


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("users_model", "no MODULE:FACTORY"),
        ("absent_module:build", "no module 'absent_module' here: call it in your project's folder"),
        ("users_model.py:image", "write the module without .py"),
        ("lacking:build", "lacking can't be imported: ModuleNotFoundError: No module named 'absent_package'"),
        ("users_model:stumbling", "users_model:stumbling failed: AttributeError"),
        ("users_model:absent", "has no 'absent'"),
        (".users_model:image", "no MODULE:FACTORY"),
        ("users_model:number", "gave a int"),
        ("users_model:with_arguments", "without arguments: missing a required argument: 'width'"),
        ("users_model:broken", "IndexError"),
        ("users_model:frozen", "without a parameter that requires a gradient"),
    ],
)
def test_a_wrong_factory_is_one_error_that_says_what_is_wrong(project: Path, spec: str, message: str):
    with pytest.raises(DoctorError, match=message):
        load_model(spec)


@pytest.mark.parametrize("shape", ["", "4x", "0x3", "4,3", "-1x2"])
def test_a_wrong_shape_is_refused_with_an_example(shape: str):
    with pytest.raises(DoctorError, match="32x3x224x224"):
        sample_input(shape, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["users_model:image", "--input", "4x1x8x8"], "does not take an input of shape (4, 1, 8, 8)"),
        (["users_model:absent"], "has no 'absent'"),
        (["users_model:words", "--input", "4x7"], "its embedding reads --tokens N"),
        (["users_model:words", "--tokens", "5"], "give --input"),
        (["users_model:words", "--input", "4x7", "--tokens", "0"], "--tokens 0"),
    ],
)
def test_a_mistake_is_one_line_on_standard_error(project: Path, doctor, arguments: list[str], message: str):
    status, _, error = doctor(*arguments)
    assert status == 2
    assert error.startswith("lngd: ")
    assert message in error
    assert error.count("\n") == 1


def test_help_says_what_the_command_is_for(doctor):
    status, output, _ = doctor("--help")
    assert status == 0
    assert "MODULE:FACTORY" in output


def test_without_a_command_its_help_is_printed_and_version_tells_what_a_report_needs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lngd"])
    main()
    assert "doctor" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["lngd", "--version"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert capsys.readouterr().out == f"lngd {lngd.__version__}, torch {torch.__version__}, Python {platform.python_version()}\n"
