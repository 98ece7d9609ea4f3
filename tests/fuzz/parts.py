"""The pieces of a random model as plain descriptions: frozen dataclasses that print as the code that makes them.

A part knows what it does to the shape of a sample (`out`) and how to become a module (`build`); what it reads from before it,
such as a number of input channels, it takes from the `Signal` it is built for.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

Layout: TypeAlias = Literal["rows", "sequence", "image"]


@dataclass(frozen=True)
class Signal:
    """One sample: rows are `[channels]`, sequences `[*space, channels]`, images `[channels, *space]`."""

    layout: Layout
    channels: int
    space: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample's tensor."""
        return (self.channels, *self.space) if self.layout == "image" else (*self.space, self.channels)


class Part(ABC):
    """A module in the making."""

    def out(self, signal: Signal) -> Signal:
        """What comes out for this signal."""
        return signal

    @abstractmethod
    def build(self, signal: Signal) -> nn.Module:
        """The module for this signal."""


@dataclass(frozen=True)
class Linear(Part):
    width: int
    bias: bool = True

    def out(self, signal: Signal) -> Signal:
        return replace(signal, channels=self.width)

    def build(self, signal: Signal) -> nn.Module:
        return nn.Linear(signal.channels, self.width, bias=self.bias)


@dataclass(frozen=True)
class Conv(Part):
    width: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    padding: int | str = 0
    mode: str = "zeros"
    groups: int = 1
    bias: bool = True

    def out(self, signal: Signal) -> Signal:
        reach = self.dilation * (self.kernel - 1)
        around = reach if self.padding == "same" else 2 * int(self.padding)
        return Signal("image", self.width, tuple((size + around - reach - 1) // self.stride + 1 for size in signal.space))

    def build(self, signal: Signal) -> nn.Module:
        kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(signal.space)]
        options = {"padding_mode": self.mode, "groups": self.groups, "bias": self.bias}
        return kind(signal.channels, self.width, self.kernel, self.stride, self.padding, self.dilation, **options)


@dataclass(frozen=True)
class ConvTranspose(Part):
    width: int
    kernel: int = 2
    stride: int = 1
    dilation: int = 1
    padding: int = 0
    output_padding: int = 0
    groups: int = 1
    bias: bool = True

    def out(self, signal: Signal) -> Signal:
        more = self.dilation * (self.kernel - 1) + 1 + self.output_padding - 2 * self.padding
        return Signal("image", self.width, tuple((size - 1) * self.stride + more for size in signal.space))

    def build(self, signal: Signal) -> nn.Module:
        kind = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}[len(signal.space)]
        sizes = {"stride": self.stride, "padding": self.padding, "output_padding": self.output_padding}
        options = {"dilation": self.dilation, "groups": self.groups, "bias": self.bias}
        return kind(signal.channels, self.width, self.kernel, **sizes, **options)


@dataclass(frozen=True)
class Norm(Part):
    kind: Literal["batch", "layer", "rms", "group"]
    affine: bool = True
    groups: int = 1

    def build(self, signal: Signal) -> nn.Module:
        shape = signal.shape if signal.layout == "image" else (signal.channels,)
        if self.kind == "batch":
            kind = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[len(signal.space)]
            return kind(signal.channels, affine=self.affine)
        if self.kind == "group":
            return nn.GroupNorm(self.groups, signal.channels, affine=self.affine)
        return {"layer": nn.LayerNorm, "rms": nn.RMSNorm}[self.kind](shape, elementwise_affine=self.affine)


ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh, "gelu": nn.GELU, "sigmoid": nn.Sigmoid}


@dataclass(frozen=True)
class Activation(Part):
    kind: str
    inplace: bool = False

    def build(self, signal: Signal) -> nn.Module:
        return ACTIVATIONS[self.kind](inplace=True) if self.inplace else ACTIVATIONS[self.kind]()


@dataclass(frozen=True)
class Dropout(Part):
    p: float

    def build(self, signal: Signal) -> nn.Module:
        return nn.Dropout(self.p)


@dataclass(frozen=True)
class Pool(Part):
    kind: Literal["max", "mean"]

    def out(self, signal: Signal) -> Signal:
        return replace(signal, space=tuple(size // 2 for size in signal.space))

    def build(self, signal: Signal) -> nn.Module:
        dims = len(signal.space) - 1
        kinds = {"max": (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), "mean": (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)}
        return kinds[self.kind][dims](2)


@dataclass(frozen=True)
class ToSequence(Part):
    """Pixels become positions."""

    def out(self, signal: Signal) -> Signal:
        return Signal("sequence", signal.channels, (torch.Size(signal.space).numel(),))

    def build(self, signal: Signal) -> nn.Module:
        return Apply(lambda x: x.flatten(2).transpose(1, 2))


@dataclass(frozen=True)
class Attention(Part):
    heads: int
    bias: bool = True

    def build(self, signal: Signal) -> nn.Module:
        attention = nn.MultiheadAttention(signal.channels, self.heads, bias=self.bias, batch_first=True)
        return Apply(lambda x: attention(x, x, x, need_weights=False)[0], attention)


@dataclass(frozen=True)
class Recurrent(Part):
    kind: Literal["lstm", "gru"]
    width: int

    def out(self, signal: Signal) -> Signal:
        return replace(signal, channels=self.width)

    def build(self, signal: Signal) -> nn.Module:
        cell = {"lstm": nn.LSTM, "gru": nn.GRU}[self.kind](signal.channels, self.width, batch_first=True)
        return Apply(lambda x: cell(x)[0], cell)


class Apply(nn.Module):
    """A function that calls the modules it names."""

    def __init__(self, function, *modules: nn.Module) -> None:
        super().__init__()
        self.function, self.inner = function, nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)
