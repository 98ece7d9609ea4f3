"""`lngd overhead` on tiny networks: what it counts, not how fast it is."""

import json
from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

import lngd
from lngd.optimizer import NaturalGradient
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.errors import BenchError
from lngd_bench.studies.overhead.asdl import takes
from lngd_bench.studies.overhead.breakdown import FUNCTIONS, STAGES, breakdown, total
from lngd_bench.studies.overhead.command import overhead
from lngd_bench.studies.overhead.memory import parameter_count, peak_bytes, state_bytes, trainee_of
from lngd_bench.studies.overhead.overhead import ASDL, METHODS, PAST_THE_RAMP, STATELESS, Trainee, interval
from lngd_bench.studies.overhead.records import pages
from lngd_bench.studies.overhead.workloads import NETWORKS, Workload
from lngd_bench.tasks.models.resnet import ResNet18, ResNet50
from lngd_bench.tasks.models.transformer import BASE, Sentences, Transformer

APP = typer.Typer()
APP.command()(overhead)
WIDTHS = {
    "resnet18": 4,
    "resnet18-28": 4,
    "resnet": 4,
    "resnet50": 4,
    "mobilenet": 8,
    "gpt": 8,
    "transformer": 8,
    "vit": 8,
    "mlp": 8,
}
TINY = Workload("mlp", 8, 4)


def of(method: str) -> Trainee:
    return trainee_of(TINY, method)


OURS = tuple(name for name in METHODS if name not in STATELESS and name in OPTIMIZERS and OPTIMIZERS[name].module is None)


def test_resnet18_has_the_parameters_that_everyone_counts() -> None:
    assert parameter_count(ResNet18()) == 11_173_962


def test_resnet50_has_the_parameters_that_everyone_counts() -> None:
    assert parameter_count(ResNet50()) == 25_557_032


def test_a_transformer_attends_to_no_later_token_and_to_all_of_the_source() -> None:
    torch.manual_seed(0)
    model = Transformer(11, width=8, heads=2, layers=2, inner=16, dropout=0.0)
    source, target = torch.arange(1, 6)[None], torch.arange(1, 7)[None]
    before = model(Sentences(source, target))
    later, other = target.clone(), source.clone()
    later[0, 3], other[0, 4] = 9, 9
    torch.testing.assert_close(model(Sentences(source, later))[:, :3], before[:, :3])
    assert not torch.allclose(model(Sentences(source, later))[:, 3:], before[:, 3:])
    assert not torch.allclose(model(Sentences(other, target))[:, :1], before[:, :1])


def test_the_base_transformer_has_six_layers_twice_and_attention_in_projections_of_its_own() -> None:
    model = Transformer(32, **(BASE | {"width": 16, "heads": 2, "inner": 64}))
    assert sum(isinstance(m, nn.Linear) for m in model.modules()) == 6 * (4 + 2) + 6 * (8 + 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_trains_by_our_method_and_stays_where_it_is(name: str) -> None:
    trainee = Trainee(Workload(name, WIDTHS[name], 2), "lngd")
    before = [p.clone() for p in trainee.model.parameters()]
    trainee.warm_up()
    assert all(block.ready for block in trainee.optimizer.blocks.values())
    torch.testing.assert_close([*trainee.model.parameters()], before)


@pytest.mark.parametrize("method", METHODS)
def test_an_interval_holds_what_the_method_does_in_the_long_run(method: str) -> None:
    trainee = of(method)
    trainee.warm_up()
    found = interval(trainee, of("sgd"), 0)
    assert len(found.milliseconds) == STATELESS.get(method, trainee.interval)
    assert len(found.reference) == len(found.milliseconds) // 4
    assert found.mean == pytest.approx(fmean(found.milliseconds))
    assert found.jerk >= 1


@pytest.mark.parametrize("method", [name for name in OURS if name != "ekfac"])
def test_an_interval_of_ours_has_one_measuring_step_and_renews_every_inverse_once(method: str) -> None:
    trainee = of(method)
    trainee.warm_up()
    assert isinstance(trainee.optimizer, NaturalGradient)
    blocks = trainee.optimizer.blocks
    before = {name: (block.updates, dict(block.tensors())) for name, block in blocks.items()}
    renewals: Counter[str] = Counter()
    for _ in range(trainee.interval):
        seen = {name: [block.tensors()[i] for i in block.inverses] for name, block in blocks.items()}
        trainee.step()
        renewals.update(
            n
            for n, block in blocks.items()
            if any(block.tensors()[i] is not t for i, t in zip(block.inverses, seen[n], strict=True))
        )
    assert {name: block.updates - before[name][0] for name, block in blocks.items()} == dict.fromkeys(blocks, 1)
    assert renewals == dict.fromkeys(blocks, 1)
    assert trainee.optimizer.stats()["steps"] == PAST_THE_RAMP + trainee.interval


def test_adamw_keeps_eight_bytes_a_parameter_and_sgd_four() -> None:
    """AdamW's step counters, four bytes for each tensor of parameters, are state too."""
    kept = {}
    for method in ("sgd", "adamw"):
        trainee = of(method)
        trainee.step()
        kept[method] = state_bytes(trainee)
    count, tensors = parameter_count(trainee.model), len([*trainee.model.parameters()])
    assert kept == {"sgd": 4 * count, "adamw": 8 * count + 4 * tensors}


@pytest.mark.parametrize("method", OURS)
def test_the_state_of_our_methods_is_what_their_own_report_says(method: str) -> None:
    """But for a few numbers a layer: weights of averages, κ, counters."""
    trainee = of(method)
    trainee.warm_up()
    assert isinstance(trainee.optimizer, NaturalGradient)
    said, found = trainee.optimizer.memory_report().total, state_bytes(trainee)
    assert said <= found <= said + 64 * len(trainee.optimizer.blocks)


def test_the_factors_that_asdl_hangs_on_modules_are_state() -> None:
    """A, which has no place for the bias, B and their inverses of three layers, and SGD's momentum."""
    trainee = of(ASDL)
    trainee.warm_up()
    sides = [(784, 8), (8, 8), (8, 10)]
    assert state_bytes(trainee) == 4 * sum(2 * (i * i + o * o) for i, o in sides) + 4 * parameter_count(trainee.model)


def test_asdl_is_asked_before_it_fails() -> None:
    assert takes(NETWORKS["resnet"].build(4), 1)
    assert not takes(NETWORKS["mobilenet"].build(8), 1)
    assert not takes(NETWORKS["mlp"].build(8), 2)


def test_a_larger_state_makes_a_higher_peak() -> None:
    wide = Workload("mlp", 768, 4)
    assert (peak_bytes(wide, "kfac") or 0) > (peak_bytes(wide, "sgd") or 0) > 4 * parameter_count(wide.model())


def test_a_breakdown_has_every_stage_that_the_method_has() -> None:
    trainee = of("lngd")
    trainee.warm_up()
    stages = breakdown(trainee)
    assert list(stages) == list(STAGES)
    assert all(stages[stage] > 0 for stage in STAGES if stage != "orthogonalise")
    assert total(stages) == pytest.approx(sum(stages.values()))


@pytest.mark.parametrize(("place", "name", "stage"), FUNCTIONS)
def test_every_row_of_the_stages_names_a_function_that_exists(place: str, name: str, stage: str) -> None:
    root = Path(lngd.__file__).parent.parent / place.replace(".", "/")
    files = [*root.rglob("*.py")] if root.is_dir() else [root.with_suffix(".py")]
    assert stage in STAGES
    assert any(f"def {name}" in file.read_text() for file in files)


def test_the_command_adds_to_its_records_and_a_report_prints_them_again(tmp_path: Path) -> None:
    words = ["--models", "mlp", "--width", "8", "--batch", "4,6", "--rounds", "2", "--no-peak", "--out", str(tmp_path)]
    first = CliRunner().invoke(APP, [*words, "--methods", "sgd,lngd"], catch_exceptions=False)
    again = CliRunner().invoke(APP, [*words, "--methods", "adamw,lngd"], catch_exceptions=False)
    assert (first.exit_code, again.exit_code) == (0, 0)
    assert [page.workload.batch for page in pages(tmp_path)] == [4, 6]
    for page in pages(tmp_path):
        assert list(page.methods) == ["sgd", "lngd", "adamw"]
        assert [len(found.intervals) for found in page.methods.values()] == [2, 2, 2]
        assert [bool(found.stages) for found in page.methods.values()] == [False, True, False]
        assert [found.predicted is not None for found in page.methods.values()] == [False, True, False]
    printed = CliRunner().invoke(APP, ["--report", str(tmp_path)], catch_exceptions=False).output
    for expected in ("MLP 784-1024-1024-10 at width 8, batch 4.", "AdamW", "precondition"):
        assert expected in printed
    assert max(map(len, printed.splitlines()[:-1])) <= 100
    assert (tmp_path / "overhead.png").read_bytes().startswith(b"\x89PNG")
    assert "| LNGD |" in (tmp_path / "overhead.md").read_text()
    events = [json.loads(line)["event"] for line in (tmp_path / "mlp-width8-4.jsonl").read_text().splitlines()]
    assert events == ["start", "method", "method"] * 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--methods", "lngd-paper"), "no method 'lngd-paper'"),
        (("--methods", ","), "no method named"),
        (("--model", "resnet19"), "Did you mean resnet18"),
        (("--batch", "32,many"), "give sizes of 2 and more"),
    ],
)
def test_a_wrong_word_is_answered_with_what_is_valid(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        CliRunner().invoke(APP, list(words), catch_exceptions=False)


def test_a_report_of_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no records"):
        CliRunner().invoke(APP, ["--report", str(tmp_path)], catch_exceptions=False)
