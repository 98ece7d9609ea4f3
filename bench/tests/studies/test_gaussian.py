"""`lngd gaussian` on tiny settings, and what it takes for a layer's output."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from lngd_bench import archive
from lngd_bench.cli.app import app
from lngd_bench.errors import BenchError
from lngd_bench.studies.fisher.redraw import redraw
from lngd_bench.studies.gaussian.outputs import coordinate_index, lines_of, observe, receivers
from lngd_bench.tasks.models.resnet import ResNet


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["gaussian", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def net(*, inplace: bool = False) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(inplace=inplace), nn.Linear(7, 3))


def test_the_command_leaves_the_numbers_that_it_printed_and_its_figure_can_be_drawn_again(tmp_path: Path) -> None:
    printed = run("--task", "digits-mlp", "--steps", "3", "--layers", "1,3", "--out", str(tmp_path))
    start, *lines = archive.read(tmp_path / "gaussian.jsonl.gz")["gaussian.jsonl"]
    assert (start["event"], start["task"], start["config"]["total_steps"]) == ("start", "digits-mlp", 3)
    assert [line["event"] for line in lines] == ["sample", "sample", "coordinates"] * 4
    samples = [line for line in lines if line["event"] == "sample"]
    page = (tmp_path / "gaussian.md").read_text()
    assert all(
        line["n"] == 360 and f"{line['distance']:.3f}" in printed and f"{line['distance']:.3f}" in page for line in samples
    )
    shares = {(line["layer"], line["stage"]): line["zeros"] for line in samples if line["quantity"] != "norm"}
    assert shares["1", "pre-activation"] == 0
    assert 0 < shares["1", "output"] < 1
    assert all(sum(line["counts"]) == round(line["n"] * (1 - line["zeros"])) for line in samples)
    for number, source in (("one", tmp_path), ("two", tmp_path / "gaussian.jsonl.gz")):
        assert redraw("6", source, tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_without_names_it_takes_two_layers_from_within(tmp_path: Path) -> None:
    run("--task", "digits-mlp", "--steps", "1", "--out", str(tmp_path))
    lines = archive.read(tmp_path / "gaussian.jsonl.gz")["gaussian.jsonl"]
    assert {line["layer"] for line in lines[1:]} == {"3", "5"}


def test_a_wrong_name_is_answered_with_the_right_ones() -> None:
    with pytest.raises(BenchError, match=r"no layer '2'.* Valid: 1, 3, 5"):
        run("--task", "digits-mlp", "--layers", "2")


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
    before, after = observe(model, x.split(20), "0").values()
    torch.testing.assert_close(before, made)
    torch.testing.assert_close(after, made.relu())
    assert [line["event"] for line in lines_of("0", "output", after)] == ["sample", "sample", "coordinates"]
    torch.testing.assert_close(*observe(model, [x], "2").values())


def test_a_model_in_training_is_seen_as_in_evaluation_and_stays_as_it_was() -> None:
    model, x = nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.9), nn.BatchNorm1d(7), nn.Linear(7, 3)), torch.randn(30, 5)
    statistics = model[2].running_mean.clone()
    output = observe(model, [x], "0")["output"]
    assert model.training
    assert torch.equal(model[2].running_mean, statistics)
    assert all(not m._forward_hooks and not m._forward_pre_hooks and p.grad is None for m in model for p in m.parameters())
    torch.testing.assert_close(output, model.eval()[2](model[0](x)))


def _varying(*shape: int, at: tuple[int, ...]) -> Tensor:
    values = torch.zeros(10, *shape)
    values[(slice(None), *at)] = torch.arange(10.0)
    return values


@pytest.mark.parametrize(
    ("values", "index"),
    [
        (torch.randn(10, 3, 7, 7), (0, 3, 3)),
        (_varying(3, 7, 7, at=(2, 3, 3)), (2, 3, 3)),
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
        lines_of("0", "output", observe(model, [torch.randn(30, 5)], "0")["output"])
