"""PEFT, the real library: adapters are trained, what it does behind the model's back is not taken for training."""

import copy

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lngd import KFAC, LNGD, SpectralLNGD
from reference import batch

METHODS = pytest.mark.parametrize("method", [LNGD, SpectralLNGD, KFAC], ids=lambda method: method.__name__)


class Attentive(nn.Module):
    """nn.MultiheadAttention and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x)[0].mean(1))


def mlp() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 12, *shape: int) -> float:
    x, _ = batch(32, *(shape or (8,)), dtype=torch.float32)
    y = x.flatten(1)[:, :3].argmax(1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    return loss.item()


def moved(before: dict[str, Tensor], model: nn.Module) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@METHODS
def test_lora_trains_its_adapters_and_nothing_else(method):
    model = peft.get_peft_model(mlp(), peft.LoraConfig(r=2, target_modules=["0", "2"]))
    optimizer = method(model)
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer)
    names = moved(before, model)
    assert names
    assert all("lora_" in name for name in names)
    assert {o.kind for o in optimizer.summary() if "lora_" in o.name} == {"curvature"}
    assert {o.kind for o in optimizer.summary() if "lora_" not in o.name} == {"frozen"}


@METHODS
def test_lora_on_multihead_attention_builds_and_trains(method):
    """There in_proj_weight is another Parameter each time that named_parameters() is called; two adapters are never called."""
    model = peft.get_peft_model(Attentive(), peft.LoraConfig(r=2, target_modules=["attention"]))
    optimizer = method(model)
    with pytest.warns(UserWarning, match=r"lora_[AB].*AdamW trains it from now on.*used without calling the module"):
        first = train(model, optimizer, 1, 5, 8)
    list(model.named_parameters())  # as clipping does
    assert train(model, optimizer, 20, 5, 8) < first


def test_an_adapter_that_is_switched_on_later_trains():
    model = peft.get_peft_model(mlp(), peft.LoraConfig(r=2, target_modules=["0", "2"]))
    model.add_adapter("second", peft.LoraConfig(r=2, target_modules=["0", "2"]))
    optimizer = LNGD(model)
    train(model, optimizer, 3)
    model.set_adapter("second")
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer, 4)
    names = moved(before, model)
    assert names
    assert all("second" in name for name in names)
    assert {o.kind for o in optimizer.summary() if "second" in o.name} == {"curvature"}


def test_an_adapter_that_is_added_later_is_refused_until_it_is_added():
    model = peft.get_peft_model(mlp(), peft.LoraConfig(r=2, target_modules=["0", "2"]))
    optimizer = LNGD(model)
    train(model, optimizer, 2)
    model.add_adapter("second", peft.LoraConfig(r=2, target_modules=["0", "2"]))
    model.set_adapter("second")
    with pytest.raises(RuntimeError, match=r"second.*add_param_group"):
        train(model, optimizer, 1)
    optimizer.add_param_group({"params": [p for name, p in model.named_parameters() if "second" in name]})
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer, 4)
    assert any("second" in name for name in moved(before, model))


def test_the_identity_that_dora_sends_through_an_adapter_is_no_data():
    """For the norm of the weights DoRA calls lora_B(lora_A(identity)) in each forward, detached from the loss."""
    diagonals = []
    for dora in (False, True):
        torch.manual_seed(0)
        config = peft.LoraConfig(r=2, target_modules=["0"], use_dora=dora)
        model = peft.get_peft_model(nn.Sequential(nn.Linear(8, 16)), config)
        optimizer = LNGD(model, generator=torch.Generator().manual_seed(3))
        x, y = 0.1 * batch(32, 8, dtype=torch.float32)[0], torch.arange(32) % 16
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        (block,) = (block for name, block in optimizer.blocks.items() if "lora_A" in name)
        diagonals.append(block.phi.diagonal())
    torch.testing.assert_close(diagonals[1], diagonals[0], rtol=0.35, atol=0.0)
