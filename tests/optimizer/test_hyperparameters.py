"""Every hyperparameter refuses what is outside its range, by name, and leaves everything as it was."""

import inspect
import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import nn

from lngd import LNGD, PAPER, Factors, FixedRMS, Graft, InvariantRate, KLClip, LayerwiseRate, Schedule
from lngd.optimizer.parameters import GROUP_OPTIONS
from lngd.ranges import ALLOWED, check
from reference import mlp

NOT_A_RATE = (-0.1, math.nan, math.inf, "1", None, True)
NOT_A_FRACTION = (-0.1, 1.0, 1.5, math.nan, "0.9", None, True)
NOT_A_COUNT = (0, -1, 2.0, True, "3")
NOT_POSITIVE = (0.0, -1.0, math.nan, math.inf, "1", None, True)
NOT_A_FLAG = (1, "yes", None)
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "lr": NOT_A_RATE,
    "momentum": NOT_A_FRACTION,
    "weight_decay": NOT_A_RATE,
    "damping": NOT_A_RATE,
    "decay": NOT_A_FRACTION,
    "adamw_lr_ratio": NOT_A_RATE,
    "warmup": (-1, 2.5, None, True),
    "momentum_on": ("weights", None),
    "mean_over": ("sample", None, "sum"),
    "batch_dim": (-1, 1.0, None, True, "first"),
    "keep_norms": (1, None, "no"),
    "step_size": ("adam", "", None, 1, LayerwiseRate),
    "fisher": ("gaussian", "", 1, None),
}
OBJECTS: dict[tuple[type, str], tuple[Any, ...]] = {
    (Schedule, "curvature_every"): (*NOT_A_COUNT, None),
    (Schedule, "inverse_every"): (*NOT_A_COUNT, None),
    (Schedule, "ramp"): NOT_A_FLAG,
    (Schedule, "refresh_over"): (*NOT_A_COUNT, None),
    (Schedule, "samples"): NOT_A_COUNT,
    (Factors, "max_dim"): (*NOT_A_COUNT, None),
    (Factors, "convolution"): ("blocks", None),
    (Factors, "damping_bounds"): (
        (-1.0, 1.0),
        (2.0, 1.0),
        (0.0,),
        0.1,
        (math.nan, 1.0),
        (0.0, math.nan),
        (0.0, None),
        ("0", "1"),
        None,
    ),
    (Factors, "raw_damping"): (0.0, -1.0, math.nan, math.inf, "1", True),
    (LayerwiseRate, "mu"): NOT_A_RATE,
    (LayerwiseRate, "smoothing"): NOT_A_FRACTION,
    (LayerwiseRate, "samples"): NOT_A_COUNT,
    (InvariantRate, "smoothing"): NOT_A_FRACTION,
    (InvariantRate, "max_move"): (0.0, -1.0, math.nan, None, True),
    (InvariantRate, "samples"): NOT_A_COUNT,
    (KLClip, "kl"): NOT_POSITIVE,
    (FixedRMS, "rms"): NOT_POSITIVE,
    (FixedRMS, "base_width"): NOT_A_COUNT,
    (Graft, "decay"): NOT_A_FRACTION,
    (Graft, "eps"): NOT_A_RATE,
}
GROUP_ONLY: dict[str, tuple[Any, ...]] = {
    "adamw_betas": ((0.9,), (0.9, 1.0), 0.9, None, ("0.9", 0.9)),
    "adamw_eps": NOT_A_RATE,
    "curvature": (0, 1, 0.0, "no"),
}
GOOD: dict[str, tuple[Any, ...]] = {
    "lr": (0, 1, 0.5, torch.tensor(0.5)),
    "momentum": (0, 0.0, 0.99),
    "warmup": (0, 1000),
    "adamw_lr_ratio": (0, 1, 0.02),
    "schedule": (1, 500, Schedule(samples=None), Schedule(samples=1, refresh_over=1)),
    "factors": (1, 8192, Factors(damping_bounds=(0, 0)), Factors(damping_bounds=(0.0, math.inf))),
    "step_size": (LayerwiseRate(samples=None), LayerwiseRate(mu=0.0, samples=1), InvariantRate(max_move=math.inf)),
}


def test_the_tables_have_every_hyperparameter_of_the_method_its_groups_and_its_objects():
    kinds = (Schedule, Factors, LayerwiseRate, InvariantRate, KLClip, FixedRMS, Graft)
    objects = {(kind, field.name) for kind in kinds for field in fields(kind)}
    assert objects == set(OBJECTS)
    arguments = set(inspect.signature(LNGD).parameters) - {"model", "params", "generator", "process_group", "schedule", "factors"}
    assert arguments == set(ARGUMENTS)
    in_groups = {name for name in ARGUMENTS if name in GROUP_OPTIONS}
    assert set(GROUP_OPTIONS) == in_groups | set(GROUP_ONLY)
    assert set(ALLOWED) == {*arguments, *GROUP_ONLY, *(name for _, name in objects)} - {"step_size", "fisher"}


def refused_without_a_trace(build: Callable[[nn.Module], object], match: str) -> str:
    """The error's text; neither weights nor hooks of the model have changed."""
    model = mlp(4, 5, 3)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=match) as error:
        build(model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    return str(error.value)


def every(table: dict) -> list[tuple]:
    return [(key, value) for key, values in table.items() for value in values]


@pytest.mark.parametrize(("name", "value"), every(ARGUMENTS))
def test_a_value_out_of_range_is_named_with_its_range_and_changes_nothing(name, value):
    said = refused_without_a_trace(lambda model: LNGD(model, **{name: value}), rf"{name}=.* must be ")
    assert repr(value) in said
    assert name not in ALLOWED or ALLOWED[name][1] in said


@pytest.mark.parametrize(("place", "value"), every(OBJECTS))
def test_an_object_refuses_a_value_out_of_range_by_name(place, value):
    kind, name = place
    with pytest.raises(ValueError, match=rf"{name}=.* must be ") as error:
        kind(**{name: value})
    assert ALLOWED[name][1] in str(error.value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("value", [0, -1, True, 2.5, None, "20"])
@pytest.mark.parametrize("name", ["schedule", "factors"])
def test_a_number_for_a_schedule_or_for_factors_is_checked_like_theirs(name, value):
    refused_without_a_trace(lambda model: LNGD(model, **{name: value}), r"(curvature_every|max_dim)=.* must be a whole number")


@pytest.mark.parametrize(("name", "value"), every(GOOD))
def test_the_ends_of_a_range_are_allowed(name, value):
    LNGD(mlp(4, 5, 3), **{name: value})


@pytest.mark.parametrize("name", GROUP_OPTIONS)
def test_a_group_refuses_a_value_out_of_range(name):
    bad = {**ARGUMENTS, **GROUP_ONLY}[name][0]
    said = refused_without_a_trace(lambda model: LNGD(model, [{"params": model.parameters(), name: bad}]), f"{name}=.* must be ")
    assert ALLOWED[name][1] in said


NOT_OF_GROUPS = [
    *sorted(set(ARGUMENTS) - set(GROUP_OPTIONS)),
    "schedule",
    "factors",
    "max_dim",
    "mu",
    "learning_rate",
    "fallback_lr",
]


@pytest.mark.parametrize("name", NOT_OF_GROUPS)
def test_a_group_refuses_an_option_that_it_cannot_have(name):
    refused_without_a_trace(lambda model: LNGD(model, [{"params": model.parameters(), name: 1}]), f"'{name}'.*there are: lr, ")


@pytest.mark.parametrize("name", ["betas", "eps"])
def test_a_group_says_how_adamws_options_are_called(name):
    refused_without_a_trace(lambda model: LNGD(model, [{"params": model.parameters(), name: 1}]), f"'{name}'.*adamw_{name}")


def test_the_papers_recipe_is_in_range_and_complete():
    check({name: value for name, value in PAPER.items() if name in ALLOWED})
    assert {name: PAPER[name] for name in ("momentum", "weight_decay", "decay", "warmup", "momentum_on", "keep_norms")} == {
        "momentum": 0.9,
        "weight_decay": 0.004,
        "decay": 0.95,
        "warmup": 0,
        "momentum_on": "update",
        "keep_norms": False,
    }
    assert PAPER["factors"].damping_bounds == (1e-5, 1e-2)
    assert PAPER["schedule"] == Schedule(curvature_every=100, inverse_every=100, ramp=False, refresh_over=1, samples=None)
    assert PAPER["step_size"] == LayerwiseRate(smoothing=0.0, samples=None)
    LNGD(nn.Linear(3, 2), lr=0.1, **PAPER)
