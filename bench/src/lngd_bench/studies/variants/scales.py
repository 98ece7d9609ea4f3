"""Small tasks on which a rate that depends on the loss's scale, or that nothing bounds, goes wrong: `results/scales.md`.

Every optimizer has the same rate on all of them, ours their default.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise, product
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.optim import AdamW, Optimizer

from lngd import LNGD, SpectralLNGD
from lngd_bench.ledger import Line
from lngd_bench.studies.results import markdown
from lngd_bench.studies.variants.changes import BY_EQ_12, Wanted
from lngd_bench.tasks import TASKS as TABLE
from lngd_bench.tasks.data import in_memory
from lngd_bench.tasks.models.resnet import ResNet50
from lngd_bench.training.records import Epoch, finite

RIVALS: Mapping[str, Callable[[nn.Module], Optimizer]] = {
    "AdamW, 0.003": lambda model: AdamW(model.parameters(), lr=3e-3),
    "LNGD": LNGD,
    "LNGD, eq. 12": partial(BY_EQ_12, lr=0.5),
    "Spectral LNGD": SpectralLNGD,
}


@dataclass(frozen=True)
class Small:
    """A task.

    Attributes:
        loss: of a batch that the generator draws.
        unit: what the loss is divided by to be told.
    """

    model: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Generator], Tensor]
    steps: int
    unit: float = 1.0


def layers(*widths: int) -> nn.Sequential:
    """Linear ones with tanh between them."""
    each = [module for inputs, outputs in pairwise(widths) for module in (nn.Linear(inputs, outputs), nn.Tanh())]
    return nn.Sequential(*each[:-1])


def scaled_loss(factor: float) -> Small:
    """Classification, the loss multiplied with a factor."""

    def loss(model: nn.Module, draw: Generator) -> Tensor:
        x = torch.randn(64, 20, generator=draw)
        y = (x[:, :10].sum(1) > 0).long() + 2 * (x[:, 10:].sum(1) > 0).long()
        return factor * F.cross_entropy(model(x), y)

    model = partial(layers, 20, 64, 64, 4)
    return Small(model, loss, 150, unit=factor)


def large_targets(size: float) -> Small:
    """Regression on targets of a size, from weights as torch initialises them."""

    def loss(model: nn.Module, draw: Generator) -> Tensor:
        x = torch.randn(64, 8, generator=draw)
        return F.mse_loss(model(x), size * (x[:, :1] + x[:, 1:2].abs() + 1))

    return Small(partial(layers, 8, 32, 1), loss, 400, unit=size**2)


class Adapted(nn.Module):
    """A network with a second branch behind a projection that begins at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.branch, self.zero, self.head = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 2)
        for p in self.zero.parameters():
            nn.init.zeros_(p)
        for p in (*self.trunk.parameters(), *self.head.parameters()):
            p.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.trunk(x) + self.zero(torch.tanh(self.branch(x)))))


def product_of_signs(model: nn.Module, draw: Generator) -> Tensor:
    """The frozen part alone can't tell the classes; the loss is a hundredth of its usual size."""
    x = torch.randn(64, 16, generator=draw)
    return 0.01 * F.cross_entropy(model(x), (x[:, 0] * x[:, 1] > 0).long())


class Recall(nn.Module):
    """Two layers of causal attention, all weights at a standard deviation of 0.02, in which the loss is flat at first."""

    def __init__(self, words: int = 32, width: int = 32, length: int = 12) -> None:
        super().__init__()
        self.word, self.place = nn.Embedding(words, width), nn.Embedding(length, width)
        self.projections = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(8))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, words, bias=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, t: Tensor) -> Tensor:
        x = self.word(t) + self.place.weight[: t.shape[1]]
        for q, k, v, o in (self.projections[:4], self.projections[4:]):
            a = self.norm(x).unsqueeze(1)
            x = x + o(F.scaled_dot_product_attention(q(a), k(a), v(a), is_causal=True).squeeze(1))
        return self.head(self.norm(x))


def second_half(model: nn.Module, draw: Generator) -> Tensor:
    """A sequence of random words is repeated, which only attention can foresee."""
    words = torch.randint(32, (32, 6), generator=draw)
    t = torch.cat([words, words], 1)
    return F.cross_entropy(model(t)[:, 6:-1].flatten(0, 1), t[:, 7:].flatten())


def resnet50() -> nn.Module:
    """Of width 8, every parameter as torch starts it: no last normalisation of a block begins at zero."""
    model = ResNet50(8, classes=10, channels=1)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.reset_parameters()
    return model


@cache
def pictures() -> tuple[Tensor, Tensor]:
    """Fashion-MNIST's, 6,400 of them, with their classes."""
    data = in_memory(TABLE["fashion-resnet"].data(None)).first(6400)
    return data.train_x, data.train_y


def classes_of_pictures(model: nn.Module, draw: Generator) -> Tensor:
    images, labels = pictures()
    rows = torch.randint(len(images), (64,), generator=draw)
    return F.cross_entropy(model(images[rows]), labels[rows])


TASKS: Mapping[str, Small] = {
    **{f"loss × {factor:g}": scaled_loss(factor) for factor in (1e-6, 1e-3, 1.0, 1e3, 1e6)},
    **{f"targets × {size:g}": large_targets(size) for size in (1.0, 30.0, 300.0)},
    "a branch behind zeros": Small(Adapted, product_of_signs, 400, unit=0.01),
    "flat attention": Small(Recall, second_half, 400),
    "ResNet-50 as torch starts it": Small(resnet50, classes_of_pictures, 100),
}


def wanted(given: argparse.Namespace) -> Iterator[Wanted]:
    for (task, small), (optimizer, build), seed in product(TASKS.items(), RIVALS.items(), given.seeds):
        yield {"task": task, "steps": small.steps, "optimizer": optimizer, "seed": seed}, partial(trained, small, build, seed)


def trained(small: Small, build: Callable[[nn.Module], Optimizer], seed: int) -> Epoch:
    """The metric is the mean loss of the last twenty batches, each before its step."""
    torch.manual_seed(seed)
    model, draw, losses = small.model(), Generator().manual_seed(seed), list[float]()
    optimizer = build(model)
    for _ in range(small.steps):
        optimizer.zero_grad()
        loss = small.loss(model, draw)
        loss.backward()
        optimizer.step()
        losses.append(loss.item() / small.unit)
    end = finite(mean(losses[-20:]))
    return Epoch(epoch=1, step=small.steps, train_loss=end, eval_loss=None, metric=end, seconds=0.0, diverged=end is None)


def table(lines: Sequence[Line]) -> str:
    """The mean over seeds for each task and optimizer."""

    def cell(task: str, optimizer: str) -> str:
        found = [line["metric"] for line in lines if (line["task"], line["optimizer"]) == (task, optimizer)]
        return "diverges" if None in found else f"{mean(found):.3g}"

    return markdown(["loss", *RIVALS], [[task, *(cell(task, optimizer) for optimizer in RIVALS)] for task in TASKS])
