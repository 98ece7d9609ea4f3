"""`lngd fisher` on a net with small layers, and what its figures are drawn from."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lngd.linalg import Damping
from lngd_bench import archive
from lngd_bench.cli.app import app
from lngd_bench.errors import BenchError
from lngd_bench.studies.fisher.compare import APPROXIMATIONS, approximate
from lngd_bench.studies.fisher.drawing import FisherBlocks, blocks_of, kronecker_factors, weights_only
from lngd_bench.studies.fisher.exact import ExactCurvature
from lngd_bench.studies.fisher.redraw import redraw
from lngd_bench.tasks import SCALES, TASKS
from lngd_bench.tasks.models.plain import mlp as relu_mlp
from lngd_bench.training.train import DivergenceError, Learner
from reference import batch, mlp

LAYERS = ["1", "3", "5"]
STOPS = (("start", 0), ("first epoch", 10), ("middle", 20), ("end", 40))


def lngd_fisher(*words: str) -> str:
    return CliRunner().invoke(app, ["fisher", *words], catch_exceptions=False).output


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
    return archive.read(out / "fisher.jsonl.gz")["fisher.jsonl"]


def test_its_records_hold_every_layer_and_method_at_every_stop(run):
    printed, out = run
    assert {path.name for path in out.iterdir()} == {"fisher.md", "fisher.png", "fisher.jsonl.gz"}
    first, *rows, blocks, last = events(out)
    assert (first["event"], first["task"], first["samples"], first["damping"]) == ("start", "mnist-fisher", 20, 0.3)
    assert (blocks["event"], blocks["inputs"], blocks["outputs"]) == ("blocks", 6, 6)
    assert last == {"event": "end"}
    keys = [(row["moment"], row["step"], row["layer"], row["method"]) for row in rows]
    assert keys == [(*stop, layer, name) for stop in STOPS for layer in LAYERS for name in APPROXIMATIONS]
    row = next(row for row in rows if (row["moment"], row["layer"], row["method"]) == ("end", "3", "K-FAC"))
    page = (out / "fisher.md").read_text()
    assert f"{row['error']:.4g}" in page
    for tables in (printed, page):
        line = next(line for line in tables.split("end, step 40")[1].splitlines() if line.startswith("K-FAC"))
        assert [line.split()[2], line.split()[5]] == [f"{row['scaled_error']:.3f}", f"{row['cosine']:.3f}"]


def test_the_same_seed_gives_the_same_records(run, tmp_path):
    lngd_fisher("--out", str(tmp_path), "--epochs", "4", "--samples", "20")
    assert events(tmp_path)[1:] == events(run[1])[1:]


@pytest.mark.parametrize("number", ["1", "5"])
def test_the_papers_figures_are_drawn_from_the_records(number, run, tmp_path, monkeypatch):
    source = run[1]
    first = redraw(number, source, tmp_path / "first.png")
    assert redraw(number, source / "fisher.jsonl.gz", tmp_path / "again.png").read_bytes() == first.read_bytes()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        BenchError, match=r"no results/fisher.jsonl.gz or runs/fisher/fisher.jsonl.gz: .*make some with lngd fisher"
    ):
        redraw(number, None)
    with pytest.raises(BenchError, match=r"has no fisher.jsonl; lngd fisher makes one"):
        redraw(number, tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--damping", "nan"], "--damping nan: give a number greater than 0"),
        (["--samples", "641"], "asks for 641 training samples, the data set has 640"),
    ],
)
def test_a_wrong_number_is_answered_with_what_is_valid(words, message, tmp_path):
    with pytest.raises(BenchError, match=message):
        lngd_fisher("--out", str(tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


def test_a_training_that_diverges_is_one_line(tmp_path, monkeypatch):
    def diverge(_: Learner) -> float:
        raise DivergenceError("training loss nan at step 3")

    monkeypatch.setattr(Learner, "train_epoch", diverge)
    with pytest.raises(BenchError, match="the training diverged: training loss nan at step 3; try another --seed"):
        lngd_fisher("--out", str(tmp_path), "--scale", "tiny")


def test_drawn_blocks_have_no_bias_and_their_inputs_first():
    """a ⊗ g as the paper has it, where the library has g ⊗ a."""
    a, g = torch.randn(4, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    block = torch.kron(g.outer(g), a.outer(a))
    torch.testing.assert_close(weights_only(block, 3), torch.kron(a[:-1].outer(a[:-1]), g.outer(g)))


def test_blocks_come_back_from_their_line_within_its_precision():
    curvature = ExactCurvature(mlp(4, 5, 3), batch(12, 4)[0])
    exact = weights_only(curvature.fisher("0"), 5)
    methods = {name: approximate(curvature, "0", name, Damping(0.1)) for name in ("LNGD", "K-FAC", "TKFAC")}
    dense = {name: weights_only(block.dense(), 5) for name, block in methods.items()}
    blocks = FisherBlocks("a title", exact, {name: kronecker_factors(block, 5) for name, block in dense.items()})
    found = blocks_of([json.loads(json.dumps(blocks.line(), allow_nan=False))])
    assert (found.title, found.outputs) == ("a title", 5)
    torch.testing.assert_close(found.exact, exact, rtol=1e-3, atol=1e-6 * exact.abs().max().item())
    for name, block in dense.items():
        torch.testing.assert_close(found.dense[name], block, rtol=1e-5, atol=1e-6 * block.abs().max().item())
