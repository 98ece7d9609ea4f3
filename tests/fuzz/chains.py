"""Parts made of parts: one after the other, branches, a module called twice, tied weights, activation checkpointing."""

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fuzz.parts import Apply, Part, Signal


@dataclass(frozen=True)
class Chain(Part):
    """Parts one after the other."""

    parts: tuple[Part, ...]

    def out(self, signal: Signal) -> Signal:
        for part in self.parts:
            signal = part.out(signal)
        return signal

    def build(self, signal: Signal) -> nn.Module:
        modules = []
        for part in self.parts:
            modules.append(part.build(signal))
            signal = part.out(signal)
        return nn.Sequential(*modules)


@dataclass(frozen=True)
class Residual(Chain):
    """x + f(x)."""

    def build(self, signal: Signal) -> nn.Module:
        branch = super().build(signal)
        return Apply(lambda x: x + branch(x), branch)


@dataclass(frozen=True)
class Concat(Chain):
    """[x, f(x)] along the channels."""

    def out(self, signal: Signal) -> Signal:
        return replace(signal, channels=signal.channels + super().out(signal).channels)

    def build(self, signal: Signal) -> nn.Module:
        branch, axis = super().build(signal), 1 if signal.layout == "image" else -1
        return Apply(lambda x: torch.cat([x, branch(x)], axis), branch)


@dataclass(frozen=True)
class Twice(Chain):
    """f(f(x)): one module, called twice in a forward."""

    def build(self, signal: Signal) -> nn.Module:
        body = super().build(signal)
        return Apply(lambda x: body(body(x)), body)


@dataclass(frozen=True)
class Recomputed(Chain):
    """Under activation checkpointing."""

    def build(self, signal: Signal) -> nn.Module:
        body = super().build(signal)
        return Apply(lambda x: checkpoint(body, x, use_reentrant=False), body)


@dataclass(frozen=True)
class Tied(Part):
    """Two Linear modules that share one weight."""

    def build(self, signal: Signal) -> nn.Module:
        first, second = (nn.Linear(signal.channels, signal.channels) for _ in range(2))
        second.weight = first.weight
        return nn.Sequential(first, nn.Tanh(), second)
