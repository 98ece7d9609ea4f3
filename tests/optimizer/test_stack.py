"""Layers of one shape step in one batch as they would one by one, whatever of them has a gradient."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from every import METHODS
from lngd.optimizer import stack
from lngd.optimizer.natural_gradient import NaturalGradient

every_method = pytest.mark.parametrize("kind", METHODS)


class Net(nn.Module):
    """Layers of the same shape, with and without a bias, linear and convolutions, of which a call leaves some out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolutions = nn.ModuleList(nn.Conv2d(2, 2, 3, padding=1) for _ in range(3))
        self.linears = nn.ModuleList(nn.Linear(5, 5) for _ in range(4))
        self.plain = nn.ModuleList(nn.Linear(5, 5, bias=False) for _ in range(2))
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor, left_out: int = -1) -> Tensor:
        for k, layer in enumerate(self.convolutions):
            x = x if k == left_out else torch.tanh(layer(x)) + x
        x = x.mean((1, 2))
        for k, layer in enumerate((*self.linears, *self.plain)):
            x = x if k == left_out else torch.tanh(layer(x)) + x
        return self.head(x)


def go(model: nn.Module, optimizer: NaturalGradient, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(12, 2, 4, 5, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        F.cross_entropy(model(x, step % 5 - 1 if step % 2 else -1), x[:, 0, 0, :3].argmax(1)).backward()
        if step % 7 == 3:
            model.linears[1].bias.grad = None
        optimizer.step()


def trained(kind: str, momentum_on: str, steps: int = 30) -> tuple[nn.Module, NaturalGradient]:
    model = Net().double()
    optimizer = METHODS[kind](model, momentum_on=momentum_on, generator=torch.Generator().manual_seed(1))
    go(model, optimizer, range(steps))
    return model, optimizer


@pytest.mark.parametrize("momentum_on", ["gradient", "nesterov", "update"])
@every_method
def test_stacked_layers_step_as_each_alone(kind: str, momentum_on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found, optimizer = trained(kind, momentum_on)
    sizes = [len(each.layers) for bucket in optimizer._buckets for each in bucket.stacks]
    assert max(sizes) >= 3
    monkeypatch.setattr(stack, "LARGEST", 0)
    expected, optimizer = trained(kind, momentum_on)
    assert all(len(each.layers) == 1 for bucket in optimizer._buckets for each in bucket.stacks)
    for one, two in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-8)


@every_method
def test_a_checkpoint_and_a_copy_of_stacked_layers_go_on_bit_equal(kind: str) -> None:
    model, optimizer = trained(kind, "gradient", 17)
    other = Net().double()
    other.load_state_dict(model.state_dict())
    fresh = METHODS[kind](other, momentum_on="gradient")
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    copied, copied_optimizer = copy.deepcopy((model, optimizer))
    for each in ((model, optimizer), (other, fresh), (copied, copied_optimizer)):
        go(*each, range(17, 33))
    for one, two, three in zip(model.parameters(), other.parameters(), copied.parameters(), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_a_layer_that_leaves_a_stack_keeps_no_other_alive() -> None:
    model, optimizer = trained("SpectralLNGD", "nesterov", 16)
    for layer in model.linears[1:]:
        for p in layer.parameters():
            p.grad = None
    model.linears[0].weight.grad = torch.ones(5, 5, dtype=torch.float64)
    optimizer.step()
    for name, block in optimizer.blocks.items():
        if name.startswith("linears"):
            average = optimizer.state[model.get_parameter(f"{name}.weight")]["average"]
            assert average.untyped_storage().nbytes() == 8 * 30
            assert all(t.untyped_storage().nbytes() == t.numel() * 8 for t in block.tensors().values())


def test_state_is_what_steps() -> None:
    """A layer's state holds views of what its stack has, also after an inverse was renewed."""
    _, optimizer = trained("SpectralLNGD", "gradient")
    for bucket in optimizer._buckets:
        for each in bucket.stacks:
            for k, layer in enumerate(each.layers):
                own = layer.states[0]
                assert each.average is not None
                matrix = each.each(each.average)[k]
                assert own["average"].untyped_storage().data_ptr() == matrix.untyped_storage().data_ptr()
                for name in layer.block.inverses:
                    assert own[name] is getattr(layer.block, name)
