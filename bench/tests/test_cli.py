import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lngd_bench.cli.app import app
from lngd_bench.errors import BenchError

TINY = ["digits-mlp", "--optimizers", "sgd,lngd", "--seeds", "1", "--steps", "4", "--train-samples", "128"]


def lngd(*words: str) -> str:
    """What a command prints; its errors are raised here."""
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def command(*words: str) -> list[str]:
    """The command as a process of its own, with the default answer to Ctrl-C even where the tests run in the background."""
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from lngd_bench.cli import main; main()"
    return [sys.executable, "-c", code, *words]


def fails(*words: str) -> tuple[int, str]:
    done = subprocess.run(command(*words), capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_race_says_what_it_will_do_and_leaves_records_tables_figures_and_a_page(tmp_path: Path) -> None:
    printed = lngd("race", *TINY, "--out", str(tmp_path))
    assert printed.startswith("digits-mlp: 2 optimizers × 1 seed = 2 runs, about")
    assert "Target: accuracy" in printed
    names = {path.name for path in tmp_path.iterdir()}
    assert {"table.md", "digits-mlp.png", "report.html"} <= names
    assert len(list(tmp_path.glob("*.jsonl"))) == 2


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


def test_an_error_of_the_users_is_one_line_and_exit_status_two() -> None:
    status, errors = fails("race", "digits-mpl")
    assert status == 2
    assert len(errors.splitlines()) == 1


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["race", "digits-mlp", "--optimizers", "sgd", "--seeds", "500", "--epochs", "4", "--out", str(out)]
    with subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = ""
        while "seed 1 " not in seen:
            seen = process.stdout.readline()
            assert seen, "the race ended before its second run"
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    kept = len(list(out.glob("*.jsonl")))
    assert 2 <= kept < 500
    assert f"Stopped; {kept} of 500 runs are kept" in rest
    assert "--resume" in rest


def test_without_the_bench_extra_one_line_says_how_to_get_it(tmp_path: Path) -> None:
    code = (
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'typer' else real(name, package)\n"
        "from lngd_bench.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == "lngd's commands need the bench extra: pip install 'lngd[bench]'"
