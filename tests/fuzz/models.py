"""A random model: parts between an input and a head."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fuzz.chains import Chain
from fuzz.parts import Part, Signal


@dataclass(frozen=True)
class Model:
    """What `build` makes a `Network` of.

    Args:
        signal: what the first part receives; with tokens, what the embedding gives.
        parts: in their order.
        head: what a Linear on top is applied to: all of a sample, the mean over its positions, or each position.
        outputs: of that Linear.
        vocabulary: how many tokens an Embedding knows that comes first; 0 for none, and inputs of real numbers.
        tied: whether the head shares the embedding's weight.
        unused: whether there is a module that no forward calls.
        frozen: which parameters are frozen, counted modulo their number.
    """

    signal: Signal
    parts: tuple[Part, ...]
    head: Literal["flat", "mean", "positions"] = "flat"
    outputs: int = 3
    bias: bool = True
    vocabulary: int = 0
    tied: bool = False
    unused: bool = False
    frozen: tuple[int, ...] = ()

    @property
    def last(self) -> Signal:
        """What the head receives."""
        return Chain(self.parts).out(self.signal)

    def build(self) -> "Network":
        """The same weights at every call with the same seed."""
        network = Network(self)
        parameters = [p for p in network.parameters() if p is not network.head.weight]
        for index in self.frozen if parameters else ():
            parameters[index % len(parameters)].requires_grad_(False)
        return network


class Network(nn.Module):
    """A model that trains."""

    def __init__(self, plan: Model) -> None:
        super().__init__()
        self.plan = plan
        last = plan.last
        width = torch.Size(last.shape).numel() if plan.head == "flat" else last.channels
        self.embedding = nn.Embedding(plan.vocabulary, plan.signal.channels) if plan.vocabulary else None
        self.body = Chain(plan.parts).build(plan.signal)
        self.head = nn.Linear(width, plan.outputs, bias=plan.bias)
        self.unused = nn.Linear(2, 2) if plan.unused else None
        if plan.tied and self.embedding is not None:
            self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.embedding is None else self.embedding(x)
        return self.head(self._gathered(self.body(x)))

    def _gathered(self, x: Tensor) -> Tensor:
        """`[n, width]`, or `[n, s, width]` for a head at each position."""
        if self.plan.head == "flat":
            return x.flatten(1)
        if self.plan.last.layout == "image":
            x = x.flatten(2).transpose(1, 2)
        return x.mean(1) if self.plan.head == "mean" else x
