import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lngd_bench.cli.app import app
from lngd_bench.errors import BenchError
from lngd_bench.training.records import read_record

TINY = ["digits-mlp", "--optimizers", "sgd,lngd", "--seeds", "1", "--steps", "4", "--train-samples", "128"]


def lngd(*words: str) -> str:
    """What a command prints; its errors are raised here."""
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    torch.set_flush_denormal(False)  # which a race sets for its whole process
    assert result.exit_code == 0, result.output
    return result.output


def command(*words: str) -> list[str]:
    """The command as a process of its own, with the default answer to Ctrl-C even where the tests run in the background."""
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from lngd_bench.cli import main; main()"
    return [sys.executable, "-c", code, *words]


def ran(*words: str) -> tuple[int, str, str]:
    """Exit status, output and errors of a command."""
    done = subprocess.run(command(*words), capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def fails(*words: str) -> tuple[int, str]:
    status, _, errors = ran(*words)
    return status, errors


def test_a_race_says_what_it_will_do_and_leaves_records_tables_figures_and_a_page(tmp_path: Path) -> None:
    printed = lngd("race", *TINY, "--out", str(tmp_path))
    assert printed.startswith("digits-mlp: 2 optimizers × 1 seed = 2 runs, about")
    assert "Target: accuracy" in printed
    names = {path.name for path in tmp_path.iterdir()}
    assert {"table.md", "digits-mlp.png", "report.html"} <= names
    assert len(list(tmp_path.glob("*.jsonl"))) == 2


@pytest.mark.slow
def test_two_processes_race_as_one(tmp_path: Path) -> None:
    """Each trains on half of every batch; the records are one race's, and no helper is left."""
    ends = {}
    for count in (1, 2):
        out = tmp_path / str(count)
        status, printed, errors = ran("race", *TINY, "--nproc", str(count), "--out", str(out))
        assert status == 0, errors
        assert "Written:" in printed
        for name in ("sgd", "lngd"):
            (path,) = out.glob(f"digits-mlp--{name}--*.jsonl")
            ends[name, count] = read_record(path).epochs[-1].eval_loss
    assert ends["sgd", 2] == pytest.approx(ends["sgd", 1], rel=1e-4)
    assert ends["lngd", 2] == pytest.approx(ends["lngd", 1], rel=0.1)
    status, said = fails("race", *TINY, "--nproc", "2", "--resume", "--out", str(tmp_path / "2"))
    assert status == 2
    assert "--nproc goes with neither --resume nor --device" in said


def test_tables_and_figures_are_made_again_from_records(tmp_path: Path) -> None:
    lngd("race", *TINY, "--out", str(tmp_path))
    before = (tmp_path / "table.md").read_text()
    for name in ("table.md", "digits-mlp.png", "report.html"):
        (tmp_path / name).unlink()
    assert "SGD" in lngd("table", str(tmp_path))
    assert (tmp_path / "table.md").read_text() == before
    lngd("figure", str(tmp_path), "--target", "0.2")
    assert (tmp_path / "digits-mlp.png").exists()
    assert "20.00 % (given)" in (tmp_path / "report.html").read_text()


def test_resuming_runs_only_what_is_missing(tmp_path: Path) -> None:
    lngd("race", *TINY, "--out", str(tmp_path))
    kept, lost = sorted(tmp_path.glob("*.jsonl"))
    before = kept.read_text()
    lost.unlink()
    assert "1 of 2 runs are finished already" in lngd("race", *TINY, "--out", str(tmp_path), "--resume")
    assert kept.read_text() == before
    assert lost.exists()


def test_a_race_without_out_makes_a_new_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lngd("race", *TINY)
    assert re.fullmatch(r"\d{8}-\d{6}-digits-mlp", next((tmp_path / "runs").iterdir()).name)


def test_a_rate_given_by_option_is_the_one_that_runs(tmp_path: Path) -> None:
    lngd("race", *TINY, "--out", str(tmp_path), "--lr", "lngd=0.07", "--lr", "sgd=0.03")
    assert {re.search(r"lr([\d.]+)--", path.name)[1] for path in tmp_path.glob("*.jsonl")} == {"0.07", "0.03"}


def test_tuning_prints_the_line_for_the_task(tmp_path: Path) -> None:
    words = ["tune", "digits-mlp", "--optimizers", "sgd", "--trials", "3", "--steps", "3", "--train-samples", "100"]
    printed = lngd(*words, "--out", str(tmp_path))
    assert "← best" in printed
    assert re.search(r'rates=\{"sgd": [\d.]+\},', printed)


def test_the_list_of_data_sets_says_how_to_get_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LNGD_DATA", raising=False)
    monkeypatch.setattr("lngd_bench.tasks.datasets.places.CACHE", tmp_path)
    printed = lngd("data", "list")
    assert "inside sklearn" in printed
    assert "missing; get it with: lngd data fetch cifar-10" in printed
    assert "missing; get it with: lngd data ende" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["race", "digits-mpl"], "Did you mean digits-mlp? Valid: digits-mlp, mnist-mlp"),
        (["race", "digits-mlp", "--optimizers", "adam"], "Did you mean adamw? Valid: sgd, adamw"),
        (["race", "digits-mlp", "--optimizers", ","], "no optimizer named"),
        (["race"], "name tasks or give --default"),
        (["race", "digits-mlp", "--default"], "name tasks or give --default"),
        (["race", "digits-mlp", "--lr", "sgd"], "--lr sgd: give it as NAME=VALUE"),
        (["race", "digits-mlp", "--lr", "sgd=-1"], "greater than 0"),
        (["race", "digits-mlp", "--rest", "sgd=2"], "--rest sgd=…: sgd has none; it is for ekfac"),
        (["race", "digits-mlp", "--damping", "muon=2"], "--damping muon=…: muon has none; it is for ekfac"),
        (["race", "digits-mlp", "--target", "best"], "give auto, task or a number"),
        (["race", "digits-mlp", "--device", "toaster"], "--device toaster"),
        (["quality", "--tasks", "mnist-cm"], "Did you mean mnist-cnn? Valid: fashion-mlp, fashion-cnn"),
        (["quality", "--optimizers", "soup"], "Did you mean soap?"),
        (["data", "fetch", "imagenette"], "Did you mean imagenet?"),
        (["data", "fetch", "digits"], "needs no download, or has none"),
    ],
)
def test_a_wrong_word_is_answered_with_what_is_valid(words: list[str], message: str) -> None:
    with pytest.raises(BenchError, match=re.escape(message)):
        CliRunner().invoke(app, words, catch_exceptions=False)


@pytest.mark.parametrize("name", [[], ["race"], ["tune"], ["data"], ["data", "fetch"], ["fisher"], ["quality"]])
def test_help_is_readable_in_a_narrow_terminal(name: list[str]) -> None:
    printed = CliRunner().invoke(app, [*name, "--help"], terminal_width=60).output
    assert "Usage:" in printed
    assert max(map(len, printed.splitlines())) <= 60
    assert "..." not in printed.partition("\n")[2]


def test_a_task_of_hours_looks_for_its_data_before_it_says_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LNGD_DATA", raising=False)
    monkeypatch.setattr("lngd_bench.tasks.datasets.places.CACHE", tmp_path)
    status, printed, errors = ran("race", "imagenet-resnet50", "--scale", "full", "--out", str(tmp_path / "out"))
    assert (status, printed) == (2, "")
    assert "is in none of" in errors
    assert not (tmp_path / "out").exists()


def test_an_error_of_the_users_is_one_line_and_exit_status_two(tmp_path: Path) -> None:
    for words in (["race", "digits-mpl"], ["race", "digits-mlp", "--data-dir", str(tmp_path / "nowhere")]):
        status, printed, errors = ran(*words)
        assert (status, printed, len(errors.splitlines())) == (2, "", 1)
