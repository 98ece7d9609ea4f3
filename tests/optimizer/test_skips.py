"""A step with anything that is not finite is skipped whole: nothing moves, it is counted, and said once."""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lngd import LNGD, PAPER, Schedule
from lngd.optimizer.guards import all_finite
from reference import batch, differences, mlp, snapshot, train_step

SCHEDULES = {
    "measuring always": Schedule(curvature_every=1, inverse_every=1),
    "paper": replace(PAPER["schedule"], curvature_every=2, inverse_every=2),
}
RECIPES = {
    "default": {},
    "measuring always": {"schedule": SCHEDULES["measuring always"]},
    "paper": {"lr": 0.01, **PAPER, "schedule": SCHEDULES["paper"]},
    "graft": {"step_size": "graft", "lr": 1e-3},
}
COUNTS = ("steps", "skipped", "measuring", "owed", "portions", "overflows", "generator")
"""What a skipped step may change: counts, whether the next step measures, and the noise that was drawn."""


def build() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


def poison_curvature(model: nn.Sequential, value: float) -> None:
    model[3].weight.grad[0, 0] = value


def poison_fallback(model: nn.Sequential, value: float) -> None:
    model[0].bias.grad[2] = value


def backward(model: nn.Module, optimizer: LNGD, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()


@pytest.mark.filterwarnings("ignore:a gradient or a statistic was not finite")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("poison", [poison_curvature, poison_fallback])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_gradient_that_is_not_finite_changes_nothing(recipe: str, poison: Callable, value: float):
    model, (x, y) = build(), batch(8, 4, dtype=torch.float32)
    optimizer = LNGD(model, **RECIPES[recipe])
    for _ in range(3):
        train_step(model, optimizer, x, y)
    for skipped in (1, 2, 3):
        backward(model, optimizer, x, y)
        poison(model, value)
        before = snapshot(model, optimizer)
        optimizer.step()
        assert differences(before, snapshot(model, optimizer), ignoring=COUNTS) == []
        assert optimizer.stats()["skipped"] == skipped
    train_step(model, optimizer, x, y)
    assert optimizer.stats()["skipped"] == 3
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.filterwarnings("ignore:a gradient or a statistic was not finite")
def test_a_statistic_that_is_not_finite_changes_nothing():
    """Inputs of 1e30 saturate tanh: the gradient is zero, while ‖a‖² overflows."""
    model, (x, y) = mlp(4, 8, 3, dtype=torch.float32), batch(8, 4, dtype=torch.float32)
    optimizer = LNGD(model, schedule=1)
    train_step(model, optimizer, x, y)
    backward(model, optimizer, x * 1e30, y)
    assert all(p.grad.isfinite().all() for p in model.parameters())
    before = snapshot(model, optimizer)
    optimizer.step()
    assert differences(before, snapshot(model, optimizer), ignoring=COUNTS) == []
    assert optimizer.stats()["skipped"] == 1


@pytest.mark.filterwarnings("ignore:a gradient or a statistic was not finite")
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_skipped_first_step_leaves_the_run_as_if_it_had_not_been(recipe):
    weights = []
    for poisoned in (False, True):
        model, (x, y) = build(), batch(8, 4, dtype=torch.float32)
        schedule = replace(SCHEDULES.get(recipe, Schedule()), ramp=False)
        optimizer = LNGD(model, **{**RECIPES[recipe], "warmup": 0, "fisher": "layerwise", "schedule": schedule})
        if poisoned:
            backward(model, optimizer, x, y)
            poison_curvature(model, math.nan)
            optimizer.step()
        train_step(model, optimizer, x, y)
        weights.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*weights, strict=True))


def test_the_warning_comes_once_and_names_the_counter():
    model, (x, y) = build(), batch(8, 4, dtype=torch.float32)
    optimizer = LNGD(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(6):
            backward(model, optimizer, x, y)
            if step % 2:
                poison_curvature(model, math.nan)
            optimizer.step()
    assert len(caught) == 1
    assert "optimizer.stats()['skipped']" in str(caught[0].message)
    assert optimizer.stats()["skipped"] == 3


@pytest.mark.filterwarnings("ignore:a gradient or a statistic was not finite")
def test_the_count_goes_on_from_a_checkpoint():
    model, (x, y) = build(), batch(8, 4, dtype=torch.float32)
    optimizer = LNGD(model)
    backward(model, optimizer, x, y)
    poison_curvature(model, math.nan)
    optimizer.step()
    resumed = LNGD(model)
    resumed.load_state_dict(optimizer.state_dict())
    backward(model, resumed, x, y)
    poison_curvature(model, math.nan)
    resumed.step()
    assert resumed.stats()["skipped"] == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_all_finite_finds_a_single_bad_entry(bad, dtype):
    tensors = [torch.ones(3, dtype=dtype), torch.full((2, 2), 3e38, dtype=dtype)]
    assert all_finite(tensors)
    tensors[1][1, 0] = bad
    assert not all_finite(tensors)


def test_all_finite_accepts_tensors_whose_squares_overflow_and_mixed_dtypes():
    assert all_finite([torch.full((9,), 1e38), torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.bfloat16)])
