"""Save, load, go on: bit-equal to a run that never stopped; a checkpoint that does not fit changes nothing."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lngd import LNGD, PAPER, Schedule
from reference import batch, differences, mlp, snapshot, through_a_file, train_step
from tiers import tiered

SOON = {"schedule": 3}
PAPER_SOON = {"schedule": replace(PAPER["schedule"], curvature_every=3, inverse_every=3)}
RECIPES = {
    "default": {},
    "default often": SOON,
    "inverses apart": {"schedule": Schedule(curvature_every=2, inverse_every=5, ramp=False)},
    "paper": {"lr": 0.01, **PAPER},
    "paper often": {"lr": 0.01, **PAPER, **PAPER_SOON},
    "graft": {"step_size": "graft", "lr": 1e-2, **SOON},
    "constant": {"step_size": "constant", "lr": 1e-2, **SOON},
}


def plain() -> nn.Module:
    return mlp(4, 6, 5, 3, dtype=torch.float32)


def normalised() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3)
    )


def low_precision() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)).bfloat16()


class Attention(nn.Module):
    """A Transformer layer and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x.unsqueeze(1).expand(-1, 3, -1)).mean(1))


class Borrowed(nn.Module):
    """Uses the weight of a layer without calling it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body, self.borrowed, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.linear(self.body(x).tanh(), self.borrowed.weight, self.borrowed.bias).tanh())


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "normalised": normalised,
    "bfloat16": low_precision,
    "attention": Attention,
    "borrowed": Borrowed,
}


def run(model: nn.Module, optimizer: LNGD, steps: range) -> None:
    dtype = next(model.parameters()).dtype
    for step in steps:
        x, y = batch(8, 4, seed=step, dtype=dtype)
        train_step(model, optimizer, x, y)


FELL_BACK = "ignore:layer 'borrowed'. AdamW trains it from now on"


@pytest.mark.filterwarnings(FELL_BACK)
@pytest.mark.parametrize("stop", [1, 12])
@tiered("recipe", RECIPES, ("default", "inverses apart", "paper often"))
@pytest.mark.parametrize("kind", MODELS)
def test_a_resumed_run_is_bit_equal(kind, recipe, stop):
    model = MODELS[kind]()
    optimizer = LNGD(model, **RECIPES[recipe])
    run(model, optimizer, range(stop))
    weights, state = copy.deepcopy(model.state_dict()), through_a_file(optimizer.state_dict())
    run(model, optimizer, range(stop, stop + 4))

    torch.manual_seed(99)
    resumed = MODELS[kind]()
    resumed.load_state_dict(weights)
    again = LNGD(resumed, generator=torch.Generator().manual_seed(1234), **RECIPES[recipe])
    again.load_state_dict(state)
    run(resumed, again, range(stop, stop + 4))
    assert differences(snapshot(model, optimizer), snapshot(resumed, again)) == []


def test_a_checkpoint_of_a_fresh_optimizer_loads():
    model, (x, y) = plain(), batch(8, 4, dtype=torch.float32)
    state = through_a_file(LNGD(model).state_dict())
    other = plain()
    optimizer = LNGD(other)
    optimizer.load_state_dict(state)
    train_step(other, optimizer, x, y)


@pytest.mark.filterwarnings("ignore:a gradient or a statistic was not finite")
def test_a_run_resumed_after_a_skipped_first_step_still_measures_at_once():
    model, (x, y) = plain(), batch(8, 4, dtype=torch.float32)
    optimizer = LNGD(model, lr=0.01, **PAPER)
    F.cross_entropy(model(x), y).backward()
    model[0].weight.grad[0, 0] = torch.nan
    optimizer.step()
    other = plain()
    resumed = LNGD(other, lr=0.01, **PAPER)
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    for m, o in ((model, optimizer), (other, resumed)):
        run(m, o, range(2))
    assert differences(snapshot(model, optimizer), snapshot(other, resumed)) == []
    assert resumed.blocks["0"].ready


def test_statistics_of_bfloat16_parameters_stay_float32_through_a_checkpoint():
    model = low_precision()
    optimizer = LNGD(model)
    run(model, optimizer, range(2))
    other = low_precision()
    resumed = LNGD(other)
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    for block in resumed.blocks.values():
        assert {t.dtype for t in block.tensors().values()} == {torch.float32}


def test_loading_copies_so_that_two_runs_do_not_share_tensors():
    model = plain()
    optimizer = LNGD(model)
    run(model, optimizer, range(3))
    state = optimizer.state_dict()
    other = plain()
    LNGD(other).load_state_dict(state)
    resumed = LNGD(other)
    resumed.load_state_dict(state)
    before = snapshot(model, optimizer)
    run(other, resumed, range(3, 6))
    assert differences(before, snapshot(model, optimizer)) == []


def test_hyperparameters_come_back_with_the_checkpoint():
    model = plain()
    optimizer = LNGD(model, lr=0.123, momentum=0.7, damping=0.9, adamw_lr_ratio=0.1)
    other = LNGD(plain())
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    for group, expected in zip(other.param_groups, optimizer.param_groups, strict=True):
        assert settings(group) == settings(expected)
        assert group["adamw_lr_ratio"] == 0.1


def settings(group: dict[str, Any]) -> dict[str, Any]:
    """All of a group but its parameters and the counters of the run, which hold a tensor."""
    return {name: value for name, value in group.items() if name not in ("params", "progress")}


def frozen_bias() -> nn.Module:
    model = plain()
    model[0].bias.requires_grad_(False)
    return model


OTHERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "wider": (
        lambda: mlp(4, 7, 5, 3, dtype=torch.float32),
        r"'average' of parameter '0\.weight' is \[7, 4\] in the checkpoint, \[6, 4\]",
    ),
    "deeper": (lambda: mlp(4, 6, 5, 3, 3, dtype=torch.float32), r"hold \[8\] parameters, this optimizer's \[6\]"),
    "shallower": (lambda: mlp(4, 6, 5, dtype=torch.float32), r"hold \[4\] parameters, this optimizer's \[6\]"),
    "renamed": (lambda: nn.Sequential(nn.Identity(), *plain()), r"'1\.weight' where the model has '0\.weight'"),
    "frozen": (frozen_bias, r"no state of parameter '0\.bias', which is trained here; was it frozen"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_checkpoint_of_another_model_names_the_first_difference_and_changes_nothing(other):
    build, message = OTHERS[other]
    foreign = build()
    foreign_optimizer = LNGD(foreign)
    run(foreign, foreign_optimizer, range(2))
    model = plain()
    optimizer = LNGD(model)
    run(model, optimizer, range(3))
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(through_a_file(foreign_optimizer.state_dict()))
    assert differences(before, snapshot(model, optimizer)) == []


BROKEN = {
    "AdamW's": (lambda _: torch.optim.AdamW(plain().parameters()).state_dict(), "no checkpoint of lngd"),
    "only a part": (lambda s: {"state": s["state"]}, "no checkpoint of lngd"),
    "of format 4": (lambda s: {**s, "lngd": {"version": 4}}, "format 4 of lngd.*reads format 9"),
    "of a future format": (lambda s: with_progress(s, format=99, version="7.0"), r"format 99, written by lngd 7\.0"),
    "another method's": (lambda s: with_progress(s, method="KFAC"), "method=KFAC, this optimizer has LNGD"),
    "of another mean": (lambda s: with_progress(s, mean_over="token"), "mean_over=token, this optimizer has batch"),
    "without a counter": (lambda s: with_progress(s, steps=None), "damaged.*no 'steps' of type int"),
    "without a rate": (lambda s: without(s, "param_groups", "lr"), "damaged.*group 0 has no 'lr'"),
    "without a statistic": (lambda s: without(s, "state", "phi"), r"damaged.*'0\.weight' has no 'phi'"),
    "with another statistic": (lambda s: renamed(s, "phi", "A"), r"'0\.weight' has A, .* in the checkpoint"),
    "without a parameter": (
        lambda s: {**s, "state": {k: v for k, v in s["state"].items() if k != 2}},
        r"no state of parameter '2\.weight'",
    ),
}


def with_progress(state: dict, **changes: Any) -> dict:
    return {**state, "param_groups": [{**g, "progress": {**g["progress"], **changes}} for g in state["param_groups"]]}


def without(state: dict, part: str, name: str) -> dict:
    """The first entry of `state` or `param_groups` lacks something."""
    entries = copy.deepcopy(state[part])
    del entries[0][name]
    return {**state, part: entries}


def renamed(state: dict, name: str, new: str) -> dict:
    first = {new if key == name else key: value for key, value in state["state"][0].items()}
    return {**state, "state": {**state["state"], 0: first}}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_checkpoint_is_refused_and_changes_nothing(kind):
    breaking, message = BROKEN[kind]
    model = plain()
    optimizer = LNGD(model)
    run(model, optimizer, range(3))
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(breaking(optimizer.state_dict()))
    assert differences(before, snapshot(model, optimizer)) == []


def test_layers_on_the_limit_of_the_factors_size_are_named():
    model = plain()
    small = LNGD(plain(), factors=5)
    optimizer = LNGD(model)
    found = r"'phi' of parameter '2\.weight' is \[2, 4, 4\] in the checkpoint, \[7, 7\] here: check .* factors\.max_dim"
    with pytest.raises(ValueError, match=found):
        optimizer.load_state_dict(small.state_dict())


@pytest.mark.filterwarnings(FELL_BACK)
def test_a_checkpoint_with_other_groups_changes_nothing_not_even_who_fell_back():
    model = Borrowed()
    halves = [[p for n, p in model.named_parameters() if ("head" in n) == head] for head in (False, True)]
    optimizer = LNGD(model, [{"params": half} for half in halves])
    run(model, optimizer, range(2))
    other = Borrowed()
    resumed = LNGD(other)
    before, names = snapshot(other, resumed), set(resumed.blocks)
    with pytest.raises(ValueError, match="groups"):
        resumed.load_state_dict(optimizer.state_dict())
    assert differences(before, snapshot(other, resumed)) == []
    assert set(resumed.blocks) == names


@pytest.mark.filterwarnings(FELL_BACK)
def test_what_fell_back_comes_back_with_the_checkpoint_and_its_reason():
    model = Borrowed()
    optimizer = LNGD(model)
    run(model, optimizer, range(2))
    other = Borrowed()
    resumed = LNGD(other)
    assert "borrowed" in resumed.blocks
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    assert "borrowed" not in resumed.blocks
    assert str(resumed.summary()) == str(optimizer.summary())
