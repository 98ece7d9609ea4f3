"""`lngd overhead` on tiny networks: what it counts, not how fast it is."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

import lngd
from lngd.optimizer import NaturalGradient
from lngd_bench import archive
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.errors import BenchError
from lngd_bench.studies.overhead import calls
from lngd_bench.studies.overhead.anatomy import FUNCTIONS, STAGES, breakdown, peak_bytes, state_bytes
from lngd_bench.studies.overhead.before import Checkout
from lngd_bench.studies.overhead.command import overhead
from lngd_bench.studies.overhead.on_paper import Work, calibrated, forward_and_backward, layer_shapes, layers_of, passes, predict
from lngd_bench.studies.overhead.report import pages
from lngd_bench.studies.overhead.timing import METHODS, PAST_THE_RAMP, STATELESS, Trainee, build, interval, trainee_of
from lngd_bench.studies.overhead.workloads import NETWORKS, Workload
from lngd_bench.tasks.models.transformer import Sentences, Transformer

APP = typer.Typer()
APP.command()(overhead)
TINY = Workload("mlp", 8, 4)
OURS = tuple(name for name in METHODS if OPTIMIZERS[name].defaults)


def parameter_count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def trained(method: str) -> Trainee:
    trainee = trainee_of(TINY, method)
    trainee.warm_up()
    return trainee


def test_resnet18_has_the_parameters_that_everyone_counts() -> None:
    assert parameter_count(NETWORKS["resnet18"].build(64)) == 11_173_962


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


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_trains_by_our_method_stays_where_it_is_and_is_counted_without_computing(name: str) -> None:
    workload = Workload(name, 8 if name in ("mlp", "gpt", "vit", "transformer", "mobilenet") else 4, 2)
    trainee = trainee_of(workload, "lngd")
    before = [p.clone() for p in trainee.model.parameters()]
    trainee.warm_up()
    assert all(block.ready for block in trainee.optimizer.blocks.values())
    torch.testing.assert_close([*trainee.model.parameters()], before)
    work = forward_and_backward(workload)
    assert min(work.operations, work.traffic) > 0


@pytest.mark.parametrize("method", METHODS)
def test_an_interval_holds_whole_steps_with_the_reference_among_them(method: str) -> None:
    trainee = trained(method)
    found = interval(trainee, trainee_of(TINY, "sgd"), 0)
    assert len(found["milliseconds"]) == STATELESS.get(method, trainee.interval)
    assert len(found["reference"]) == len(found["milliseconds"]) // 4


@pytest.mark.parametrize("method", [name for name in OURS if name != "ekfac"])
def test_an_interval_of_ours_has_one_measuring_step_and_renews_every_inverse_once(method: str) -> None:
    trainee = trained(method)
    assert isinstance(trainee.optimizer, NaturalGradient)
    blocks = trainee.optimizer.blocks
    before = {name: block.updates for name, block in blocks.items()}
    renewals: Counter[str] = Counter()
    for _ in range(trainee.interval):
        seen = {name: [block.tensors()[i] for i in block.inverses] for name, block in blocks.items()}
        trainee.step()
        for name, block in blocks.items():
            renewals[name] += any(block.tensors()[i] is not t for i, t in zip(block.inverses, seen[name], strict=True))
    assert {name: block.updates - before[name] for name, block in blocks.items()} == dict.fromkeys(blocks, 1)
    assert renewals == dict.fromkeys(blocks, 1)
    assert trainee.optimizer.stats()["steps"] == PAST_THE_RAMP + trainee.interval


BESIDE = """
import sys
from pathlib import Path
import lngd
from lngd_bench.studies.overhead.before import BEFORE, CLASSES, Checkout
from lngd_bench.studies.overhead.timing import PAST_THE_RAMP, interval, trainee_of
from lngd_bench.studies.overhead.workloads import Workload

tiny = Workload("mlp", 8, 4)
checkout = Checkout(Path(lngd.__file__).parent.parent)
assert sys.modules["lngd"] is lngd
for method in CLASSES:
    trainee = trainee_of(tiny, method + BEFORE, checkout.build)
    assert not isinstance(trainee.optimizer, lngd.LNGD)
    assert {group["lr"] for group in trainee.optimizer.param_groups} == {0.0}
    trainee.warm_up()
    found = interval(trainee, trainee_of(tiny, "sgd"), 0)
    assert len(found["milliseconds"]) == trainee_of(tiny, method).interval
    assert trainee.optimizer.stats()["steps"] == PAST_THE_RAMP + len(found["milliseconds"])
"""


def test_another_checkout_is_timed_beside_this_one() -> None:
    """Here it is this one again, imported a second time: other classes, the same work.

    In a process of its own, since the tests' checks of shapes know one of them only.
    """
    subprocess.run([sys.executable, "-c", BESIDE], check=True)
    with pytest.raises(BenchError, match="such as the src"):
        Checkout(Path(__file__).parent)


def test_state_is_counted() -> None:
    """AdamW's step counters, four bytes for each tensor of parameters, count."""
    model = trained("sgd").model
    count, tensors = parameter_count(model), len([*model.parameters()])
    expected = {"sgd": 4 * count, "adamw": 8 * count + 4 * tensors}
    assert {method: state_bytes(trained(method)) for method in expected} == expected


@pytest.mark.parametrize("method", OURS)
def test_the_state_of_our_methods_is_what_their_own_report_says(method: str) -> None:
    """But for a few numbers a layer: weights of averages, κ, counters."""
    trainee = trained(method)
    assert isinstance(trainee.optimizer, NaturalGradient)
    said = trainee.optimizer.memory_report().total
    assert said <= state_bytes(trainee) <= said + 64 * len(trainee.optimizer.blocks)


def test_a_larger_state_makes_a_higher_peak() -> None:
    wide = Workload("mlp", 768, 4)
    assert (peak_bytes(wide, "kfac") or 0) > (peak_bytes(wide, "sgd") or 0) > 4 * parameter_count(wide.model())


def test_a_breakdown_has_every_stage_and_every_row_of_the_stages_names_a_function_that_exists() -> None:
    stages = breakdown(trained("lngd"))
    assert list(stages) == list(STAGES)
    assert all(stages[stage] > 0 for stage in STAGES if stage != "orthogonalise")
    for place, name, _ in FUNCTIONS:
        root = Path((lngd if place.split(".")[0] == "lngd" else archive).__file__).parent
        path = root.joinpath(*place.split(".")[1:])
        files = [*path.rglob("*.py")] if path.is_dir() else [path.with_suffix(".py")]
        assert any(f"def {name}" in file.read_text() for file in files), f"{place}: {name}"


def test_a_step_of_a_perceptron_is_three_products_a_layer_but_two_in_the_first() -> None:
    width, batch = 16, 4
    products = 2 * batch * (2 * 784 * width + 3 * width * width + 3 * width * 10)
    assert forward_and_backward(Workload("mlp", width, batch)).products == products


def test_layers_are_counted_by_group_and_by_call() -> None:
    (conv,) = layer_shapes(nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=4), (torch.randn(1, 8, 6, 6),))
    assert (conv.inputs, conv.outputs, conv.groups, conv.positions, conv.pixels) == (2 * 9 + 1, 3, 4, 9, 36)
    layer = nn.Linear(5, 5)
    assert layer_shapes(nn.Sequential(layer, nn.ReLU(), layer), (torch.randn(1, 7, 5),))[0].positions == 14


def test_the_counts_on_a_linear_layer_are_those_of_the_paper() -> None:
    """2·o·i² to precondition, 2·r·s·i·o for the rate, 10/16 of 2·n·s·i² to measure, i³ to refresh; K-FAC has both sides."""
    layers = {}
    for method in ("lngd", "kfac"):
        model = nn.Linear(31, 16)
        optimizer = build(method, model)
        assert isinstance(optimizer, NaturalGradient)
        (layers[method],) = layers_of(method, optimizer, layer_shapes(model, (torch.randn(1, 7, 31),)), batch=64)
    assert layers["lngd"].precondition() == Work(products=2 * 16 * 32**2)
    assert layers["lngd"].rate().products == 2 * 16 * 7 * 16 * 32
    assert layers["lngd"].measure().products == 10 / 16 * 2 * 64 * 7 * 32**2
    assert layers["lngd"].refresh() == Work(factorisations=32**3)
    assert layers["kfac"].precondition() == Work(products=2 * 16 * 32**2 + 2 * 16**2 * 32)
    assert layers["kfac"].rate() == Work()
    assert layers["kfac"].refresh() == Work(factorisations=32**3 + 16**3)


def test_sgd_with_nesterov_momentum_passes_eleven_times_over_the_gradient() -> None:
    """m ← βm: 2. m ← m + g: 3. u = g + βm: 3. p ← p − lr·u: 3."""
    assert passes("sgd") == pytest.approx(11)


def test_a_prediction_leaves_others_out_and_a_machine_has_a_speed_of_each_kind() -> None:
    second = calibrated(repeats=1)
    assert min(second) > 0
    found = predict(TINY, ["sgd", "lngd", "kfac"], second)
    assert set(found) == {"lngd", "kfac"}
    assert found["lngd"].ratio > 1


def test_the_command_adds_to_its_records_and_a_report_prints_them_again(tmp_path: Path) -> None:
    words = ["--models", "mlp", "--width", "8", "--batch", "4,6", "--rounds", "2", "--no-peak", "--out", str(tmp_path)]
    for methods in ("sgd,lngd", "adamw,lngd"):
        assert CliRunner().invoke(APP, [*words, "--methods", methods], catch_exceptions=False).exit_code == 0
    packed = tmp_path / "overhead.jsonl.gz"
    assert [page.workload.batch for page in pages(packed)] == [4, 6]
    for page in pages(packed):
        assert [found["method"] for found in page.methods] == ["sgd", "adamw", "lngd"]
        assert [len(found["intervals"]) for found in page.methods] == [2, 2, 2]
        assert [bool(found["stages"]) for found in page.methods] == [False, False, True]
        assert [found["predicted"] is not None for found in page.methods] == [False, False, True]
    lines = archive.read(packed)["mlp-width8-4.jsonl"]
    assert [line["event"] for line in lines] == ["start", "method", "method"] * 2
    lines[2]["peak_bytes"] = 123  # of LNGD, by the first call; the second did not look
    archive.write(tmp_path / "with_peak.jsonl.gz", {"mlp-width8-4.jsonl": lines})
    (with_peak,) = pages(tmp_path / "with_peak.jsonl.gz")
    assert [found["peak_bytes"] for found in with_peak.methods] == [None, None, 123]
    page, written = (tmp_path / "overhead.md").read_text(), packed.read_bytes()
    for source in (tmp_path, packed):
        printed = CliRunner().invoke(APP, ["--report", str(source)], catch_exceptions=False).output
        assert "MLP 784-1024-1024-10 at width 8, batch 4." in printed
        assert (page, written) == ((tmp_path / "overhead.md").read_text(), packed.read_bytes())
    assert (tmp_path / "overhead.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--methods", "lngd-paper"), "no method 'lngd-paper'"),
        (("--model", "resnet19"), "Did you mean resnet18"),
        (("--batch", "32,many"), "give sizes of 2 and more"),
        (("--report", "."), "no records"),
        (("--model", "mlp", "--before", "."), "the folder that holds a package lngd"),
    ],
)
def test_a_wrong_word_is_answered_with_what_is_valid(
    words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BenchError, match=message):
        CliRunner().invoke(APP, list(words), catch_exceptions=False)


def test_a_device_and_a_precision_are_the_workloads(tmp_path: Path) -> None:
    workload = Workload("gpt2", 64, 1, "cpu", "bfloat16")
    assert workload.title == "GPT-2, 124 M at width 64, batch 1, bfloat16"
    assert workload.file_name == "gpt2-width64-1-bfloat16.jsonl"
    assert replace(workload, device="cuda").file_name == "gpt2-width64-1-bfloat16-gpu.jsonl"
    with workload.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with pytest.raises(BenchError, match="--device hal: "):
        CliRunner().invoke(APP, ["--device", "hal", "--out", str(tmp_path)], catch_exceptions=False)
    words = ["--models", "mlp", "--width", "16", "--batch", "4", "--methods", "lngd-spectral", "--no-peak", "--rounds", "1"]
    CliRunner().invoke(APP, [*words, "--precision", "bfloat16", "--out", str(tmp_path)], catch_exceptions=False)
    (page,) = pages(tmp_path / "overhead.jsonl.gz")
    assert page.workload == Workload("mlp", 16, 4, "cpu", "bfloat16")


def test_calls_and_operations_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    calls.main()
    torch.set_num_threads(threads)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    counts = {(what, name): int(count) for what, name, count in rows[2:]}
    steps = {name: count for (what, name), count in counts.items() if what.endswith("optimizer's step")}
    assert [*steps] == ["SGD", "AdamW", "Muon with AdamW", "LNGD", "SpectralLNGD"]
    assert steps["SGD"] < steps["LNGD"] < steps["AdamW"] < steps["SpectralLNGD"] < steps["Muon with AdamW"]
    whole = {name: count for (what, name), count in counts.items() if what.endswith("in all")}
    assert whole["LNGD"] <= 400
    assert whole["SpectralLNGD"] <= 420
    more = {name: count for (what, name), count in counts.items() if what.startswith("operations of 10 layers more")}
    assert more["LNGD"] <= 60
    assert more["SpectralLNGD"] <= 20
