"""The path of accelerators, on a CPU: where no flag can be read without waiting, the run is the same and nothing waits."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lngd
from lngd import LNGD, PAPER, Schedule
from lngd.optimizer import NaturalGradient
from reference import batch, differences, snapshot
from syncs import UNTIL_ORDINARY, CountSyncs, as_on_an_accelerator
from tiers import THREE, tiered

METHODS = {name: (kind, {}) for name, kind in vars(lngd).items() if isinstance(kind, type) and issubclass(kind, NaturalGradient)}
RECIPES: dict[str, tuple[type, dict[str, Any]]] = {
    **METHODS,
    "the paper's": (LNGD, {"lr": 0.01, **PAPER}),
    "grafted": (LNGD, {"step_size": "graft", "lr": 1e-2}),
    "Nesterov with decay": (LNGD, {"momentum_on": "nesterov", "weight_decay": 0.1}),
    "a momentum of the update with decay": (lngd.KFAC, {"momentum_on": "update", "weight_decay": 0.1}),
}
every_recipe = tiered("recipe", RECIPES, (*THREE, "the paper's"))
SKIPPED = "ignore:a gradient or a statistic was not finite"
COUNTS = ("steps", "skipped", "measuring", "owed", "portions", "since_growth", "generator")
AVERAGED = ("num_batches_tracked", "running_mean", "running_var")
"""What the model's own forward changes."""


def net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """A convolution in front of a normalisation, whose norm is kept; groups; AdamW's part."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)),
        nn.Conv2d(1, 4, 2, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 2, groups=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).to(dtype)


def build(recipe: str, dtype: torch.dtype = torch.float32, **more: Any) -> tuple[nn.Sequential, NaturalGradient]:
    method, options = RECIPES[recipe]
    model = net(dtype)
    return model, method(model, generator=torch.Generator().manual_seed(3), **{**options, **more})


def backward(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x, y = batch(16, 4, seed=seed, dtype=next(model.parameters()).dtype)
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()


@every_recipe
def test_the_run_is_the_same_but_for_rounding(recipe):
    runs = []
    for unreadable in (False, True):
        model, optimizer = build(recipe, torch.float64)
        for seed in range(25):
            backward(model, optimizer, seed)
            if unreadable:
                with as_on_an_accelerator():
                    optimizer.step()
            else:
                optimizer.step()
        runs.append(snapshot(model, optimizer))
    for name, value in runs[0].items():
        if not name.endswith("since_growth"):  # which counts steps after which it can't be seen that nothing was scaled
            torch.testing.assert_close(runs[1][name], value, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.filterwarnings(SKIPPED)
@every_recipe
def test_a_skipped_step_changes_nothing(recipe):
    model, optimizer = build(recipe, schedule=Schedule(curvature_every=2, inverse_every=3))
    skipped = (1, 2, 5, 6, 8, 9)
    for step in range(10):
        backward(model, optimizer, step)
        if step in skipped:
            next(model.parameters()).grad.view(-1)[1] = math.nan
        before = snapshot(model, optimizer)
        with as_on_an_accelerator():
            optimizer.step()
        if step in skipped:
            assert differences(before, snapshot(model, optimizer), ignoring=(*COUNTS, *AVERAGED)) == [], f"at step {step}"
    assert optimizer.stats()["skipped"] == len(skipped)


@pytest.mark.filterwarnings(SKIPPED)
@every_recipe
def test_a_skipped_first_step_is_as_if_it_had_not_been(recipe):
    weights = []
    for poisoned in (False, True):
        model, optimizer = build(recipe, warmup=0, schedule=Schedule(ramp=False), fisher="empirical")
        model.eval()  # running averages see the batch in any case
        model[1].train()
        for module in model:
            if not isinstance(module, nn.BatchNorm2d):
                module.train()
        with as_on_an_accelerator():
            if poisoned:
                backward(model, optimizer, 0)
                next(model.parameters()).grad.view(-1)[1] = math.inf
                optimizer.step()
            backward(model, optimizer, 0)
            optimizer.step()
        weights.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*weights, strict=True))


@pytest.mark.parametrize("lr", [0.01, torch.tensor(0.01)], ids=["number", "tensor"])
@every_recipe
def test_nothing_waits_in_an_ordinary_step_whatever_lr_is(recipe, lr):
    """The layers: AdamW's own kernel reads a host tensor."""
    model, optimizer = build(recipe, lr=lr)
    model[2].requires_grad_(False)
    for seed in range(UNTIL_ORDINARY):
        backward(model, optimizer, seed)
        optimizer.step()
    backward(model, optimizer, UNTIL_ORDINARY)
    with CountSyncs() as counter:
        optimizer.step()
    assert len(counter.found) <= 1  # the host copy of the skip count is a host tensor: reading it waits for nothing


def test_the_flags_are_readable_again_afterwards():
    flag: Tensor = torch.tensor(True)
    with as_on_an_accelerator():
        assert not lngd.linalg.readable(flag)
    assert lngd.linalg.readable(flag)
