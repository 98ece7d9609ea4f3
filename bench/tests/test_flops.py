"""Costs on paper against counts made by hand."""

import pytest
import torch
from torch import nn

from lngd.optimizer import NaturalGradient
from lngd_bench.studies.overhead.flops import Counter, LayerShape, Work, forward_and_backward, layer_shapes
from lngd_bench.studies.overhead.machine import Machine, calibrated
from lngd_bench.studies.overhead.overhead import build
from lngd_bench.studies.overhead.prediction import layers_of, passes, predict
from lngd_bench.studies.overhead.workloads import NETWORKS, Workload

UNIT = Machine(1.0, 1.0, 1.0, 1.0)


def shape_of(model: nn.Module, *size: int) -> LayerShape:
    return layer_shapes(model, (torch.randn(1, *size),))[0]


def test_a_step_of_a_perceptron_is_three_products_a_layer_but_two_in_the_first() -> None:
    width, batch = 16, 4
    products = 2 * batch * (2 * 784 * width + 3 * width * width + 3 * width * 10)
    assert forward_and_backward(Workload("mlp", width, batch)).products == products


@pytest.mark.parametrize("name", NETWORKS)
def test_work_is_counted_for_every_network_without_computing(name: str) -> None:
    work = forward_and_backward(Workload(name, 8, 2))
    assert work.operations > 0
    assert work.traffic > 0


def test_the_sizes_of_a_grouped_convolution_are_those_of_a_group() -> None:
    shape = shape_of(nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=4), 8, 6, 6)
    assert (shape.inputs, shape.outputs, shape.groups, shape.positions, shape.pixels) == (2 * 9 + 1, 3, 4, 9, 36)
    assert shape.convolution


def test_a_layer_that_is_called_twice_has_twice_the_positions() -> None:
    layer = nn.Linear(5, 5)
    assert shape_of(nn.Sequential(layer, nn.ReLU(), layer), 7, 5).positions == 14


def test_the_counts_of_lngd_on_a_linear_layer_are_those_of_the_paper() -> None:
    """2·o·i² to precondition, 2·r·s·i·o for the rate, 10/16 of 2·n·s·i² to measure, i³ to refresh."""
    model = nn.Linear(31, 16)
    optimizer = build("lngd", model)
    assert isinstance(optimizer, NaturalGradient)
    (layer,) = layers_of("lngd", optimizer, layer_shapes(model, (torch.randn(1, 7, 31),)), batch=64)
    assert layer.precondition() == Work(products=2 * 16 * 32**2)
    assert layer.rate().products == 2 * 16 * 7 * 16 * 32
    assert layer.measure().products == 10 / 16 * 2 * 64 * 7 * 32**2
    assert layer.refresh() == Work(factorisations=32**3)


def test_the_counts_of_kfac_have_both_sides() -> None:
    model = nn.Linear(31, 16)
    optimizer = build("kfac", model)
    assert isinstance(optimizer, NaturalGradient)
    (layer,) = layers_of("kfac", optimizer, layer_shapes(model, (torch.randn(1, 31),)), batch=64)
    assert layer.precondition() == Work(products=2 * 16 * 32**2 + 2 * 16**2 * 32)
    assert layer.rate() == Work()
    assert layer.refresh() == Work(factorisations=32**3 + 16**3)


def test_sgd_with_nesterov_momentum_passes_eleven_times_over_the_gradient() -> None:
    """m ← βm: 2. m ← m + g: 3. u = g + βm: 3. p ← p − lr·u: 3."""
    assert passes("sgd") == pytest.approx(11)


def test_views_touch_no_memory() -> None:
    with Counter() as counter:
        torch.ones(4, 4).T.reshape(2, 2, 4)[0]
    assert counter.work.traffic <= 64 * 3


def test_a_prediction_adds_up_and_leaves_others_out() -> None:
    found = predict(Workload("mlp", 8, 4), ["sgd", "lngd", "kfac"], UNIT)
    assert set(found) == {"lngd", "kfac"}
    lngd = found["lngd"]
    assert lngd.ratio == pytest.approx((lngd.network + sum(lngd.stages.values())) / (lngd.network + lngd.sgd))


def test_a_calibration_is_positive_and_names_its_units() -> None:
    machine = calibrated(repeats=1)
    assert min(machine.products, machine.convolutions, machine.factorisations, machine.bandwidth) > 0
    assert "Gop/s" in str(machine)
    assert "GB/s" in str(machine)
