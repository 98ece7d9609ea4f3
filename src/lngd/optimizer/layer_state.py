"""One layer in training: its block, what is measured for it, and where it wants to go."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lngd.capture import RateSample
from lngd.curvature import CurvatureBlock
from lngd.layers import ConvLayer, Layer
from lngd.optimizer.directional import directional_curvature
from lngd.optimizer.loss_scale import LossScale
from lngd.optimizer.measurement import Measurement
from lngd.optimizer.momentum import Momentum
from lngd.sampling import Calls, Fisher, FisherType, MeanOver, OnSample, fisher_weight
from lngd.stepsize import State, StepSize
from lngd.types import GradientMatrix, Gradients, Scalar, joined


@dataclass(frozen=True)
class Recipe:
    """What all layers of an optimizer share."""

    momentum: Momentum
    step_size: StepSize
    fisher: Fisher
    mean_over: MeanOver
    keep_norms: bool
    norm: Callable[[GradientMatrix, GradientMatrix], GradientMatrix]
    """From P = F̂⁻¹M and M to the direction of steepest descent, `NORMS`."""
    curvature_samples: int | None
    """Samples of a batch that are measured, if they make LEAST_ROWS rows; None for all."""


@dataclass
class LayerState:
    """A layer with its curvature. `state` holds every tensor that is neither statistic nor inverse, by name."""

    layer: Layer
    block: CurvatureBlock
    recipe: Recipe
    groups: list[dict[str, Any]] = field(default_factory=list)
    """The parameter group of each parameter, weight first."""
    state: State = field(default_factory=dict)
    pending: Measurement = field(default_factory=Measurement)
    rate: Tensor | None = None

    def __post_init__(self) -> None:
        self.block.shape = self.layer.outputs, self.layer.inputs

    def has_gradient(self) -> bool:
        """Whether there is anything to do."""
        return any(p.grad is not None for p in self.layer.parameters)

    @torch.no_grad()
    def measure(self, calls: Calls, batch: int, forward_id: int, fisher: FisherType) -> None:
        """Measures the calls of one forward on the same samples: further calls are further positions."""
        self.pending.fisher = fisher
        with torch.autocast(calls[0][0].device.type, enabled=False):
            tokens = self._tokens(calls)
            for a, g in self._operands(calls):
                self.pending.add(self.block.measure(a, g), batch, tokens, forward_id)

    def _operands(self, calls: Calls) -> Iterator[tuple[Any, Gradients]]:
        """What the block measures: all calls as one, or each call's patches."""
        layer = self.layer
        if self.block.takes_patches and isinstance(layer, ConvLayer):
            yield from ((layer.patches(x), layer.gradients(g)) for x, g in calls)
        else:
            yield joined([layer.activations(x) for x, _ in calls]), joined([layer.gradients(g) for _, g in calls])

    def _tokens(self, calls: Calls) -> int:
        """Positions of a call."""
        return max(g[0].numel() for _, g in calls) // (self.layer.outputs * self.layer.groups)

    def promote(self) -> None:
        """Keeps everything of this layer in float64 from now on: squares of its inputs or gradients overflow float32."""
        self.layer.least_dtype = torch.float64
        self.block.load(self.block.updates, {k: as_double(t) for k, t in self.block.tensors().items()})
        self.state = {k: as_double(t) for k, t in self.state.items()}

    def take_measurement(self, scale: LossScale) -> None:
        """Moves the pending measurement into the averages, at the Fisher matrix's scale."""
        pending = self.pending
        if pending.samples:
            fisher, mean_over = pending.fisher, self.recipe.mean_over
            assert fisher is not None
            weight: float | Tensor = fisher_weight(fisher, mean_over, batch=pending.samples, positions=pending.positions)
            if fisher is FisherType.EMPIRICAL:
                weight = weight * scale.of_squares(pending.means[0].device)
            self.block.update(self.block.weighted(pending.means, weight), self.groups[0]["decay"])
            if mean_over == "none":
                self.state["summed"] = torch.tensor(float(pending.samples), device=self.layer.weight.device)

    def direction(self, average: GradientMatrix) -> GradientMatrix:
        """d: steepest descent in the recipe's norm, from P = F̂⁻¹M. A layer without F̂⁻¹ waits for it."""
        if not self.block.ready:
            return torch.zeros_like(average)
        return self.recipe.norm(self.block.precondition(average), average)

    def curvature(self, direction: GradientMatrix, samples: list[RateSample]) -> Scalar | None:
        """dᵀFd, from what was caught for the rate (LNGD eq. 13); None if nothing was."""
        return directional_curvature(self.layer, direction, samples, self.recipe.mean_over)


def deliver_to(states: dict[str, LayerState]) -> OnSample:
    """Where a source delivers. It holds the layers and not their optimizer, which is then freed without the garbage collector."""

    def deliver(name: str, calls: Calls, batch: int, forward_id: int, fisher: FisherType) -> None:
        if name in states:
            states[name].measure(calls, batch, forward_id, fisher)

    return deliver


def as_double(t: Tensor) -> Tensor:
    """Floating-point numbers in float64, others as they are."""
    return t.double() if t.is_floating_point() else t
