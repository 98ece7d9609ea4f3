"""One weight in several linear modules: the layer that one module would be, called as often."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from every import METHODS
from lngd import LNGD, Schedule

EVERY_STEP = {"schedule": Schedule(curvature_every=1, inverse_every=1, samples=None)}


class Twice(nn.Module):
    """A layer that is called twice, by one module or by two that have its parameters.

    `biases` of the two: "one", "two", or "none".
    """

    def __init__(self, *, modules: int, biases: str) -> None:
        super().__init__()
        torch.manual_seed(1)
        bias = biases != "none"
        self.first, self.head = nn.Linear(5, 5, bias=bias), nn.Linear(5, 3)
        self.second = self.first
        if modules == 2:
            self.second = nn.Linear(5, 5, bias=bias)
            self.second.weight = self.first.weight
            if biases == "one":
                self.second.bias = self.first.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


def trained(model: nn.Module, kind: str) -> Any:
    optimizer = METHODS[kind](model.double(), generator=torch.Generator().manual_seed(2), **EVERY_STEP)
    for step in range(4):
        torch.manual_seed(10 + step)
        x = torch.randn(8, 5).double()
        optimizer.zero_grad()
        F.cross_entropy(model(x), x[:, :3].argmax(1)).backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("biases", ["one", "none"])
@pytest.mark.parametrize("kind", METHODS)
def test_two_modules_with_one_weight_train_as_one_module(kind: str, biases: str) -> None:
    one, two = (Twice(modules=modules, biases=biases) for modules in (1, 2))
    for model in (one, two):
        assert set(trained(model, kind).blocks) == {"first", "head"}
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("kind", METHODS)
def test_modules_with_biases_of_their_own_share_the_weights_curvature(kind: str) -> None:
    model = Twice(modules=2, biases="two")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = trained(model, kind)
    kinds = {o.name: o.kind for o in optimizer.summary()}
    assert kinds["first.weight"] == "curvature"
    assert kinds["first.bias"] == kinds["second.bias"] == "fallback"
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_the_run_goes_on_from_a_checkpoint_and_in_a_copy() -> None:
    model = Twice(modules=2, biases="one")
    optimizer = trained(model, "LNGD")
    fresh = Twice(modules=2, biases="one").double()
    fresh.load_state_dict(model.state_dict())
    other = LNGD(fresh, **EVERY_STEP)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    pairs = [(model, optimizer), (fresh, other), copy.deepcopy((model, optimizer))]
    x = torch.randn(8, 5).double()
    for net, own in pairs:
        for _ in range(3):
            own.zero_grad()
            net(x).sin().sum().backward()
            own.step()
    for net, _ in pairs[1:]:
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), net.parameters(), strict=True))


def test_a_weight_that_a_convolution_has_too_is_adamws() -> None:
    model = nn.ModuleDict({"linear": nn.Linear(4, 4, bias=False), "embedding": nn.Embedding(4, 4), "other": nn.Linear(4, 4)})
    model["embedding"].weight = model["linear"].weight
    reasons = {o.name: o.reason for o in LNGD(model).summary()}
    assert reasons["linear.weight"] == "shared with a module of another kind"
