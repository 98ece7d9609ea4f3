"""A weight or a bias that has no gradient, or is frozen, stays where it is, and the other half of its layer trains."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lngd import KFAC, LNGD, NGPlus, SpectralLNGD
from reference import batch, convolutional, mlp


class Attention(nn.Module):
    """Self-attention to two tokens a sample."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(len(x), 2, 2).repeat(1, 1, 2)
        return self.head(self.attention(x, x, x)[0].mean(1))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: mlp(4, 5, 3, dtype=torch.float32),
    "convolutional": convolutional,
    "attention": Attention,
}
HALVES = [
    *(("mlp", half) for half in ("0.weight", "0.bias", "2.bias")),
    *(("convolutional", half) for half in ("1.weight", "1.bias", "7.bias")),
    *(("attention", f"attention.{half}") for half in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")),
]
METHODS = pytest.mark.parametrize("method", [LNGD, SpectralLNGD, KFAC, NGPlus], ids=lambda method: method.__name__)
every_half = pytest.mark.parametrize(("kind", "half"), HALVES, ids=["-".join(each) for each in HALVES])


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, before_step: Callable[[], object] = int) -> None:
    for seed in range(steps):
        x, y = batch(8, 4, seed=seed, dtype=torch.float32)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        before_step()
        optimizer.step()


def moved(model: nn.Module, work: Callable[[], None]) -> set[str]:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    work()
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


@every_half
@METHODS
def test_a_parameter_whose_gradient_is_taken_away_stays_and_all_others_move(method, kind, half):
    model = MODELS[kind]()
    optimizer, own = method(model, weight_decay=0.1), model.get_parameter(half)
    train(model, optimizer, 2)

    def take_away() -> None:
        own.grad = None

    assert moved(model, lambda: train(model, optimizer, 3, take_away)) == {name for name, _ in model.named_parameters()} - {half}
    assert half in moved(model, lambda: train(model, optimizer, 1))


@pytest.mark.filterwarnings("ignore:.*AdamW trains it from now on")
@pytest.mark.parametrize("when", ["before", "later", "between the backward pass and the step"])
@every_half
@METHODS
def test_a_frozen_parameter_stays_and_all_others_move(method, kind, half, when):
    model = MODELS[kind]()
    own = model.get_parameter(half)
    own.requires_grad_(when != "before")
    optimizer = method(model, weight_decay=0.1, schedule=1)
    train(model, optimizer, 2)
    own.requires_grad_(when not in ("before", "later"))
    others = {name for name, _ in model.named_parameters()} - {half}
    assert moved(model, lambda: train(model, optimizer, 3, lambda: own.requires_grad_(False))) == others


@pytest.mark.parametrize("momentum_on", ["gradient", "nesterov", "update"])
def test_the_average_of_a_parameter_without_a_gradient_stays_too(momentum_on):
    model = mlp(4, 5, 3)
    optimizer = LNGD(model, momentum_on=momentum_on, momentum=0.9)
    x, y = batch(8, 4)
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    name = "momentum" if momentum_on == "update" else "average"
    kept = optimizer.state[model[0].bias][name].clone()
    model[0].bias.grad = None
    optimizer.step()
    assert kept.any()
    assert torch.equal(optimizer.state[model[0].bias][name], kept)


@METHODS
def test_the_other_half_steps_downhill(method):
    """d = P F̂⁻¹ P ∇ with P onto the half that has a gradient: ⟨d, ∇⟩ > 0."""
    model, (x, y) = mlp(4, 5, 3), batch(8, 4)
    optimizer = method(model)
    train_loss = F.cross_entropy(model(x), y)
    train_loss.backward()
    optimizer.step()
    gradient = model[0].weight.grad.clone()
    before, model[0].bias.grad = model[0].weight.detach().clone(), None
    for p in model[2].parameters():
        p.grad = None
    optimizer.step()
    assert ((model[0].weight - before) * gradient).sum() < 0
