"""A model may change in any order after the optimizer was built: what is trained then trains, and somebody says what does not."""

import copy
from collections.abc import Callable, Iterable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from lngd import KFAC, LNGD, SpectralLNGD
from lngd.optimizer import NaturalGradient
from reference import batch, differences, mlp, snapshot, through_a_file, train_step

SINGLE, DOUBLE = torch.float32, torch.float64
every_method = pytest.mark.parametrize("method", [LNGD, SpectralLNGD, KFAC])


def net(dtype: torch.dtype = SINGLE) -> nn.Sequential:
    torch.manual_seed(1)
    layers = [nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)]
    return nn.Sequential(*layers).to(dtype)


def run(model: nn.Module, optimizer: torch.optim.Optimizer, steps: Iterable[int]) -> dict[str, bool]:
    """Which parameters move."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step in steps:
        x, y = batch(16, 4, seed=step, dtype=next(model.parameters()).dtype)
        train_step(model, optimizer, x, y)
    return {name: not torch.equal(p, before[name]) for name, p in model.named_parameters()}


def kinds(optimizer: NaturalGradient) -> dict[str, str]:
    return {o.name: o.kind for o in optimizer.summary()}


GIVEN: dict[str, Callable[[nn.Module], object]] = {"the whole model": lambda _: None, "its parameters": lambda m: m.parameters()}
every_form = pytest.mark.parametrize("given", GIVEN)


@every_form
@every_method
def test_a_layer_that_is_unfrozen_later_trains_with_curvature_and_the_summary_says_so(method, given):
    model = net()
    model[0].requires_grad_(False)
    model[1].requires_grad_(False)
    optimizer = method(model, GIVEN[given](model))
    assert {kinds(optimizer)[name] for name in ("0.weight", "0.bias", "1.weight")} == {"frozen"}
    moved = run(model, optimizer, range(3))
    assert {name for name, moves in moved.items() if not moves} == {"0.weight", "0.bias", "1.weight", "1.bias"}
    model[0].requires_grad_(True)
    model[1].requires_grad_(True)
    assert kinds(optimizer)["0.weight"] == "curvature"
    assert all(run(model, optimizer, range(3, 7)).values())
    assert optimizer.blocks["0"].ready
    assert (kinds(optimizer)["0.weight"], kinds(optimizer)["1.weight"]) == ("curvature", "fallback")
    assert optimizer.stats()["skipped"] == 0


def test_unfreezing_between_forward_and_step_is_seen_by_the_next_forward():
    model = net()
    model[3].requires_grad_(False)
    optimizer = LNGD(model)
    x, y = batch(16, 4, dtype=SINGLE)
    F.cross_entropy(model(x), y).backward()
    model[3].requires_grad_(True)
    optimizer.step()
    assert not optimizer.blocks["3"].ready
    assert run(model, optimizer, range(1, 2))["3.weight"]
    assert optimizer.blocks["3"].ready


@every_method
def test_a_layer_that_is_frozen_stays_and_goes_on_where_it_was_when_it_is_unfrozen(method):
    """The others train as if it had never had a place in the optimizer."""
    model = net()
    optimizer = method(model)
    run(model, optimizer, range(3))
    model[3].requires_grad_(False)
    kept = {name: value.clone() for name, value in optimizer.state[model[3].weight].items() if isinstance(value, Tensor)}
    moved = run(model, optimizer, range(3, 6))
    assert {name for name, moves in moved.items() if not moves} == {"3.weight", "3.bias"}
    assert "3" not in optimizer.blocks
    assert kinds(optimizer)["3.weight"] == "frozen"
    model[3].requires_grad_(True)
    assert all(torch.equal(optimizer.state[model[3].weight][name], value) for name, value in kept.items())
    assert all(run(model, optimizer, range(6, 7)).values())
    assert optimizer.blocks["3"].ready


def test_a_stale_gradient_of_a_frozen_layer_moves_nothing():
    model = net()
    optimizer = LNGD(model)
    run(model, optimizer, range(2))
    x, y = batch(16, 4, dtype=SINGLE)
    F.cross_entropy(model(x), y).backward()
    for module in (model[1], model[3]):
        module.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    still = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert still == {"1.weight", "1.bias", "3.weight", "3.bias"}


def test_freezing_only_a_bias_takes_it_out_of_its_layers_matrix():
    model = net()
    optimizer = LNGD(model)
    run(model, optimizer, range(3))
    model[3].bias.requires_grad_(False)
    moved = run(model, optimizer, range(3, 6))
    assert {name for name, moves in moved.items() if not moves} == {"3.bias"}
    assert optimizer.blocks["3"].phi.shape == (6, 6)
    model[3].bias.requires_grad_(True)
    assert all(run(model, optimizer, range(6, 9)).values())
    assert optimizer.blocks["3"].phi.shape == (7, 7)


class Adapted(nn.Module):
    """A frozen layer with low-rank adapters, of which one is active, as PEFT has them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.base, self.head = nn.Linear(4, 6).requires_grad_(False), nn.Linear(6, 3)
        self.adapters = nn.ModuleDict()
        self.active = ""

    def add(self, name: str) -> None:
        self.adapters[name] = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 6, bias=False)).requires_grad_(False)

    def switch(self, name: str) -> None:
        for other, adapter in self.adapters.items():
            adapter.requires_grad_(other == name)
        self.active = name

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.base(x) + self.adapters[self.active](x)).tanh())


def adapted() -> Adapted:
    model = Adapted()
    model.add("a")
    model.add("b")
    model.switch("a")
    return model


@every_method
def test_switching_to_another_adapter_trains_that_one(method):
    model = adapted()
    optimizer = method(model)
    moved = run(model, optimizer, range(3))
    assert {name for name, moves in moved.items() if not moves} == {n for n in moved if "base" in n or ".b." in n}
    model.switch("b")
    moved = run(model, optimizer, range(3, 6))
    assert {name for name, moves in moved.items() if not moves} == {n for n in moved if "base" in n or ".a." in n}
    assert {o.kind for o in optimizer.summary() if ".b." in o.name} == {"curvature"}
    model.switch("a")
    assert run(model, optimizer, range(6, 9))["adapters.a.0.weight"]


@pytest.mark.parametrize("frozen_at_first", [False, True])
def test_a_parameter_that_comes_later_is_refused_before_anything_moves_until_it_is_added(frozen_at_first):
    model = adapted()
    optimizer = LNGD(model)
    run(model, optimizer, range(2))
    model.add("c")
    if frozen_at_first:
        run(model, optimizer, range(2, 4))
    model.switch("c")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match=r"'adapters\.c\.0\.weight' came into the model, or was unfrozen.*add_param_group"):
        run(model, optimizer, range(4, 5))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    optimizer.add_param_group({"params": model.adapters["c"].parameters()})
    moved = run(model, optimizer, range(5, 8))
    assert {name for name in moved if moved[name]} == {n for n in moved if ".c." in n or "head" in n}
    assert {o.kind for o in optimizer.summary() if ".c." in o.name} == {"curvature"}


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def test_of_an_optimizer_for_some_parameters_it_is_said_once_that_it_does_not_train_a_new_one():
    model = adapted()
    optimizer = LNGD(model, trainable(model))
    run(model, optimizer, range(2))
    model.switch("b")
    with pytest.warns(
        UserWarning, match=r"'adapters\.b\.0\.weight' came into the model, or was unfrozen.*add_param_group"
    ) as said:
        moved = run(model, optimizer, range(2, 5))
    assert len(said) == 1
    assert {name for name in moved if moved[name]} == {"head.weight", "head.bias"}
    optimizer.add_param_group({"params": model.adapters["b"].parameters()})
    assert run(model, optimizer, range(5, 8))["adapters.b.1.weight"]


def test_two_optimizers_of_one_model_that_freeze_each_others_part_need_no_warning():
    """As Lightning's `toggle_optimizer` does."""
    model = net()
    parts = [model[:3], model[3:]]
    optimizers = [LNGD(model, part.parameters()) for part in parts]
    for step in range(6):
        for number, optimizer in enumerate(optimizers):
            for other, part in enumerate(parts):
                part.requires_grad_(other == number)
            moved = run(model, optimizer, [step])
            assert {name for name in moved if moved[name]} == {n for n, p in model.named_parameters() if p.requires_grad}
        for part in parts:
            part.requires_grad_(True)


@every_form
@every_method
def test_a_module_that_is_replaced_is_trained_in_the_place_of_the_old_one(method, given):
    model = net()
    optimizer = method(model, GIVEN[given](model))
    run(model, optimizer, range(3))
    old, model[3] = model[3], nn.Linear(6, 6)
    assert all(run(model, optimizer, range(3, 6)).values())
    assert optimizer.blocks["3"].ready
    assert kinds(optimizer)["3.weight"] == "curvature"
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert old.weight not in optimizer.state


RESIZED = {"a larger vocabulary": {"5": (9, 6)}, "a wider hidden layer": {"0": (8, 4), "1": (8,), "3": (6, 8)}}


@pytest.mark.parametrize("sizes", RESIZED.values(), ids=RESIZED)
def test_a_parameter_that_is_replaced_by_one_of_another_size_starts_anew(sizes):
    model = net()
    optimizer = LNGD(model)
    run(model, optimizer, range(3))
    for name, shape in sizes.items():
        module = model.get_submodule(name)
        module.weight, module.bias = nn.Parameter(torch.randn(shape) / 4), nn.Parameter(torch.zeros(shape[0]))
        module.normalized_shape = shape
    assert all(run(model, optimizer, range(3, 6)).values())
    for name, block in optimizer.blocks.items():
        assert block.ready
        assert block.phi.shape[-1] == model.get_submodule(name).weight.shape[1] + 1


@pytest.mark.parametrize("renew", ["replaced", "resized in place"])
def test_a_weight_that_is_renewed_before_every_step_is_the_one_that_moves(renew):
    model = mlp(4, 6, 3, dtype=SINGLE)
    optimizer = LNGD(model)
    for step in range(4):
        if renew == "replaced":
            model[2].weight = nn.Parameter(model[2].weight.detach().clone())
        else:
            model[2].weight.data = torch.cat([model[2].weight.data, torch.randn(1, 6)])
            model[2].bias.data = torch.cat([model[2].bias.data, torch.zeros(1)])
        run(model, optimizer, [step])
    before = model[2].weight.detach().clone()
    run(model, optimizer, range(4, 6))
    assert not torch.equal(before, model[2].weight)
    assert optimizer.stats()["skipped"] == 0


def test_two_modules_that_change_places_keep_their_own_state():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    optimizer = LNGD(model)
    run(model, optimizer, range(3))
    first, second = optimizer.state[model[0].weight]["phi"], optimizer.state[model[2].weight]["phi"]
    model[0], model[2] = model[2], model[0]
    model[0].zero_grad()
    optimizer.add_param_group({"params": []})  # lets it look at the model without a step
    assert torch.equal(optimizer.blocks["0"].phi, second)
    assert torch.equal(optimizer.blocks["2"].phi, first)
    assert all(run(model, optimizer, range(3, 5)).values())


@every_method
def test_a_head_that_is_added_trains_with_curvature(method):
    class Headed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.body, self.heads = nn.Linear(4, 6), nn.ModuleList([nn.Linear(6, 3)])

        def forward(self, x: Tensor) -> Tensor:
            return sum(head(self.body(x).tanh()) for head in self.heads)

    model = Headed()
    optimizer = method(model)
    run(model, optimizer, range(3))
    model.heads.append(nn.Linear(6, 3))
    optimizer.add_param_group({"params": model.heads[1].parameters(), "lr": 0.02, "damping": 2.0})
    assert all(run(model, optimizer, range(3, 6)).values())
    assert optimizer.blocks["heads.1"].ready
    assert (optimizer.param_groups[1]["lr"], optimizer.param_groups[1]["damping"]) == (0.02, 2.0)
    with pytest.raises(ValueError, match=r"'heads\.1\.weight' stands twice"):
        optimizer.add_param_group({"params": model.heads[1].parameters()})


def test_a_group_that_does_not_fit_is_refused_and_changes_nothing():
    model = net()
    optimizer = LNGD(model, model[0].parameters())
    run(model, optimizer, range(2))
    before = snapshot(model, optimizer)
    for group, message in (
        ({"params": [nn.Parameter(torch.zeros(2))]}, "not one of the model's own"),
        ({"params": model[0].parameters()}, "stands twice"),
        ({"params": model[3].parameters(), "lr": -1.0}, "lr=-1.0 is out of range"),
        ({"params": model[3].parameters(), "betas": (0.9, 0.9)}, "adamw_betas"),
        ({"lr": 0.1}, "needs the entry 'params'"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.add_param_group(group)
    assert differences(before, snapshot(model, optimizer)) == []
    run(model, optimizer, range(2, 3))


WIDTHS = [(SINGLE, DOUBLE), (DOUBLE, SINGLE), (SINGLE, torch.bfloat16), (torch.bfloat16, SINGLE)]


@pytest.mark.parametrize(("first", "then"), WIDTHS, ids=str)
@every_method
def test_a_model_may_move_to_another_dtype_between_steps_and_its_state_goes_along(method, first, then):
    model = net(first)
    optimizer = method(model)
    run(model, optimizer, range(4))
    numbers = optimizer.stats()
    model.to(then)
    assert all(run(model, optimizer, range(4, 6)).values())
    wide = torch.promote_types(then, SINGLE)
    for module in (model[0], model[3], model[5]):
        found = {value.dtype for p in module.parameters() for value in optimizer.state[p].values() if isinstance(value, Tensor)}
        assert found == {wide}
    assert {optimizer.state[model[1].weight][name].dtype for name in ("exp_avg", "exp_avg_sq")} == {then}
    assert optimizer.stats()["steps"] == 6
    assert optimizer.stats()["observations/0"] == numbers["observations/0"] + 2


def test_a_run_that_moves_to_float64_and_back_without_a_step_is_the_run_that_did_not():
    runs = []
    for moved in (False, True):
        model = net()
        optimizer = LNGD(model)
        run(model, optimizer, range(4))
        if moved:
            model.double().float()
        run(model, optimizer, range(4, 8))
        runs.append(snapshot(model, optimizer))
    assert differences(*runs) == []


def test_after_a_move_to_float64_training_is_that_of_a_float64_checkpoint():
    """A run that goes on in place equals one that loads the same checkpoint into a float64 model."""
    model = net()
    optimizer = LNGD(model)
    run(model, optimizer, range(4))
    other = net(DOUBLE)
    other.load_state_dict(model.state_dict())
    resumed = LNGD(other)
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    model.double()
    for m, o in ((model, optimizer), (other, resumed)):
        run(m, o, range(4, 7))
    assert differences(snapshot(model, optimizer), snapshot(other, resumed)) == []


def test_a_pruned_layer_is_adamws_with_a_warning_and_gets_its_curvature_back():
    model = net()
    optimizer = LNGD(model)
    run(model, optimizer, range(3))
    prune.l1_unstructured(model[3], "weight", amount=0.5)
    with pytest.warns(
        UserWarning, match="layer '3': AdamW trains it from now on: its weight is not trained as a plain parameter"
    ):
        moved = run(model, optimizer, range(3, 4))
    assert all(moved.values())
    run(model, optimizer, range(4, 6))
    assert (model[3].weight == 0).sum() == 18
    prune.remove(model[3], "weight")
    assert all(run(model, optimizer, range(6, 9)).values())
    assert optimizer.blocks["3"].ready


def test_a_parametrization_that_is_registered_later_brings_parameters_that_have_to_be_added():
    model = net()
    optimizer = LNGD(model)
    run(model, optimizer, range(3))
    parametrizations.weight_norm(model[3])
    with pytest.raises(RuntimeError, match=r"'3\.parametrizations\.weight\.original0' came into the model"):
        run(model, optimizer, range(3, 4))
    with pytest.warns(UserWarning, match="layer '3': AdamW trains it from now on"):
        optimizer.add_param_group({"params": model[3].parametrizations.parameters()})
    assert all(run(model, optimizer, range(4, 6)).values())


def test_weights_that_are_tied_later_are_one_layer():
    model = net()
    model[5] = nn.Linear(6, 6)
    optimizer = LNGD(model)
    run(model, optimizer, range(3))
    model[5].weight = model[3].weight
    with pytest.warns(UserWarning, match="layer '5': AdamW trains it from now on: no part of the matrix of '3'"):  # its bias
        assert all(run(model, optimizer, range(3, 5)).values())
    assert set(optimizer.blocks) == {"0", "3"}


def test_a_weight_that_an_embedding_shares_later_is_adamws_with_a_warning():
    model = net()
    model[5] = nn.Linear(6, 6)
    optimizer = LNGD(model)
    run(model, optimizer, range(3))
    model[5].words = nn.Embedding(6, 6)
    model[5].words.weight = model[5].weight
    said = "layer '5': AdamW trains it from now on: shared with a module of another kind"
    with pytest.warns(UserWarning, match=said):
        run(model, optimizer, range(3, 5))
    assert set(optimizer.blocks) == {"0", "3"}


def test_a_group_that_gives_up_its_curvature_is_not_warned_of():
    model = net()
    optimizer = LNGD(model)
    run(model, optimizer, range(2))
    optimizer.param_groups[0]["curvature"] = False
    assert all(run(model, optimizer, range(2, 4)).values())
    assert optimizer.blocks == {}


def test_a_module_that_is_taken_out_is_forgotten_by_the_summary():
    model = net()
    optimizer = LNGD(model)
    run(model, optimizer, range(2))
    model[3] = nn.Identity()
    assert all(run(model, optimizer, range(2, 4)).values())
    assert set(optimizer.blocks) == {"0", "5"}
    assert "3.weight" not in kinds(optimizer)


def test_a_changed_model_resumes_bit_equal_into_one_that_was_built_like_that():
    model = net()
    model[0].requires_grad_(False)
    optimizer = LNGD(model)
    run(model, optimizer, range(3))
    model[0].requires_grad_(True)
    model[3] = nn.Linear(6, 6)
    run(model, optimizer, range(3, 6))
    other = net()
    other.load_state_dict(model.state_dict())
    resumed = LNGD(other)
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    for m, o in ((model, optimizer), (other, resumed)):
        run(m, o, range(6, 9))
    assert differences(snapshot(model, optimizer), snapshot(other, resumed)) == []
