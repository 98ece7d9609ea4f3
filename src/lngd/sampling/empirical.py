"""fisher="empirical": g as the user's own backward pass brings it, with the labels of the data."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from lngd.sampling.fisher_type import FisherType
from lngd.sampling.source import Call, OnSample, Source


@dataclass(frozen=True)
class Empirical:
    """g = −∇ₛ log p(y|x) with the labels y of the data. It costs nothing, and vanishes as the data are fitted."""

    type: ClassVar[FisherType] = FisherType.EMPIRICAL

    def source(self, deliver: OnSample, generator: torch.Generator) -> "EmpiricalSource":
        """What samples a model's layers in this way."""
        return EmpiricalSource(deliver)


class EmpiricalSource(Source):
    """What several backward passes bring adds up until the step."""

    fisher = FisherType.EMPIRICAL

    def opened(self, call: Call, edge: GradientEdge) -> None:
        """Waits for the gradient of this call."""
        super().opened(call, edge)
        self.open.clear()

    def kept(self, call: Call, gradient: Tensor) -> Tensor:
        """The gradient itself is g."""
        return call.taken(gradient).clone()

    def arrived(self, call: Call, gradient: Tensor | None) -> None:
        """Adds the gradient of one more backward pass."""
        if gradient is None or not self.awaits(call):
            return
        call.g = call.g + gradient if call.g is not None and call.era == self._era else gradient
        super().arrived(call, gradient)

    def complete(self, call: Call) -> bool:
        """Nor may another backward pass come: such a call is handed on at the step."""
        return super().complete(call) and call.final and not call.rerun
