"""`lngd overhead` on a ResNet-18 of four channels: what it counts, not how fast it is."""

import json
from pathlib import Path

import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from lngd.bench import overhead as bench
from lngd.bench.errors import BenchError
from lngd.bench.models.resnet18 import ResNet18
from lngd.bench.overhead import METHODS, MODELS, Footprint, Timing, Trainee, Workload, measure
from lngd.cli.overhead import overhead

APP = typer.Typer()
APP.command()(overhead)
TINY = Workload(MODELS["resnet18"], 4, 4)
FIRST_ORDER = ("sgd", "adamw", "muon", "muon-fp32", "soap", "shampoo", "heavyball", "singd")  # no blocks to be measured
CURVED = [name for name in METHODS if name not in FIRST_ORDER]
KFAC_LIKE = ("kfac", "ekfac", "tkfac", "thor", "lngd-lr")


def lines(path: Path, event: str) -> list[dict]:
    return [line for line in map(json.loads, path.read_text().splitlines()) if line["event"] == event]


def lngd_bytes(model: nn.Module) -> int:
    """Φ, Ψ and their inverses in float32, by the paper's shapes."""
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    sides = [(m.weight[0].numel() + (m.bias is not None), len(m.weight)) for m in layers]
    return sum(2 * 4 * (i * i + o) for i, o in sides)


def test_resnet18_has_the_parameters_that_everyone_counts() -> None:
    assert sum(p.numel() for p in ResNet18().parameters()) == 11_173_962


def test_resnet18_has_twenty_convolutions_and_ends_at_four_by_four() -> None:
    model, seen = ResNet18(width=4), []
    model.stages.register_forward_hook(lambda *call: seen.append(call[-1].shape))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert seen == [(2, 32, 4, 4)]
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == 20


def test_the_command_writes_every_timing_and_a_table(tmp_path: Path) -> None:
    words = ["--methods", "sgd,lngd", "--width", "4", "--batch", "4", "--rounds", "2", "--out", str(tmp_path)]
    result = CliRunner().invoke(APP, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    timings, kept = (lines(tmp_path / "overhead.jsonl", event) for event in ("timing", "footprint"))
    found = [(t["method"], t["kind"], t["round"]) for t in timings]
    expected = [("sgd", "ordinary"), ("lngd", "ordinary"), ("lngd", "measuring"), ("lngd", "refresh")]
    assert sorted(found) == sorted((*what, number) for what in expected for number in range(2))
    assert all(t["milliseconds"] > 0 and t["reference_milliseconds"] > 0 for t in timings)
    assert [line["state_bytes"] for line in kept] == [0, lngd_bytes(ResNet18(width=4))]
    table = (tmp_path / "overhead.md").read_text()
    for expected in ("resnet18, 4 channels in the first stage, batch 4, beside SGD; 2 rounds.", "| SGD |", "| LNGD |"):
        assert expected in table
    assert max(map(len, result.output.splitlines()[:-1])) <= 100


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_timed_in_each_of_its_kinds_of_step(method: str) -> None:
    first, *timings = measure([method], TINY, 1)
    kinds = [line.kind for line in timings if isinstance(line, Timing)]
    assert kinds == (["ordinary"] if method in FIRST_ORDER else ["ordinary", "measuring", "refresh"])
    assert isinstance(first, Footprint)
    assert (first.state_bytes > 0) == (method in CURVED)
    assert first.largest_bytes <= first.state_bytes


@pytest.mark.parametrize("method", METHODS)
def test_only_what_samples_from_the_model_needs_a_second_backward(method: str) -> None:
    footprint = next(measure([method], TINY, 1))
    assert isinstance(footprint, Footprint)
    assert footprint.backward_passes == (2 if method in KFAC_LIKE else 1)


@pytest.mark.parametrize("method", CURVED)
def test_a_refresh_makes_every_inverse_anew(method: str) -> None:
    trainee = Trainee(TINY, method)
    trainee.step()
    before = {name: dict(block.tensors()) for name, block in trainee.blocks.items()}
    trainee.refresh()
    for name, block in trainee.blocks.items():
        assert block.ready
        assert all(getattr(block, inverse) is not before[name][inverse] for inverse in block.inverses)
        assert all(getattr(block, statistic) is before[name][statistic] for statistic in block.statistics)


@pytest.mark.parametrize("method", ["sgd", "lngd"])
def test_weights_stay_where_they_are(method: str) -> None:
    trainee = Trainee(TINY, method)
    before = [p.clone() for p in trainee.model.parameters() if p.dim() > 1]
    trainee.step()
    trainee.step()
    assert all(torch.equal(p, q) for p, q in zip((p for p in trainee.model.parameters() if p.dim() > 1), before, strict=True))


def test_a_refresh_that_takes_long_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SLOW_REFRESH", 0.0)
    kinds = [line.kind for line in measure(["lngd"], TINY, 3) if isinstance(line, Timing)]
    assert kinds.count("refresh") == 1
    assert kinds.count("measuring") == kinds.count("ordinary") == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--methods", "lngd-paper"), "no method 'lngd-paper'"),
        (("--methods", ","), "no method named"),
        (("--model", "resnet19"), "Did you mean resnet18"),
    ],
)
def test_a_wrong_word_is_answered_with_what_is_valid(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        CliRunner().invoke(APP, list(words), catch_exceptions=False)


def test_against_a_method_with_curvature_like_is_compared_with_like() -> None:
    """In step with each other: measuring beside measuring, a refresh beside a refresh; SGD has ordinary steps only."""
    lines = [line for line in measure(["kfac", "sgd", "lngd"], TINY, 2, "lngd") if isinstance(line, Timing)]
    both = ["ordinary", "measuring", "refresh"]
    assert [line.kind for line in lines if line.method == "kfac"] == both * 2
    assert [line.kind for line in lines if line.method == "lngd"] == both * 2
    assert {line.kind for line in lines if line.method == "sgd"} == {"ordinary"}
