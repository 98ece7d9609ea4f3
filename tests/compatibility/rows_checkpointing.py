"""Rows: activation checkpointing, of both kinds."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from compatibility.runs import OFTEN, Run, assert_same, assert_trains, batches, learnable, start
from compatibility.table import group
from lngd import FisherType
from lngd.methods import Method

checkpointing = group("Activation checkpointing")

Way = Literal["plain", "reentrant", "non-reentrant"]


class Net(nn.Module):
    """The middle part may be checkpointed; its dropout draws from the model's own randomness."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.way = way
        self.stem, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.middle = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 6), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).tanh()
        if self.way == "plain":
            return self.head(self.middle(h))
        return self.head(checkpoint(self.middle, h, use_reentrant=self.way == "reentrant"))


def trained(method: type[Method], way: Way, **options: object) -> Run:
    run = start(method, Net(way), **{**OFTEN, **options})
    torch.manual_seed(2)
    return run.steps(batches(3, 4))


@checkpointing("Activation checkpointing, non-reentrant", "bit-equal to the run without it, dropout included")
def non_reentrant(method: type[Method]) -> None:
    assert_same(*(trained(method, way) for way in ("plain", "non-reentrant")))


@checkpointing(
    "Activation checkpointing, reentrant", "every parameter moves, the loss falls, each layer is measured once a measuring step"
)
def reentrant(method: type[Method]) -> None:
    plain, checkpointed = (
        assert_trains(method, Net(way), *learnable(64, 4), curved={"stem", "middle.0", "middle.3", "head"}, **OFTEN)
        for way in ("plain", "reentrant")
    )
    assert updates(plain) == updates(checkpointed)


@checkpointing(
    "Random state under reentrant checkpointing",
    "with a rate of zero, dropout gives the losses of the run without checkpointing, bit for bit",
)
def reentrant_randomness(method: type[Method]) -> None:
    plain, checkpointed = (trained(method, way, lr=0.0) for way in ("plain", "reentrant"))
    assert torch.equal(torch.stack(plain.losses), torch.stack(checkpointed.losses))
    assert updates(plain) == updates(checkpointed)


@checkpointing(
    "Reentrant checkpointing with the data's own gradients", "`FisherType.EMPIRICAL`: bit-equal to the run without checkpointing"
)
def reentrant_empirical(method: type[Method]) -> None:
    assert_same(*(trained(method, way, fisher=FisherType.EMPIRICAL) for way in ("plain", "reentrant")))


def updates(run: Run) -> dict[str, int]:
    """How often each layer was measured."""
    return {name: block.updates for name, block in run.optimizer.blocks.items()}
