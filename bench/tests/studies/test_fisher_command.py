"""`lngd fisher` on a net with small layers, and what its figures are drawn from."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from lngd_bench.errors import BenchError
from lngd_bench.studies.fisher.command import fisher
from lngd_bench.studies.fisher.compare import APPROXIMATIONS, compare
from lngd_bench.studies.fisher.exact import ExactCurvature
from lngd_bench.studies.fisher.figures import (
    COLOURS,
    MARKERS,
    Moment,
    draw_enlarged,
    draw_side_by_side,
    draw_training,
    weights_only,
)
from lngd_bench.tasks import SCALES, TASKS
from lngd_bench.tasks.datasets.small_images import load_mnist14_split, load_mnist_split
from lngd_bench.tasks.models.mlp import mlp as relu_mlp
from lngd_bench.training.train import DivergenceError, Learner
from reference import batch, mlp

LAYERS = ["1", "3", "5"]
STOPS = (("start", 0), ("first epoch", 10), ("middle", 20), ("end", 40))
FILES = {"fisher.md", "fisher.jsonl", "fig1.png", "fig5.png", "fisher-training.png"}


def lngd_fisher(*words: str) -> str:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(fisher)
    return CliRunner().invoke(app, list(words), catch_exceptions=False).output


@pytest.fixture(scope="module", autouse=True)
def small_task() -> Iterator[None]:
    """The paper's first layer has 3,940 parameters, and its exact block takes ten seconds."""
    small = replace(TASKS["digits-mlp"], name="mnist-fisher", epochs=3, samples=640, model=partial(relu_mlp, 64, 6, 6, 10))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "mnist-fisher", {"here": small, "tiny": replace(small, samples=40, batch_size=20, epochs=1)})
        yield


@pytest.fixture(scope="module")
def run(small_task, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What it prints, and where its files are."""
    out = tmp_path_factory.mktemp("run") / "new" / "fisher"
    return lngd_fisher("--out", str(out), "--epochs", "4", "--samples", "20"), out


def events(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "fisher.jsonl").read_text().splitlines()]


def test_it_leaves_tables_records_and_figures(run):
    printed, out = run
    assert {path.name for path in out.iterdir()} == FILES
    assert all(str(out / name) in printed.replace("\n", "") for name in FILES)
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in FILES if name.endswith("png"))


def test_what_it_prints_fits_a_hundred_columns(run):
    before_paths = run[0].split("Written:")[0]
    assert max(map(len, before_paths.splitlines())) <= 100


def test_its_records_hold_every_layer_and_method_at_every_stop(run):
    first, *rows, blocks, last = events(run[1])
    assert (first["event"], first["task"], first["samples"], first["damping"]) == ("start", "mnist-fisher", 20, 0.3)
    assert (blocks["event"], blocks["inputs"], blocks["outputs"]) == ("blocks", 6, 6)
    assert last == {"event": "end"}
    keys = [(row["moment"], row["step"], row["layer"], row["method"]) for row in rows]
    assert keys == [(*stop, layer, name) for stop in STOPS for layer in LAYERS for name in APPROXIMATIONS]
    assert all(0 <= row["scaled_error"] <= 1 for row in rows)


def test_the_page_shows_the_numbers_of_the_records(run):
    printed, out = run
    row = next(row for row in events(out) if (row.get("moment"), row.get("layer"), row.get("method")) == ("end", "3", "K-FAC"))
    page = (out / "fisher.md").read_text()
    assert f"| end | 3 | K-FAC | {row['error']:.4g} | {row['scale']:.4g} |" in page
    summary = next(line for line in page.split("### end")[1].splitlines() if line.startswith("| K-FAC"))
    assert [cell.strip() for cell in summary.split("|")][3] == f"{row['scaled_error']:.3f}"
    line = next(line for line in printed.split("end, step 40")[1].splitlines() if line.startswith("K-FAC"))
    assert line.split()[2] == f"{row['scaled_error']:.3f}"
    assert line.split()[5] == f"{row['cosine']:.3f}"


def test_the_same_seed_gives_the_same_records(run, tmp_path):
    lngd_fisher("--out", str(tmp_path), "--epochs", "4", "--samples", "20")
    assert events(tmp_path)[1:] == events(run[1])[1:]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--damping", "0"], "--damping 0.0: give a number greater than 0"),
        (["--damping", "nan"], "--damping nan: give a number greater than 0"),
        (["--samples", "641"], "asks for 641 training samples, the data set has 640"),
    ],
)
def test_a_wrong_number_is_answered_with_what_is_valid(words, message, tmp_path):
    with pytest.raises(BenchError, match=message):
        lngd_fisher("--out", str(tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


def test_it_runs_at_another_scale_on_no_more_samples_than_that_has(tmp_path):
    printed = lngd_fisher("--out", str(tmp_path), "--scale", "tiny")
    assert "Expectations over 40 training samples" in printed
    assert {row["step"] for row in events(tmp_path) if row["event"] == "row"} == {0, 2}


def test_a_training_that_diverges_is_one_line(tmp_path, monkeypatch):
    def diverge(_: Learner) -> float:
        raise DivergenceError("training loss nan at step 3")

    monkeypatch.setattr(Learner, "train_epoch", diverge)
    with pytest.raises(BenchError, match="the training diverged: training loss nan at step 3; try another --seed"):
        lngd_fisher("--out", str(tmp_path), "--samples", "2")


def test_images_of_the_task_are_means_of_two_by_two_pixels():
    small, large = load_mnist14_split(), load_mnist_split()
    means = large.train_x.unflatten(-1, (14, 2)).unflatten(-3, (14, 2)).mean((-3, -1))
    assert small.train_x.shape == (4000, 1, 14, 14)
    assert torch.equal(small.train_y, large.train_y)
    assert torch.corrcoef(torch.stack([small.train_x.flatten(), means.flatten()]).double())[0, 1] == pytest.approx(1, abs=1e-5)


def test_drawn_blocks_have_no_bias_and_their_inputs_first():
    """a ⊗ g as the paper has it, where the library has g ⊗ a."""
    a, g = torch.randn(4, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    block = torch.kron(g.outer(g), a.outer(a))
    torch.testing.assert_close(weights_only(block, 3), torch.kron(a[:-1].outer(a[:-1]), g.outer(g)))


def test_every_method_has_a_look_of_its_own():
    assert list(COLOURS) == list(MARKERS) == list(APPROXIMATIONS)
    assert len(set(COLOURS.values())) == len(set(MARKERS.values())) == len(APPROXIMATIONS)


def test_figures_of_any_small_model_can_be_drawn(tmp_path):
    x, y = batch(6, 4)
    curvature = ExactCurvature(mlp(4, 5, 3), x)
    exact = weights_only(curvature.fisher("0"), 5)
    draw_enlarged(exact, exact.diag().diag(), outputs=5, title="one", path=tmp_path / "1.png")
    draw_side_by_side(exact, {"K-FAC": 2 * exact, "LNGD": exact}, title="two", path=tmp_path / "2.png")
    moments = [Moment("start", 0, tuple(compare(curvature, y, 0.1)))]
    assert not any(math.isnan(row.cosine) for row in moments[0].rows)
    draw_training(moments, {"0": "4→5", "2": "5→3"}, title="three", path=tmp_path / "3.png")
    assert {path.name for path in tmp_path.iterdir()} == {"1.png", "2.png", "3.png"}
