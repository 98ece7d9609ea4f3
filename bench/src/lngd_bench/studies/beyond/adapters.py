"""LoRA: a transformer that knows five digits learns the other five by adapters of rank 4."""

from copy import deepcopy
from functools import cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from lngd_bench.studies.beyond.networks import Block
from lngd_bench.studies.beyond.task import Task, digits
from lngd_bench.tasks.data import Split

RANK, WIDTH, ROWS = 4, 32, 8
BEFORE = 300
"""Steps of AdamW on the first five digits."""


class Rows(nn.Module):
    """A transformer on the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(8, WIDTH)
        self.places = nn.Parameter(0.1 * torch.randn(ROWS, WIDTH))
        self.blocks = nn.Sequential(Block(WIDTH), Block(WIDTH))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.inward(x.squeeze(1)) + self.places)).mean(1))


class Adapted(nn.Module):
    """A frozen linear layer and, beside it, two of low rank, the second from zero."""

    def __init__(self, frozen: nn.Linear) -> None:
        super().__init__()
        self.frozen = frozen
        self.down, self.up = nn.Linear(frozen.in_features, RANK, bias=False), nn.Linear(RANK, frozen.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + 2 * self.up(self.down(x))


@cache
def halves() -> tuple[Split, Split]:
    """Digits 0 to 4 and digits 5 to 9, these counted from 0."""
    data = digits()
    found = []
    for first in (0, 5):
        train, test = (labels // 5 == first // 5 for labels in (data.train_y, data.test_y))
        found.append(Split(data.train_x[train], data.train_y[train] - first, data.test_x[test], data.test_y[test] - first))
    return found[0], found[1]


def class_loss(model: nn.Module, data: Split, draw: Generator) -> Tensor:
    rows = torch.randint(len(data.train_x), (32,), generator=draw)
    return F.cross_entropy(model(data.train_x[rows]), data.train_y[rows])


@cache
def pretrained() -> Rows:
    """The same for everybody: its seed is its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Rows()
    optimizer, draw = torch.optim.AdamW(model.parameters(), lr=3e-3), Generator().manual_seed(0)
    for _ in range(BEFORE):
        optimizer.zero_grad()
        class_loss(model, halves()[0], draw).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.requires_grad_(False)


def adapted() -> nn.Module:
    """All linear layers of a copy."""
    model = deepcopy(pretrained())
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, Adapted(child))
    return model


def adapter_loss(model: nn.Module, draw: Generator) -> Tensor:
    return class_loss(model, halves()[1], draw)


def adapter_held_out(model: nn.Module) -> float:
    data = halves()[1]
    return F.cross_entropy(model(data.test_x), data.test_y).item()


ADAPTERS = Task(
    title="LoRA, a transformer from digits 0–4 to 5–9",
    model=adapted,
    loss=adapter_loss,
    held_out=adapter_held_out,
    measure="cross-entropy",
    steps=200,
)
