"""`lngd gaussian` on tiny settings, and what it takes for a layer's output."""

import json
import math
from pathlib import Path

import pytest
import torch
import typer
from torch import Tensor, nn
from typer.testing import CliRunner

from lngd_bench.errors import BenchError
from lngd_bench.studies.gaussian.command import gaussian
from lngd_bench.studies.gaussian.drawing import draw, pictured
from lngd_bench.studies.gaussian.figure import coordinate_index, observe, receivers
from lngd_bench.studies.gaussian.normality import normality
from lngd_bench.tasks.models.resnet import ResNet

APP = typer.Typer()
APP.command()(gaussian)
PNG = b"\x89PNG"


def run(*words: str) -> str:
    result = CliRunner().invoke(APP, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def events(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def net(*, inplace: bool = False) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(inplace=inplace), nn.Linear(7, 3))


def test_the_command_leaves_a_figure_and_the_numbers_that_it_printed(tmp_path: Path) -> None:
    printed = run("--task", "digits-mlp", "--steps", "3", "--layers", "1,3", "--out", str(tmp_path))
    assert (tmp_path / "fig6.png").read_bytes().startswith(PNG)
    start, *lines = events(tmp_path / "gaussian.jsonl")
    assert (start["event"], start["task"], start["config"]["total_steps"]) == ("start", "digits-mlp", 3)
    assert [line["event"] for line in lines] == ["sample", "sample", "coordinates"] * 4
    assert {(line["layer"], line["stage"]) for line in lines} == {
        (layer, stage) for layer in ("1", "3") for stage in ("pre-activation", "output")
    }
    for line in (line for line in lines if line["event"] == "sample"):
        assert line["n"] == 360
        assert f"{line['distance']:.3f}" in printed
    assert max(map(len, printed.splitlines()[1:-1])) <= 100


def test_zeros_of_a_relu_are_counted_and_the_pre_activation_has_none(tmp_path: Path) -> None:
    run("--task", "digits-mlp", "--steps", "2", "--layers", "1", "--out", str(tmp_path))
    shares = {
        line["stage"]: line["zeros"] for line in events(tmp_path / "gaussian.jsonl") if line.get("quantity", "")[:2] == "at"
    }
    assert shares["pre-activation"] == 0
    assert 0 < shares["output"] < 1


def test_without_names_it_takes_two_layers_from_within(tmp_path: Path) -> None:
    run("--task", "digits-mlp", "--steps", "1", "--out", str(tmp_path))
    assert {line["layer"] for line in events(tmp_path / "gaussian.jsonl")[1:]} == {"3", "5"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--task", "digits-mlp", "--layers", "2"), "no layer '2'"),
        (("--task", "digits-mlp", "--layers", ","), "no layer named; valid: 1, 3, 5"),
        (("--task", "digits-mpl"), "Did you mean digits-mlp"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_ones(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        run(*words)


def test_a_layers_output_goes_to_the_first_later_layer_that_is_made_of_it() -> None:
    found = receivers(ResNet((2, 4, 8)).eval(), torch.randn(2, 1, 28, 28))
    assert found["stem.0.0"] == "blocks.0.first.0"
    assert found["blocks.1.first.0"] == "blocks.1.second.0"
    assert found["blocks.1.second.0"] == found["blocks.1.shortcut.0"] == "blocks.2.first.0"
    assert found["blocks.2.second.0"] == "head"
    assert "head" not in found


@pytest.mark.parametrize("shape", [(2, 5), (2, 4, 5)])
def test_an_activation_in_place_hides_no_receiver(shape: tuple[int, ...]) -> None:
    assert receivers(net(inplace=True), torch.randn(shape)) == {"0": "2"}


@pytest.mark.parametrize("inplace", [False, True])
def test_pre_activation_and_output_are_those_of_the_formula(inplace: bool) -> None:
    model, x = net(inplace=inplace), torch.randn(64, 5)
    made = x @ model[0].weight.T + model[0].bias
    before, after = observe(model, x.split(20), "0")
    for stage, values in ((before, made), (after, made.relu())):
        (channel,) = coordinate_index(values)
        torch.testing.assert_close(stage.coordinate.values, values[:, channel])
        torch.testing.assert_close(stage.norm.values, values.norm(dim=1))
        assert len(stage.every["distance"]) == 7
    last = observe(model, [x], "2")
    torch.testing.assert_close(last[0].norm.values, last[1].norm.values)


def test_a_model_in_training_is_seen_as_in_evaluation_and_goes_on_training() -> None:
    model, x = nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.9), nn.BatchNorm1d(7), nn.Linear(7, 3)), torch.randn(30, 5)
    statistics = model[2].running_mean.clone()
    _, output = observe(model, [x], "0")
    torch.testing.assert_close(output.norm.values, model.eval()[2](model[0](x)).norm(dim=1))
    assert torch.equal(model[2].running_mean, statistics)
    model.train()
    observe(model, [x], "0")
    assert model.training


def test_looking_leaves_the_model_as_it_was() -> None:
    model, x = net(), torch.randn(30, 5)
    before = model(x)
    observe(model, [x], "0")
    assert torch.equal(model(x), before)
    assert all(not m._forward_hooks and not m._forward_pre_hooks and p.grad is None for m in model for p in m.parameters())


def _varying(*shape: int, at: tuple[int, ...]) -> Tensor:
    values = torch.zeros(10, *shape)
    values[(slice(None), *at)] = torch.arange(10.0)
    return values


@pytest.mark.parametrize(
    ("values", "index"),
    [
        (torch.randn(10, 3, 7, 7), (0, 3, 3)),
        (_varying(3, 7, 7, at=(2, 3, 3)), (2, 3, 3)),
        (torch.randn(10, 8, 5), (4, 0)),
        (_varying(8, 5, at=(4, 3)), (4, 3)),
        (_varying(6, at=(5,)), (5,)),
    ],
)
def test_the_coordinate_is_the_middle_of_the_first_channel_that_varies(values: Tensor, index: tuple[int, ...]) -> None:
    assert coordinate_index(values) == index


def test_a_layer_that_never_varies_is_refused() -> None:
    model = net()
    nn.init.constant_(model[0].bias, -1e3)
    with pytest.raises(ValueError, match="choose another layer"):
        observe(model, [torch.randn(30, 5)], "0")


def test_the_figure_takes_any_number_of_layers_and_coordinates_that_are_dead(tmp_path: Path) -> None:
    model = net()
    with torch.no_grad():
        model[0].bias[3] = -1e3
    stages = observe(model, [torch.randn(50, 5)], "0")
    assert stages[1].every["distance"].isnan().tolist() == [index == 3 for index in range(7)]
    path = draw([pictured(stage) for stage in stages], tmp_path / "one.png", "one layer")
    assert path.read_bytes().startswith(PNG)
    assert math.isfinite(normality(stages[1].norm.values).distance)
