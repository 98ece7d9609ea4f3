"""Real digits (1,797 images, 8×8): what a user gets from the defaults in a few epochs."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lngd import LNGD, PAPER, LNGDSample
from tiers import tiered

TRAIN, BATCH = 1400, 64
OFTEN = {"schedule": replace(PAPER["schedule"], curvature_every=20, inverse_every=20)}
"""Three epochs are 66 steps: the paper's interval of 100 would measure once."""


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(inplace=True), nn.Linear(64, 32), nn.ReLU(inplace=True), nn.Linear(32, 10))


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(data.data, dtype=torch.float32)[order] / 16, torch.tensor(data.target)[order]


def accuracy(model: nn.Module, optimizer: torch.optim.Optimizer, digits: tuple[Tensor, Tensor], epochs: int) -> float:
    """Test accuracy after some epochs of linearly falling rates."""
    x, y = digits
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, epochs * -(-TRAIN // BATCH))
    for _ in range(epochs):
        for chosen in torch.randperm(TRAIN).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()
            scheduler.step()
    model.eval()
    return (model(x[TRAIN:]).argmax(1) == y[TRAIN:]).float().mean().item()


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], torch.optim.Optimizer], int, float]] = {
    "LNGD, MLP": (mlp, LNGD, 5, 0.935),
    "LNGD, conv net with BatchNorm": (conv, LNGD, 3, 0.97),
    "LNGD grafted, conv net": (conv, lambda m: LNGD(m, step_size="graft", lr=3e-3, adamw_lr_ratio=1.0), 3, 0.96),
    "LNGD-sample, conv net": (conv, LNGDSample, 3, 0.8),
    "the paper's recipe, conv net": (conv, lambda m: LNGD(m, lr=0.03, **{**PAPER, **OFTEN}), 3, 0.95),
}


@tiered("case", CASES, ("LNGD, MLP", "LNGD, conv net with BatchNorm"))
def test_digits_are_learnt_in_a_few_epochs(case, digits):
    build, optimizer, epochs, least = CASES[case]
    model = build()
    assert accuracy(model, optimizer(model), digits, epochs) >= least
