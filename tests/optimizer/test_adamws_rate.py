"""At which rate AdamW trains what has no curvature: safe where that is all of a model, torch's own where a group asks for it."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lngd import LNGD, SpectralLNGD
from lngd.optimizer.adamw import share_of_rate
from reference import batch

SHARES = {
    "a bias": ((5,), 1.0),
    "a scalar": ((), 1.0),
    "a token that stands for all": ((1, 1, 768), 1.0),
    "a square matrix": ((50, 50), 0.1),
    "a few classes": ((2, 800), 0.025),
    "a vocabulary": ((5000, 800), 0.025),
    "a kernel": ((4, 8, 5, 5), 0.05),
    "a depthwise kernel": ((200, 1, 5, 10), 0.1),
    "a kernel in one dimension": ((4, 50, 3), 0.1),
    "places of a sequence": ((1, 16, 200), 0.05),
    "places of an image": ((1, 8, 8, 200), 0.05),
    "experts": ((8, 50, 200), 0.05),
    "a kernel without entries": ((5, 5, 0, 3), 0.5**0.5),
}


@pytest.mark.parametrize("kind", SHARES)
def test_a_matrix_moves_by_its_width(kind):
    shape, share = SHARES[kind]
    assert share_of_rate(torch.zeros(shape)) == pytest.approx(share)


class Transposed(nn.Module):
    """A linear layer that nobody knows as one, for its weight is turned round before use."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.flip(0) + self.bias


def words(*hidden: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(9, 8), *hidden, nn.Flatten(), nn.Linear(16, 3)).double()


@pytest.mark.filterwarnings("ignore:only")
def test_what_falls_back_has_the_warm_up_and_its_widths_share_and_embeddings_the_whole_rate():
    model, warmup = words(Transposed(8, 8)), 4
    optimizer = LNGD(model, lr=0.5, adamw_lr_ratio=0.02, warmup=warmup)
    names = {"0.weight": 1.0, "1.weight": 0.25, "1.bias": 1.0}
    copies = {name: copy.deepcopy(model.get_parameter(name)) for name in names}
    adamw = torch.optim.AdamW([{"params": [p], "lr": 0.0} for p in copies.values()], weight_decay=0.0)
    for step in range(6):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.arange(6).view(3, 2)), torch.tensor([0, 1, 2])).backward()
        for (name, p), group in zip(copies.items(), adamw.param_groups, strict=True):
            p.grad = model.get_parameter(name).grad.clone()
            group["lr"] = 0.01 * names[name] * min(1.0, (step + 1) / warmup)
        optimizer.step()
        adamw.step()
        for name, p in copies.items():
            torch.testing.assert_close(model.get_parameter(name), p, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("named", [lambda m: m[0].parameters(), lambda m: m[2].parameters()], ids=["embedding", "linear"])
def test_a_group_that_says_so_is_torchs_adamw_from_its_first_step_on(named):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 8), nn.Flatten(), nn.Linear(16, 3)).double()
    chosen = list(named(model))
    others = [p for p in model.parameters() if not any(p is q for q in chosen)]
    optimizer = SpectralLNGD(
        model, [{"params": others}, {"params": chosen, "curvature": False, "lr": 0.5, "adamw_lr_ratio": 0.02}]
    )
    copies = copy.deepcopy(chosen)
    adamw = torch.optim.AdamW(copies, lr=0.01, weight_decay=0.0)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.arange(6).view(3, 2)), torch.tensor([0, 1, 2])).backward()
        for p, own in zip(copies, chosen, strict=True):
            p.grad = own.grad.clone()
        optimizer.step()
        adamw.step()
        for p, own in zip(copies, chosen, strict=True):
            torch.testing.assert_close(own, p, rtol=1e-12, atol=1e-14)


class Deep(nn.Module):
    """Twelve residual blocks, of none the layers known."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.SiLU(), Transposed(width, width), nn.SiLU(), Transposed(width, width)) for _ in range(12)
        )
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


@pytest.mark.filterwarnings("ignore:only")
@pytest.mark.parametrize("method", [LNGD, SpectralLNGD])
@pytest.mark.parametrize("width", [32, 256])
def test_a_deep_network_without_curvature_learns_at_the_default_rate_whatever_its_width(method, width):
    """At one rate for matrices and vectors its loss went to thousands within four steps."""
    torch.manual_seed(0)
    model, (x, y) = Deep(width), batch(32, width, dtype=torch.float32)
    optimizer = method(model)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert max(losses) < 4 * losses[0]
    assert losses[-1] < math.log(4) / 4
