"""A weight in front of a normalisation keeps its norm: the loss does not depend on it, and steps could only lengthen it."""

import pytest
import torch
from torch import nn

from lngd import LNGD
from reference import batch, mlp, train_step

INVARIANT = {
    "linear": lambda: nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)),
    "conv": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 8, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    ),
    "grouped conv": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 8, 2, groups=2), nn.BatchNorm1d(8), nn.SiLU(), nn.Flatten(), nn.Linear(16, 3)
    ),
    "layernorm without mean": lambda: nn.Sequential(nn.Linear(6, 16, bias=False), nn.RMSNorm(16), nn.Tanh(), nn.Linear(16, 3)),
}


def build(kind: str) -> tuple[nn.Sequential, str]:
    """A model and the name of its scale-invariant layer."""
    torch.manual_seed(1)
    model = INVARIANT[kind]()
    return model, next(n for n, m in model.named_children() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d))


def norms(model: nn.Module, name: str, steps: int, **options) -> list[float]:
    """The norm of a layer's weight after each step."""
    optimizer, weight, found = LNGD(model, **options), model.get_parameter(f"{name}.weight"), []
    for step in range(steps):
        x, y = batch(32, 6, seed=step, dtype=torch.float32)
        train_step(model, optimizer, x, y)
        found.append(weight.detach().norm().item())
    return found


@pytest.mark.parametrize("momentum_on", ["gradient", "update"])
@pytest.mark.parametrize("kind", INVARIANT)
def test_the_norm_is_kept_from_the_eleventh_step_on(kind, momentum_on):
    model, name = build(kind)
    found = norms(model, name, 40, momentum_on=momentum_on)
    assert found[11:] == pytest.approx([found[10]] * 29, rel=1e-5)


@pytest.mark.parametrize("kind", INVARIANT)
def test_weight_decay_does_not_shrink_a_kept_norm(kind):
    model, name = build(kind)
    found = norms(model, name, 30, weight_decay=0.1)
    assert found[11:] == pytest.approx([found[10]] * 19, rel=1e-5)


@pytest.mark.parametrize("kind", ["linear", "conv", "grouped conv"])
def test_norms_grow_without_it(kind):
    model, name = build(kind)
    initial = model.get_parameter(f"{name}.weight").norm().item()
    kept = norms(build(kind)[0], name, 45, lr=1.0)
    grown = norms(model, name, 45, lr=1.0, keep_norms=False)
    assert grown[-1] > 3 * initial
    assert grown[-1] > 1.5 * kept[-1]


def test_keeping_a_norm_does_not_change_the_function():
    model, name = build("linear")
    norms(model, name, 15)
    x = torch.randn(32, 6)
    before = model(x)
    with torch.no_grad():
        model[0].weight.mul_(7.0)
        model[0].bias.mul_(7.0)
    torch.testing.assert_close(model(x), before, rtol=1e-3, atol=1e-3)


def alignment(optimizer: LNGD) -> dict[str, float]:
    return {key: value for key, value in optimizer.stats().items() if key.startswith("alignment")}


@pytest.mark.parametrize("widths", [(6, 3), (6, 8, 3), (6, 1024, 3), (6, 256, 1024, 3)])
def test_layers_without_normalisation_are_not_flagged_at_any_width(widths):
    model = mlp(*widths, dtype=torch.float32)
    optimizer = LNGD(model, lr=0.05)
    for step in range(30):
        x, y = batch(32, 6, seed=step, dtype=torch.float32)
        train_step(model, optimizer, x, y)
        assert min(alignment(optimizer).values()) > 0.1 or step < 10


def zeroed_head(kind: str) -> tuple[nn.Sequential, str]:
    model, name = build(kind)
    nn.init.zeros_(model[-1].weight)
    return model, name


def test_a_layer_whose_first_gradient_is_zero_is_still_recognised():
    model, name = zeroed_head("linear")
    found = norms(model, name, 40)
    assert found[15:] == pytest.approx([found[14]] * 25, rel=1e-5)


def test_a_norm_of_zero_stays_finite():
    model = mlp(6, 5, 3, dtype=torch.float32)
    nn.init.zeros_(model[2].weight)
    optimizer = LNGD(model)
    x, y = batch(16, 6, dtype=torch.float32)
    for _ in range(20):
        train_step(model, optimizer, x, y)
    assert all(p.isfinite().all() for p in model.parameters())


def test_hundreds_of_newton_steps_leave_the_norm_where_it_was():
    model, name = build("linear")
    found = norms(model, name, 200, lr=1.0)
    assert found[-1] == pytest.approx(found[20], rel=1e-4)
    assert all(p.isfinite().all() for p in model.parameters())
