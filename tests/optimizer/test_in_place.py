"""What the core computes in place is its own: never a gradient, never what the caller holds."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lngd
from lngd.optimizer import NaturalGradient
from reference import batch
from tiers import tiered

METHODS = [name for name, kind in vars(lngd).items() if isinstance(kind, type) and issubclass(kind, NaturalGradient)]
MOMENTA = ["gradient", "nesterov", "update"]


def without_biases() -> nn.Module:
    """The gradient of every layer is a view of `.grad`."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 4, 2, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(4, 3, bias=False)
    )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("momentum_on", MOMENTA)
@tiered("method", METHODS)
def test_a_step_leaves_every_gradient_as_it_was(method, momentum_on, momentum):
    model, (x, y) = without_biases(), batch(16, 4, dtype=torch.float32)
    schedule = lngd.Schedule(curvature_every=2, inverse_every=3)
    optimizer = getattr(lngd, method)(model, momentum=momentum, momentum_on=momentum_on, schedule=schedule)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        before = [p.grad.clone() for p in model.parameters()]
        optimizer.step()
        assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), before, strict=True))
