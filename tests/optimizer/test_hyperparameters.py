"""Every hyperparameter refuses what is outside its range, by name, and leaves everything as it was."""

import inspect
import math
from typing import Any

import pytest
import torch
from torch import nn

from lngd import LNGD, PAPER
from lngd.optimizer.groups import GROUP_DEFAULTS, GROUP_ONLY
from lngd.optimizer.hyperparameters import ALLOWED, check_hyperparameters
from reference import mlp

NOT_A_RATE = (-0.1, math.nan, math.inf, "1", None, True)
NOT_A_FRACTION = (-0.1, 1.0, 1.5, math.nan, "0.9", None, True)
NOT_A_COUNT = (0, -1, 2.0, True, "3")
BAD: dict[str, tuple[Any, ...]] = {
    "lr": NOT_A_RATE,
    "momentum": NOT_A_FRACTION,
    "weight_decay": NOT_A_RATE,
    "mu": NOT_A_RATE,
    "damping": NOT_A_RATE,
    "damping_bounds": ((-1.0, 1.0), (2.0, 1.0), (0.0,), 0.1, (math.nan, 1.0), (0.0, math.nan), (0.0, None), ("0", "1"), None),
    "decay": NOT_A_FRACTION,
    "curvature_every": (*NOT_A_COUNT, None),
    "inverse_every": (*NOT_A_COUNT, None),
    "curvature_ramp": (1, "yes", None),
    "fisher": ("sampled", None, "empirical"),
    "likelihood": ("softmax", None),
    "kl_clip": (0.0, -1.0, math.nan, math.inf, "1", None, True),
    "rate": ("adam", "", None, 1),
    "warmup": (-1, 2.5, None, True),
    "smoothing": NOT_A_FRACTION,
    "rate_samples": NOT_A_COUNT,
    "noise": ("uniform", None),
    "momentum_on": ("weights", None),
    "norm": ("nuclear", None),
    "conv_factor": ("blocks", None),
    "curvature_samples": NOT_A_COUNT,
    "refresh_over": (*NOT_A_COUNT, None),
    "mean_over": ("sample", None, "sum"),
    "keep_norms": (1, None, "no"),
    "max_factor_dim": (*NOT_A_COUNT, None),
    "fallback_lr": tuple(value for value in NOT_A_RATE if value is not None),
}
GOOD: dict[str, tuple[Any, ...]] = {
    "lr": (0, 1, 0.5),
    "momentum": (0, 0.0, 0.99),
    "damping_bounds": ((0, 0), (1e-5, math.inf), [0.0, 1.0]),
    "warmup": (0, 1000),
    "rate_samples": (None, 1),
    "curvature_samples": (None, 1),
    "fallback_lr": (None, 0),
    "curvature_every": (1, 500),
}


def test_the_table_has_every_hyperparameter_of_the_method():
    arguments = set(inspect.signature(LNGD).parameters) - {"model", "params", "generator"}
    assert set(ALLOWED) - set(GROUP_ONLY) == arguments == set(BAD)


@pytest.mark.parametrize("value", [0, 1, 0.0, "no"])
def test_curvature_of_a_group_is_true_false_or_none(value):
    model = mlp(4, 5, 3)
    with pytest.raises(ValueError, match=r"curvature=.* must be True, False or None"):
        LNGD(model, [{"params": model.parameters(), "curvature": value}])


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_value_out_of_range_is_named_with_its_range_and_changes_nothing(name, value):
    model = mlp(4, 5, 3)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=rf"{name}=.* must be ") as error:
        LNGD(model, **{name: value})
    assert ALLOWED[name][1] in str(error.value)
    assert repr(value) in str(error.value)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_the_ends_of_a_range_are_allowed(name, value):
    LNGD(mlp(4, 5, 3), **{name: value})


@pytest.mark.parametrize("name", GROUP_DEFAULTS)
def test_a_group_refuses_a_value_out_of_range(name):
    model = mlp(4, 5, 3)
    with pytest.raises(ValueError, match=f"{name}="):
        LNGD(model, [{"params": model.parameters(), name: BAD[name][0]}])
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("name", [*sorted(set(ALLOWED) - set(GROUP_DEFAULTS) - set(GROUP_ONLY)), "learning_rate"])
def test_a_group_refuses_an_option_that_it_cannot_have(name):
    model = mlp(4, 5, 3)
    with pytest.raises(ValueError, match=f"'{name}'.*there are: lr, "):
        LNGD(model, [{"params": model.parameters(), name: 1}])


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(TypeError, match="unknown hyperparameter 'learning_rate'; there are: lr, "):
        check_hyperparameters({"learning_rate": 1.0})


def test_the_papers_recipe_is_in_range_and_complete():
    check_hyperparameters(PAPER)
    assert {k: PAPER[k] for k in ("momentum", "weight_decay", "decay", "damping_bounds", "curvature_every")} == {
        "momentum": 0.9,
        "weight_decay": 0.004,
        "decay": 0.95,
        "damping_bounds": (1e-5, 1e-2),
        "curvature_every": 100,
    }
    LNGD(nn.Linear(3, 2), lr=0.1, **PAPER)
