from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lngd_bench.cli.app import app
from lngd_bench.errors import BenchError
from lngd_bench.studies.quality.quality import SIZES, Size, sizes

TINY = Size(task="digits-mlp", steps=10, epoch_steps=1, train_samples=700, evaluations=50, target=0.3, fractions=(0.5, 1.0))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The digits task among the others, and the number of threads as it was."""
    threads = torch.get_num_threads()
    monkeypatch.setattr("lngd_bench.studies.quality.command.SIZES", {**SIZES, **sizes([TINY])})
    yield
    torch.set_num_threads(threads)


def lngd(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.usefixtures("tiny")
def test_the_command_leaves_records_a_table_the_figures_and_a_plot_and_reports_them_again(tmp_path: Path) -> None:
    words = ["quality", "--tasks", "digits-mlp", "--trials", "3", "--seeds", "2", "--out", str(tmp_path)]
    printed = lngd(*words, "--optimizers", "sgd,lngd")
    assert "Target: accuracy ≥ 30.00 %. Schedules of 5, 10 steps" in printed
    assert "LNGD / better of SGD and AdamW" in printed
    table = (tmp_path / "quality.md").read_text()
    assert "CPU time of the process" in table
    assert {path.name for path in tmp_path.iterdir()} == {"digits-mlp", "quality.md", "quality.json", "quality.png"}
    (tmp_path / "quality.md").unlink()
    again = lngd("quality", "--report", str(tmp_path))
    assert "records in" not in again
    assert (tmp_path / "quality.md").read_text() == table
    assert "4 of 4 runs are finished already" in lngd(*words, "--optimizers", "sgd,lngd")
    assert (tmp_path / "quality.md").read_text() == table


@pytest.mark.usefixtures("tiny")
def test_one_directory_takes_only_runs_of_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["quality", "--tasks", "digits-mlp", "--trials", "3", "--seeds", "1", "--optimizers", "sgd", "--out", str(tmp_path)]
    lngd(*words)
    other = Size(task="digits-mlp", steps=20, epoch_steps=2, train_samples=700, evaluations=50, target=0.3)
    monkeypatch.setattr("lngd_bench.studies.quality.command.SIZES", sizes([other]))
    with pytest.raises(BenchError, match="other settings"):
        lngd(*words)


def test_a_report_of_an_empty_directory_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="holds no finished comparison"):
        lngd("quality", "--report", str(tmp_path))
