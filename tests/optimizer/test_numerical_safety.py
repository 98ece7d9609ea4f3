"""What an optimizer does where a factor has no inverse, a statistic overflows, or an update has no room in its parameter."""

import math

import pytest
import torch
from torch import nn

from lngd import EKFAC, KFAC, LNGD, Factors, Schedule, SpectralLNGD
from lngd.optimizer import NaturalGradient
from lngd.optimizer.curved_layer import MOST_FAILURES
from lngd.optimizer.layer_step import stay_finite
from reference import batch, differences, mlp, snapshot, through_a_file, train_step

SINGLE = torch.float32
OVERFLOW = "layer '0': its statistics overflow float32 and are kept in float64 from now on"
SKIPPED = "a gradient or a statistic was not finite"


def small() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    return mlp(4, 6, 3, dtype=SINGLE), *batch(8, 4, dtype=SINGLE)


@pytest.mark.filterwarnings("ignore:layer '0'. Fisher factor not positive definite, kept the last inverse")
def test_a_factor_without_inverse_keeps_the_last_one_and_after_many_failures_is_an_error_that_loses_nothing():
    model, x, y = small()
    optimizer = LNGD(model, schedule=Schedule(curvature_every=1000, inverse_every=1, ramp=False))
    train_step(model, optimizer, x, y)
    block = optimizer.blocks["0"]
    block.phi, good = -block.phi, block.phi_inverse.clone()
    for failure in range(1, MOST_FAILURES):
        train_step(model, optimizer, x, y)
        assert optimizer.stats()["failed/0"] == failure
        assert torch.equal(block.phi_inverse, good)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(RuntimeError, match=r"layer '0'.*10 refreshes.*curvature=False"):
        train_step(model, optimizer, x, y)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    block.phi = -block.phi
    train_step(model, optimizer, x, y)
    assert optimizer.stats()["failed/0"] == 0


def test_a_singular_factor_without_damping_gets_the_least_that_helps_and_a_warning():
    model, x, y = small()
    x[:, 1] = 0.0
    optimizer = KFAC(model, damping=0.0, factors=Factors(damping_bounds=(0.0, math.inf)))
    with pytest.warns(UserWarning, match=r"layer '0': its Fisher factor needed damping=1e-05"):
        train_step(model, optimizer, x, y)
    assert all(block.ready for block in optimizer.blocks.values())


@pytest.mark.filterwarnings(f"ignore:{SKIPPED}")
@pytest.mark.parametrize("method", [LNGD, KFAC, EKFAC])
def test_statistics_that_overflow_again_and_again_go_to_float64_and_the_run_goes_on(method):
    model, x, y = small()
    optimizer = method(model, schedule=1, warmup=0)
    for _ in range(2):
        train_step(model, optimizer, x * 1e30, y)
    with pytest.warns(UserWarning, match=OVERFLOW):
        train_step(model, optimizer, x * 1e30, y)
    train_step(model, optimizer, x * 1e30, y)
    assert optimizer.stats()["skipped"] == 3
    assert all(t.dtype == torch.float64 for t in optimizer.blocks["0"].tensors().values() if t.is_floating_point())
    assert all(t.isfinite().all() for t in optimizer.blocks["0"].tensors().values())
    assert all(p.isfinite().all() for p in model.parameters())


OVERFLOWS = 1e21
"""Squares of such a loss's gradients have room in float32; at a sample's own scale, times the batch's size squared, not."""


def scaled_run(method: type, factors: list[float]) -> tuple[nn.Module, NaturalGradient]:
    """A step for each factor on the loss."""
    model = mlp(4, 6, 3, dtype=SINGLE)
    optimizer = method(model, fisher="empirical", schedule=1, warmup=0)
    for seed, factor in enumerate(factors):
        x, y = batch(64, 4, seed=seed, dtype=SINGLE)
        optimizer.zero_grad()
        (factor * nn.functional.cross_entropy(model(x), y)).backward()
        optimizer.step()
    return model, optimizer


@pytest.mark.filterwarnings(f"ignore:{SKIPPED}")
@pytest.mark.parametrize("method", [LNGD, KFAC, SpectralLNGD])
def test_a_wild_batch_whose_statistics_overflow_only_at_their_own_scale_is_skipped(method):
    _, optimizer = scaled_run(method, [1.0, 1.0, 1.0, OVERFLOWS, 1.0, 1.0])
    assert optimizer.stats()["skipped"] == 1
    assert all(t.isfinite().all() for block in optimizer.blocks.values() for t in block.tensors().values())


@pytest.mark.filterwarnings(f"ignore:{SKIPPED}", "ignore:layer .*its statistics overflow")
@pytest.mark.parametrize("method", [LNGD, KFAC, SpectralLNGD])
def test_a_loss_whose_statistics_always_overflow_at_their_own_scale_trains_in_float64(method):
    model, optimizer = scaled_run(method, [OVERFLOWS] * 6)
    assert optimizer.stats()["skipped"] == 3
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.filterwarnings("ignore:layer .*Fisher factor not positive definite")
@pytest.mark.parametrize("method", [LNGD, KFAC, SpectralLNGD])
def test_a_layer_that_nothing_reaches_is_no_failure_without_a_bound_on_the_damping(method):
    model, x, y = small()
    dead = nn.Sequential(model, nn.ReLU(), nn.Linear(3, 3).requires_grad_(False))
    nn.init.constant_(model[2].bias, -1e3)
    optimizer = method(dead, fisher="empirical", schedule=1, factors=Factors(damping_bounds=(0.0, math.inf)))
    for _ in range(MOST_FAILURES + 2):
        train_step(dead, optimizer, x, y)


@pytest.mark.filterwarnings(f"ignore:{SKIPPED}", "ignore:layer '0'. its statistics overflow")
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_a_run_on_its_way_to_float64_resumes_bit_equal(steps):
    model, x, y = small()
    options = {"schedule": 1, "warmup": 0}
    optimizer = LNGD(model, **options)
    for _ in range(steps):
        train_step(model, optimizer, x * 1e30, y)
    other, _, _ = small()
    other.load_state_dict(model.state_dict())
    resumed = LNGD(other, **options)
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    for _ in range(3):
        train_step(model, optimizer, x * 1e30, y)
        train_step(other, resumed, x * 1e30, y)
    assert differences(snapshot(model, optimizer), snapshot(other, resumed), ignoring=["alignment"]) == []  # NaN: no gradient


@pytest.mark.parametrize(
    ("dtype", "delta", "shrink", "expected"),
    [
        (SINGLE, 1.0, 0.0, True),
        (SINGLE, math.inf, 0.0, False),
        (SINGLE, math.nan, 0.0, False),
        (SINGLE, 3e38, 0.0, False),
        (torch.float16, 6e4, 0.0, False),
        (torch.float16, 1e4, 0.0, True),
        (torch.float16, 0.0, 1e5, False),
        (torch.bfloat16, 6e4, 0.0, True),
    ],
)
def test_an_update_has_to_have_room_in_its_parameters_dtype(dtype, delta, shrink, expected):
    ones = torch.ones(1)
    assert stay_finite(ones, delta * ones, ones, shrink, dtype).item() is expected


def test_a_weight_in_float16_may_be_longer_than_any_of_its_numbers():
    """Its norm has no room in float16, its entries have."""
    layer = nn.Linear(4, 8, bias=False).half()
    with torch.no_grad():
        layer.weight.fill_(1.5e4)
    optimizer = LNGD(layer, step_size="constant", lr=1e5, warmup=0, keep_norms=False)
    layer(torch.full((2, 4), 0.5, dtype=torch.float16)).float().mean().backward()
    optimizer.step()
    assert layer.weight.float().norm() > torch.finfo(torch.float16).max
    assert (layer.weight < 1.5e4).all()


def test_an_update_without_room_leaves_the_parameter_as_it_is():
    model, x, y = small()
    optimizer = LNGD(model, step_size="constant", lr=1e38, warmup=0)
    for _ in range(4):
        train_step(model, optimizer, x, y)
    assert all(p.isfinite().all() for p in model.parameters())
