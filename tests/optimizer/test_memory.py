"""The memory report against the bytes of the tensors that are really there after a few steps."""

import pytest
import torch
from torch import Tensor, nn

from lngd import EKFAC, KFAC, LNGD, THOR, TKFAC, LNGDLr, LNGDSample, NGPlus, SpectralLNGD
from reference import batch, train_step

METHODS = [LNGD, SpectralLNGD, LNGDSample, LNGDLr, KFAC, EKFAC, TKFAC, NGPlus, THOR]
RECIPES = [{}, {"momentum_on": "update"}, {"step_size": "graft", "lr": 1e-3}, {"step_size": "constant", "momentum_on": "update"}]
CASES = [(method, recipe) for method in METHODS for recipe in RECIPES if method is not LNGDSample or "step_size" not in recipe]
"""LNGDSample's step size is constant by definition."""


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, groups=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, 40),
        nn.ReLU(),
        nn.Linear(40, 3),
    )


def allocated(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of every tensor of the state; a tensor that stands in it twice counts once."""
    found: dict[int, int] = {}
    held = [tensor for block in optimizer.blocks.values() for tensor in block.tensors().values()]
    held += [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    for tensor in held:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(found.values())


@pytest.mark.parametrize(("method", "recipe"), CASES, ids=str)
def test_the_report_is_within_five_percent_of_what_is_allocated_before_and_after_training(method, recipe):
    net, (x, y) = model(), batch(8, 2, 8, 8, dtype=torch.float32)
    optimizer = method(net, schedule=1, **recipe)
    expected = optimizer.memory_report()
    assert allocated(optimizer) == pytest.approx(expected.total, rel=0.05)
    for _ in range(3):
        train_step(net, optimizer, x, y)
    assert allocated(optimizer) == pytest.approx(expected.total, rel=0.05)
    assert optimizer.memory_report() == expected


NUMBERS = ("average_weight", "alignment", "observations", "kappa", "gradient_norm", "output_norm", "over_rows")


def test_statistics_of_bfloat16_parameters_count_as_float32_and_adamws_averages_as_bfloat16():
    net = nn.Sequential(nn.Linear(9, 20), nn.LayerNorm(20)).bfloat16()
    report = LNGD(net).memory_report()
    assert report.layers[0].statistics == report.layers[0].inverses == 4 * (10 * 10 + 20)
    assert report.layers[0].averages == 4 * (20 * 10 + len(NUMBERS))
    assert report.fallback == 2 * 2 * 40
    assert report.parameters == 2 * (20 * 10 + 40)


def test_the_report_is_a_table_that_names_every_layer_and_adds_up():
    optimizer = LNGD(model())
    report = optimizer.memory_report()
    lines = str(report).splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["layer", *optimizer.blocks, "AdamW"]
    assert len({len(line) for line in lines[:-1]}) == 1
    assert report.total == sum(layer.total for layer in report.layers) + report.fallback
    assert report.curvature == optimizer.summary().state_bytes


def test_inverses_take_no_more_memory_than_their_numbers():
    net, (x, y) = nn.Linear(30, 3), batch(8, 30, dtype=torch.float32)
    optimizer = LNGD(net)
    train_step(net, optimizer, x, y)
    tensors: dict[str, Tensor] = optimizer.blocks[""].tensors()
    assert all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in tensors.values())


def test_a_head_of_many_classes_is_kept_in_blocks() -> None:
    """K-FAC keeps a factor of up to 8,192 rows whole; of 50,000 outputs only blocks of at most 512."""
    with torch.device("meta"):
        head = nn.Linear(512, 50_000, bias=False)
    (layer,) = KFAC(head).memory_report().layers
    assert layer.statistics == layer.inverses == 4 * (512**2 + 98 * 512**2)
    with torch.device("meta"):
        head = nn.Linear(16, 8192, bias=False)
    (layer,) = KFAC(head).memory_report().layers
    assert layer.statistics == 4 * (16**2 + 8192**2)
