"""A capture without an optimizer: what it hands on is kept, to be looked at."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch._dynamo  # as any torch.optim.Optimizer does: when it is first imported, it keeps the callers' frames for a while
from torch import Tensor, nn

from lngd import FisherType
from lngd.capture import Capture
from lngd.layers import Layer, adapter_of
from lngd.sampling import Fisher, as_fisher


class Handed(NamedTuple):
    """What one call of `deliver` brought."""

    name: str
    x: list[Tensor]
    g: list[Tensor]
    batch: int
    forward_id: int
    fisher: FisherType


def layers_of(model: nn.Module) -> dict[str, Layer]:
    """Every layer with an adapter and parameters of its own, by name."""
    found = {}
    for name, module in model.named_modules():
        adapter = adapter_of(module)
        if adapter is not None and any(p.requires_grad for p in module.parameters(recurse=False)):
            found[name] = adapter(module, with_bias=getattr(module, "bias", None) is not None)
    return found


class Recorded:
    """Watches a model."""

    def __init__(self, model: nn.Module, fisher: Fisher | FisherType | str, rate_samples: int | None = None, **options) -> None:
        self.handed: list[Handed] = []
        source = as_fisher(fisher).source(self.keep, torch.Generator().manual_seed(5))
        self.capture = Capture(model, layers_of(model), source, rate_samples, **options)
        self.capture.attach()

    def keep(
        self, name: str, calls: list[tuple[Tensor, Tensor]], batch: int, forward_id: int, fisher: FisherType
    ) -> Callable[[], None]:
        handed = Handed(name, [x.clone() for x, _ in calls], [g.clone() for _, g in calls], batch, forward_id, fisher)
        return partial(self.handed.append, handed)

    def zero_grad(self) -> None:
        """As an optimizer does: whoever has received measurements drops them."""
        self.handed.clear()
        self.capture.forget_arrived()

    def step(self) -> list[Handed]:
        """What was handed on since the last step, layer by layer and forward by forward."""
        self.capture.source.finished(None)
        handed, self.handed = sorted(self.handed, key=lambda each: (each.name, each.forward_id)), []
        self.capture.reset()
        return handed

    def names(self) -> list[str]:
        """Of the layers that were measured until this step, each as often as it was."""
        return [each.name for each in self.step()]


def same(one: list[Handed], two: list[Handed]) -> bool:
    """Bit for bit, the numbers of the forwards aside."""
    return len(one) == len(two) and all(
        (a.name, a.batch, a.fisher) == (b.name, b.batch, b.fisher)
        and len(a.x) == len(b.x)
        and all(torch.equal(s, t) for s, t in zip((*a.x, *a.g), (*b.x, *b.g), strict=True))
        for a, b in zip(one, two, strict=True)
    )
