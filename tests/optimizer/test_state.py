"""Everything that a run has learnt stands in `optimizer.state` and `param_groups`, where torch and its tools look for it."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from lngd import EKFAC, KFAC, LNGD, PAPER, THOR, TKFAC, LNGDLr, LNGDSample, NGPlus, SpectralLNGD
from reference import batch, convolutional, differences, snapshot, through_a_file, train
from tiers import THREE, tiered

pytestmark = pytest.mark.filterwarnings("ignore:the loss looks like a mean")  # what "a sum" is told here
METHODS = [LNGD, SpectralLNGD, LNGDSample, LNGDLr, KFAC, EKFAC, TKFAC, NGPlus, THOR]
SINGLE = torch.float32
RECIPES: dict[str, tuple[type, dict[str, Any]]] = {
    **{method.__name__: (method, {}) for method in METHODS},
    "grafted": (LNGD, {"step_size": "graft", "lr": 1e-2}),
    "the paper's": (LNGD, {"lr": 0.01, **PAPER}),
    "a sum": (LNGD, {"mean_over": "none"}),
    "without norms": (KFAC, {"keep_norms": False}),
}
every_recipe = tiered("recipe", RECIPES, (*THREE, "the paper's"))


def build(recipe: str, **more: Any) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    method, options = RECIPES[recipe]
    model = convolutional()
    return model, method(model, **{"generator": torch.Generator().manual_seed(3), **options, **more})


def form(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Name, shape and dtype of everything in the state."""
    found = {}
    for number, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            found[f"{number}.{name}"] = (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else type(value)
    return found


@every_recipe
def test_all_of_a_layer_stands_in_the_state_of_its_weight_and_only_averages_in_that_of_its_bias(recipe):
    model, optimizer = build(recipe)
    train(model, optimizer, range(3))
    for name, block in optimizer.blocks.items():
        module = model.get_submodule(name)
        own = optimizer.state[module.weight]
        assert all(own[key] is value for key, value in block.tensors().items())
        assert (own["updates"], own["ready"]) == (block.updates, 1)
        if module.bias is not None:
            assert set(optimizer.state[module.bias]) <= {"average", "momentum", "square"}
            assert all(value.shape == module.bias.shape for value in optimizer.state[module.bias].values())
    assert set(optimizer.state[model[2].weight]) == {"step", "exp_avg", "exp_avg_sq"}


@every_recipe
def test_the_state_has_its_names_shapes_and_dtypes_from_the_start(recipe):
    model, optimizer = build(recipe)
    before = form(optimizer)
    for step in range(6):
        train(model, optimizer, range(step, step + 1))
        assert form(optimizer) == before


@every_recipe
def test_the_state_dict_is_all_that_a_run_needs_and_loads_with_weights_only(recipe):
    model, optimizer = build(recipe)
    train(model, optimizer, range(4))
    saved = optimizer.state_dict()
    assert set(saved) == {"state", "param_groups"}
    other, resumed = build(recipe, generator=torch.Generator().manual_seed(99))
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(through_a_file(saved))
    for m, o in ((model, optimizer), (other, resumed)):
        train(m, o, range(4, 9))
    assert differences(snapshot(model, optimizer), snapshot(other, resumed)) == []


PLAIN, FLAT = StateDictOptions(), StateDictOptions(flatten_optimizer_state_dict=True)
FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)
every_option = pytest.mark.parametrize("options", [PLAIN, FLAT, FULL], ids=["plain", "flat", "full"])


@pytest.mark.parametrize("stop", [0, 1, 4])
@every_option
@every_recipe
def test_a_run_resumes_bit_equal_through_torchs_state_dict_api(recipe, options, stop):
    model, optimizer = build(recipe)
    train(model, optimizer, range(stop))
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    weights = copy.deepcopy(model.state_dict())
    train(model, optimizer, range(stop, stop + 4))
    other, resumed = build(recipe, generator=torch.Generator().manual_seed(99))
    other.load_state_dict(weights)
    set_optimizer_state_dict(other, resumed, saved, options=options)
    train(other, resumed, range(stop, stop + 4))
    assert differences(snapshot(model, optimizer), snapshot(other, resumed)) == []


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
@pytest.mark.parametrize("options", [PLAIN, FLAT], ids=["plain", "flat"])
@every_recipe
def test_a_run_resumes_bit_equal_through_files_of_distributed_checkpoints(recipe, options, tmp_path: Path):
    model, optimizer = build(recipe)
    train(model, optimizer, range(4))
    held = {"model": get_model_state_dict(model), "optimizer": get_optimizer_state_dict(model, optimizer, options=options)}
    dcp.save(held, checkpoint_id=tmp_path, no_dist=True)
    train(model, optimizer, range(4, 8))
    other, resumed = build(recipe, generator=torch.Generator().manual_seed(99))
    place = {"model": get_model_state_dict(other), "optimizer": get_optimizer_state_dict(other, resumed, options=options)}
    dcp.load(place, checkpoint_id=tmp_path, no_dist=True)
    set_model_state_dict(other, place["model"])
    set_optimizer_state_dict(other, resumed, place["optimizer"], options=options)
    train(other, resumed, range(4, 8))
    assert differences(snapshot(model, optimizer), snapshot(other, resumed)) == []


def ask_for_the_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for options in (PLAIN, FLAT, FULL):
        get_optimizer_state_dict(model, optimizer, options=options)


def ask_for_the_optimizers_state_dict(_model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.state_dict()


def ask_for_numbers(_model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.stats()
    str(optimizer.summary())
    str(optimizer.memory_report())
    repr(optimizer)


ASKED = [ask_for_the_state, ask_for_the_optimizers_state_dict, ask_for_numbers]


@pytest.mark.parametrize("asking", ASKED)
@every_recipe
def test_asking_changes_nothing_whenever_it_comes(recipe, asking):
    """Before the first step, after a backward pass, after zero_grad, and in between."""
    runs = []
    for ask in (lambda *_: None, asking):
        model, optimizer = build(recipe)
        for step in range(4):
            x, y = batch(16, 4, seed=step, dtype=SINGLE)
            ask(model, optimizer)
            optimizer.zero_grad()
            ask(model, optimizer)
            F.cross_entropy(model(x), y).backward()
            ask(model, optimizer)
            optimizer.step()
        runs.append(snapshot(model, optimizer))
    assert differences(*runs) == []


@pytest.mark.parametrize("lr", [0.0, torch.tensor(0.0)])
@pytest.mark.parametrize("stop", [0, 1, 4])
@every_recipe
def test_a_step_without_a_rate_and_without_a_gradient_leaves_everything_as_it_was(recipe, stop, lr):
    """torch's own way of asking an optimizer for its state makes such a step."""
    model, optimizer = build(recipe, weight_decay=0.1)
    train(model, optimizer, range(stop))
    before, rates = snapshot(model, optimizer), [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = lr
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    optimizer.zero_grad()
    assert differences(before, snapshot(model, optimizer)) == []
    assert optimizer.stats()["steps"] == stop


def test_a_step_at_rate_zero_with_a_gradient_is_a_step():
    model, optimizer = build("LNGD", lr=0.0)
    train(model, optimizer, range(2))
    assert optimizer.stats()["steps"] == 2
    assert optimizer.blocks["1"].ready


def pickled(pair: tuple[nn.Module, torch.optim.Optimizer]) -> tuple[nn.Module, torch.optim.Optimizer]:
    return pickle.loads(pickle.dumps(pair))  # noqa: S301  written a moment ago


@pytest.mark.parametrize("copying", [copy.deepcopy, pickled])
@pytest.mark.parametrize("stop", [0, 1, 4])
@every_recipe
def test_a_copy_of_model_and_optimizer_goes_on_bit_equal_and_alone(recipe, stop, copying):
    model, optimizer = build(recipe)
    train(model, optimizer, range(stop))
    other, copied = copying((model, optimizer))
    train(model, optimizer, range(stop, stop + 4))
    train(other, copied, range(stop, stop + 4))
    assert differences(snapshot(model, optimizer), snapshot(other, copied)) == []
    ours = {value.data_ptr() for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)}
    theirs = {value.data_ptr() for state in copied.state.values() for value in state.values() if isinstance(value, Tensor)}
    assert not ours & theirs - {0}


def test_hooks_on_saving_see_the_whole_and_may_change_what_is_saved():
    model, optimizer = build("LNGD")
    train(model, optimizer, range(2))
    seen: list[str] = []

    def before(_optimizer: torch.optim.Optimizer) -> None:
        seen.append("before")

    def after(_optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
        seen.extend(sorted(saved["state"][0]))
        assert saved["param_groups"][0]["progress"]["steps"] == 2
        return {**saved, "mine": 1}

    optimizer.register_state_dict_pre_hook(before)
    optimizer.register_state_dict_post_hook(after)
    saved = optimizer.state_dict()
    assert seen[0] == "before"
    assert {"phi", "psi", "phi_inverse", "average", "kappa"} <= set(seen)
    assert saved["mine"] == 1
    _, other = build("LNGD")
    other.load_state_dict(saved)
    assert other.stats()["steps"] == 2


def test_hooks_on_loading_see_the_whole_and_what_they_change_is_loaded():
    model, optimizer = build("LNGD")
    train(model, optimizer, range(3))
    other, resumed = build("LNGD")
    seen: list[Any] = []

    def changed(_optimizer: torch.optim.Optimizer, given: dict[str, Any]) -> dict[str, Any]:
        seen.append(set(given["state"][0]))
        state = {**given["state"], 0: {**given["state"][0], "kappa": torch.tensor(7.0)}}
        return {**given, "state": state, "param_groups": [{**group, "lr": 0.125} for group in given["param_groups"]]}

    def in_place(_optimizer: torch.optim.Optimizer, given: dict[str, Any]) -> None:
        given["param_groups"][0]["damping"] = 5.0

    def after(loaded: torch.optim.Optimizer) -> None:
        seen.append((loaded.stats()["steps"], loaded.stats()["kappa/1"], loaded.blocks["1"].ready))

    resumed.register_load_state_dict_pre_hook(changed)
    resumed.register_load_state_dict_pre_hook(in_place)
    resumed.register_load_state_dict_post_hook(after)
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    assert {"phi", "psi", "phi_inverse", "average", "kappa"} <= seen[0]
    assert seen[1] == (3.0, 7.0, True)
    assert (resumed.param_groups[0]["lr"], resumed.param_groups[0]["damping"]) == (0.125, 5.0)
    train(other, resumed, range(1))


def test_a_hook_on_loading_may_repair_a_checkpoint_that_would_be_refused_and_may_spoil_one():
    model, optimizer = build("LNGD")
    train(model, optimizer, range(2))
    saved = through_a_file(optimizer.state_dict())
    del saved["state"][0]["psi"]
    other, resumed = build("LNGD")
    before = snapshot(other, resumed)
    with pytest.raises(ValueError, match="has no 'psi'"):
        resumed.load_state_dict(saved)
    assert differences(before, snapshot(other, resumed)) == []
    psi = optimizer.state_dict()["state"][0]["psi"]
    resumed.register_load_state_dict_pre_hook(lambda _, given: given["state"][0].update(psi=psi))
    resumed.load_state_dict(saved)
    assert torch.equal(resumed.blocks["1"].psi, psi)
    before = snapshot(other, resumed)
    resumed.register_load_state_dict_pre_hook(lambda _, given: given["state"][0].pop("phi"))
    with pytest.raises((ValueError, TypeError)):
        resumed.load_state_dict(saved)
    assert differences(before, snapshot(other, resumed)) == []


def test_a_checkpoint_between_backward_and_step_is_that_of_the_last_step():
    """No gradient and no measurement is in it, so a run from there draws this step's noise once more."""
    model, optimizer = build("LNGD")
    train(model, optimizer, range(2))
    before = snapshot(model, optimizer)
    x, y = batch(16, 4, dtype=torch.float32)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    assert differences(before, snapshot(model, optimizer), ignoring=("running_mean", "running_var", "num_batches_tracked")) == []


def test_hooks_around_a_step_run_around_it():
    model, optimizer = build("LNGD")
    seen: list[float] = []
    optimizer.register_step_pre_hook(lambda o, *_: seen.append(o.stats()["steps"]))
    optimizer.register_step_post_hook(lambda o, *_: seen.append(o.stats()["steps"]))
    train(model, optimizer, range(2))
    assert seen == [0, 1, 1, 2]
