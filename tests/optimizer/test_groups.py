"""Parameter groups: who is trained, by what, at which rate."""

import pytest
import torch
from torch import Tensor, nn

from lngd import LNGD
from reference import batch, mlp, train_step


def moved(model: nn.Module, optimizer: LNGD, steps: int = 1) -> dict[str, Tensor]:
    """How far every parameter went."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    x, y = batch(16, 4, dtype=next(model.parameters()).dtype)
    for _ in range(steps):
        train_step(model, optimizer, x, y)
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)).double()


@pytest.mark.parametrize("form", ["parameters", "named", "list", "generator of groups", "one tensor a group"])
def test_every_form_of_params_that_torch_takes_trains_the_same(form):
    model, plain = net(), net()
    params = {
        "parameters": lambda: model.parameters(),
        "named": lambda: model.named_parameters(),
        "list": lambda: list(model.parameters()),
        "generator of groups": lambda: iter([{"params": model.parameters()}]),
        "one tensor a group": lambda: [{"params": p} for p in model.parameters()],
    }[form]()
    expected = moved(plain, LNGD(plain))
    for name, way in moved(model, LNGD(model, params)).items():
        torch.testing.assert_close(way, expected[name], rtol=1e-12, atol=1e-15)


def test_the_groups_are_the_users_one_for_one():
    model = net()
    groups = [{"params": model[3].parameters(), "lr": 0.1}, {"params": [model[0].weight, *model[1].parameters()], "name": "rest"}]
    optimizer = LNGD(model, groups, lr=0.3)
    found = [(group["lr"], [id(p) for p in group["params"]]) for group in optimizer.param_groups]
    rest = [model[0].weight, model[1].weight, model[1].bias]
    assert found == [(0.1, [id(p) for p in model[3].parameters()]), (0.3, [id(p) for p in rest])]
    assert optimizer.param_groups[0]["param_names"] == ["3.weight", "3.bias"]
    assert optimizer.param_groups[1]["name"] == "rest"
    assert [id(p) for group in LNGD(model).param_groups for p in group["params"]] == [id(p) for p in model.parameters()]


def test_a_group_may_be_empty():
    """As one for what is not decayed, of a model without any."""
    model, plain = net(), net()
    optimizer = LNGD(model, [{"params": [], "weight_decay": 0.1}, {"params": model.parameters()}])
    optimizer.add_param_group({"params": []})
    assert [len(group["params"]) for group in optimizer.param_groups] == [0, 6, 0]
    expected = moved(plain, LNGD(plain))
    assert all(torch.equal(way, expected[name]) for name, way in moved(model, optimizer).items())


def test_weight_and_bias_may_have_rates_of_their_own():
    model, plain = mlp(4, 3), mlp(4, 3)
    weights, biases = [model[0].weight], [model[0].bias]
    optimizer = LNGD(model, [{"params": weights, "lr": 0.4}, {"params": biases, "lr": 0.1}])
    way, expected = moved(model, optimizer), moved(plain, LNGD(plain, lr=0.2))
    torch.testing.assert_close(way["0.weight"], 2 * expected["0.weight"])
    torch.testing.assert_close(way["0.bias"], 0.5 * expected["0.bias"])


def test_decay_can_be_left_out_for_biases():
    model, plain = mlp(4, 3), mlp(4, 3)
    before = model[0].weight.detach().clone()
    groups = [{"params": [model[0].weight], "weight_decay": 0.1}, {"params": [model[0].bias]}]
    way, expected = moved(model, LNGD(model, groups, lr=0.5)), moved(plain, LNGD(plain, lr=0.5))
    torch.testing.assert_close(way["0.weight"], expected["0.weight"] - 0.05 * before)
    torch.testing.assert_close(way["0.bias"], expected["0.bias"])


def test_a_parameter_left_out_is_frozen():
    model = net()
    optimizer = LNGD(model, [model[0].weight, model[3].weight, model[3].bias])
    way = moved(model, optimizer, steps=3)
    assert {name for name, delta in way.items() if delta.abs().max() > 0} == {"0.weight", "3.weight", "3.bias"}
    assert optimizer.blocks["0"].phi.shape == (4, 4)
    assert optimizer.blocks["3"].phi.shape == (7, 7)


def test_a_parameter_without_gradient_is_frozen():
    model = net()
    model[0].requires_grad_(False)
    optimizer = LNGD(model)
    way = moved(model, optimizer, steps=3)
    assert {name for name, delta in way.items() if not delta.any()} == {"0.weight", "0.bias"}
    assert set(optimizer.blocks) == {"3"}


def test_the_fallback_is_torchs_adamw():
    model, plain = net(), net()
    still = {"params": [*model[0].parameters(), *model[3].parameters()], "lr": 0.0}
    optimizer = LNGD(model, [still, {"params": model[1].parameters()}], lr=0.5, adamw_lr_ratio=0.02, weight_decay=0.1, warmup=0)
    adamw = torch.optim.AdamW([plain[1].weight, plain[1].bias], lr=0.01, weight_decay=0.1)
    for step in range(5):
        x, y = batch(16, 4, seed=step)
        train_step(model, optimizer, x, y)
        train_step(plain, adamw, x, y)
    torch.testing.assert_close(model[1].weight, plain[1].weight, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model[1].bias, plain[1].bias, rtol=1e-12, atol=1e-12)


def test_a_group_may_set_adamws_betas_eps_and_rate():
    model = net()
    still = {"params": [*model[0].parameters(), *model[3].parameters()], "lr": 0.0}
    own = {"params": model[1].parameters(), "adamw_betas": (0.5, 0.6), "adamw_eps": 1e-4, "adamw_lr_ratio": 0.1}
    optimizer, plain = LNGD(model, [still, own], lr=0.5, warmup=0), net()
    adamw = torch.optim.AdamW(plain[1].parameters(), lr=0.05, betas=(0.5, 0.6), eps=1e-4, weight_decay=0.0)
    for step in range(3):
        x, y = batch(16, 4, seed=step)
        train_step(model, optimizer, x, y)
        train_step(plain, adamw, x, y)
    for p, expected in zip(model[1].parameters(), plain[1].parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-12, atol=1e-12)


def test_a_group_without_curvature_is_trained_by_adamw_and_the_summary_says_so():
    model, plain = net(), net()
    own = {"params": model[0].parameters(), "curvature": False, "adamw_lr_ratio": 0.1}
    optimizer = LNGD(model, [own, {"params": model[3].parameters()}], lr=0.1)
    assert set(optimizer.blocks) == {"3"}
    outcomes = {o.name: (o.kind, o.reason) for o in optimizer.summary()}
    assert outcomes["0.weight"] == outcomes["0.bias"] == ("fallback", "its group says curvature=False")
    assert outcomes["3.weight"] == ("curvature", "")
    adamw, (x, y) = torch.optim.AdamW(plain[0].parameters(), lr=0.01, weight_decay=0.0), batch(16, 4)
    train_step(model, optimizer, x, y)
    train_step(plain, adamw, x, y)
    for p, expected in zip(model[0].parameters(), plain[0].parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-12, atol=1e-12)


def test_a_group_may_change_its_mind_about_curvature_while_training():
    model = net()
    optimizer = LNGD(model, [{"params": model[0].parameters()}, {"params": model[3].parameters()}], lr=0.5, adamw_lr_ratio=0.02)
    moved(model, optimizer)
    optimizer.param_groups[0]["curvature"] = False
    way = moved(model, optimizer)
    assert set(optimizer.blocks) == {"3"}
    torch.testing.assert_close(way["0.bias"].abs(), torch.full((6,), 0.01, dtype=torch.float64), rtol=1e-4, atol=1e-4)
    optimizer.param_groups[0]["curvature"] = None
    moved(model, optimizer, steps=2)
    assert optimizer.blocks["0"].ready


def test_a_bias_without_curvature_is_no_input_of_its_layer():
    model = net()
    biases = [p for name, p in model.named_parameters() if "bias" in name]
    weights = [p for name, p in model.named_parameters() if "bias" not in name]
    optimizer = LNGD(model, [{"params": weights}, {"params": biases, "curvature": False}])
    outcomes = {o.name: (o.kind, o.reason) for o in optimizer.summary()}
    assert outcomes["0.weight"] == ("curvature", "")
    assert outcomes["0.bias"] == ("fallback", "its group says curvature=False")
    way = moved(model, optimizer, steps=3)
    assert all(delta.abs().max() > 0 for delta in way.values())
    assert optimizer.blocks["0"].phi.shape == (4, 4)


def test_a_weight_without_curvature_takes_its_bias_along():
    model = net()
    others = [p for p in model.parameters() if p is not model[0].weight]
    optimizer = LNGD(model, [{"params": [model[0].weight], "curvature": False}, {"params": others}])
    outcomes = {o.name: (o.kind, o.reason) for o in optimizer.summary()}
    assert outcomes["0.weight"] == ("fallback", "its group says curvature=False")
    assert outcomes["0.bias"] == ("fallback", "its weight's group says curvature=False")
    assert set(optimizer.blocks) == {"3"}


def test_a_checkpoint_of_groups_without_curvature_loads_where_they_are_the_same():
    optimizers = []
    for curvature in (False, False, True):
        model = net()
        optimizers.append(
            LNGD(model, [{"params": model[0].parameters(), "curvature": curvature}, {"params": model[3].parameters()}])
        )
        moved(model, optimizers[-1])
    without, same, other = optimizers
    same.load_state_dict(without.state_dict())
    assert set(same.blocks) == {"3"}
    with pytest.raises(ValueError, match="a group has curvature=False in the checkpoint, curvature=True here"):
        other.load_state_dict(without.state_dict())


@pytest.mark.parametrize("curvature", [None, False])
def test_a_group_added_later_trains_like_one_of_the_start(curvature):
    """With curvature where it has some; its options are honoured."""
    options = {"lr": 0.3, "adamw_lr_ratio": 0.1, "damping": 2.0, "weight_decay": 0.05, "momentum": 0.5, "curvature": curvature}
    ways = []
    for later in (False, True):
        model = net()
        first, second = {"params": list(model[0].parameters())}, {"params": list(model[3].parameters()), **options}
        optimizer = LNGD(model, [first] if later else [first, second])
        if later:
            optimizer.add_param_group(second)
        assert {name: optimizer.param_groups[1][name] for name in options} == options
        assert ("3" in optimizer.blocks) is (curvature is None)
        ways.append(moved(model, optimizer, steps=4))
    assert all(torch.equal(way, ways[1][name]) for name, way in ways[0].items())
    assert ways[0]["3.weight"].any()


REFUSED = {
    "a stranger": (lambda _: [nn.Parameter(torch.zeros(7, 2))], r"shape \(7, 2\) that is not one of the model's own"),
    "no parameter": (lambda _: ["0.weight"], "'0.weight'.*not one of the model's own"),
    "twice in one group": (lambda m: [m[0].weight, m[0].weight], r"'0\.weight' stands twice"),
    "in two groups": (lambda m: [{"params": [m[0].weight]}, {"params": [m[0].weight]}], r"'0\.weight' stands twice"),
    "nothing": (lambda _: [], "nothing to train"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_params_that_do_not_fit_are_refused_and_leave_no_hooks(kind):
    params, message = REFUSED[kind]
    model = net()
    with pytest.raises(ValueError, match=message):
        LNGD(model, params(model))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("model", [nn.Tanh(), nn.Linear(2, 2).requires_grad_(False)])
def test_a_model_with_nothing_to_train_is_refused(model):
    with pytest.raises(ValueError, match="nothing to train"):
        LNGD(model)
