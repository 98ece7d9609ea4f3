"""One layer in training: its block, its averages, and its step, Algorithm 1 line by line."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lngd.capture import Calls, OnSample, RateSample, spread
from lngd.curvature import CurvatureBlock
from lngd.fisher import FisherType, MeanOver, fisher_weight
from lngd.layers import ConvLayer, Layer
from lngd.linalg import choose
from lngd.optimizer.add import add_step
from lngd.optimizer.directional import directional_curvature
from lngd.optimizer.loss_scale import LossScale
from lngd.optimizer.measurement import Measurement
from lngd.optimizer.momentum import Momentum
from lngd.optimizer.scale_invariance import norm_kept, observes
from lngd.stepsize import Move, State, StepSize
from lngd.types import Flag, GradientMatrix, Gradients, Scalar, joined

LEAST_ROWS = 4096
"""Rows, samples times positions, from which a sub-batch measures the curvature."""


@dataclass(frozen=True)
class Recipe:
    """What all layers of an optimizer share."""

    momentum: Momentum
    step_size: StepSize
    fisher: FisherType
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
    def measure(self, calls: Calls, forward_id: int, fisher: FisherType) -> None:
        """Measures the calls of one forward: further calls on the same samples are further positions."""
        self.pending.fisher = fisher
        by_size: defaultdict[int, Calls] = defaultdict(list)
        for x, g in calls:
            by_size[len(x)].append((x, g))
        for n, same in by_size.items():
            if n:
                with torch.autocast(same[0][0].device.type, enabled=False):
                    tokens = self._tokens(same)
                    for a, g in self._operands(self._sub_batch(same, n, tokens)):
                        self.pending.add(self.block.measure(a, g), n, tokens, forward_id)

    def _sub_batch(self, calls: Calls, n: int, positions: int) -> Calls:
        """A sub-batch of equal means: pixels and tokens make many rows of a sample."""
        wanted = self.recipe.curvature_samples
        if wanted is None:
            return calls
        chosen = spread(n, max(wanted, -(-LEAST_ROWS // max(1, positions))))
        return [(x[chosen], g[chosen]) for x, g in calls]

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

    def move(self, warmup: float, accept: Flag, samples: list[RateSample], scale: LossScale) -> Move:
        """Where to: M, d = F̂⁻¹M, dᵀFd (LNGD Algorithm 1, lines 11–12). A layer without F̂⁻¹ waits for it.

        Args:
            warmup: the share of lr that this step may use.
            accept: where false, no state changes.
            samples: what was caught for the rate.
            scale: what their gradients are multiplied with.
        """
        beta, recipe = self.groups[0]["momentum"], self.recipe
        accept = accept.to(self.layer.weight.device)
        gradient = choose(accept, self.layer.gradient(), 0.0)
        average = recipe.momentum.before(gradient, beta, self.state, accept)
        direction = self._direction(average)
        curvature = directional_curvature(self.layer, direction, samples, recipe.mean_over)
        if curvature is not None:
            curvature = curvature * scale.of_squares(curvature.device)
        lr = warmup * max(group["lr"] for group in self.groups)
        return Move(gradient, average, direction, curvature, accept, lr, self.state.get("summed"))

    def _direction(self, average: GradientMatrix) -> GradientMatrix:
        """d: steepest descent in the recipe's norm."""
        if not self.block.ready:
            return torch.zeros_like(average)
        return self.recipe.norm(self.block.precondition(average), average)

    def step(self, move: Move, warmup: float, common: Scalar | None, *, observe: bool) -> None:
        """How far: α_l, W ← W − lr·α_l·d (LNGD Algorithm 1, lines 13–16).

        Args:
            move: of this step.
            warmup: the share of lr that this step may use.
            common: the factor of all layers' rates.
            observe: whether to look if the layer is scale-invariant.
        """
        recipe, accept = self.recipe, move.accept
        rate = recipe.step_size.rate(move, self.state)
        if common is not None:
            rate = rate * common.to(rate.device)
        self.rate = torch.where(accept, rate, 0.0)
        steps = [
            (direction, -warmup * group["lr"] * rate)  # lr belongs inside ζ, so that momentum keeps the rate of its time
            for direction, group in zip(self.layer.split(move.direction), self.groups, strict=True)
        ]
        steps = recipe.momentum.after(steps, self.groups[0]["momentum"], self.state, accept)
        with norm_kept(self.layer, move, self.state, observe=observe) if recipe.keep_norms else nullcontext():
            for p, step, group in zip(self.layer.parameters, steps, self.groups, strict=True):
                add_step(p, step, accept, shrink=group["lr"] * group["weight_decay"])


def deliver_to(states: dict[str, LayerState]) -> OnSample:
    """Where a source delivers. It holds the layers and not their optimizer, which is then freed without the garbage collector."""

    def deliver(name: str, calls: Calls, forward_id: int, fisher: FisherType) -> None:
        states[name].measure(calls, forward_id, fisher)

    return deliver


@torch.no_grad()
def step_layers(
    states: dict[str, LayerState],
    *,
    number: int,
    warmup: float,
    accept: Flag,
    rates: dict[str, list[RateSample]],
    scale: LossScale,
) -> None:
    """Steps every layer, one after the other; a joint step size sees all directions first. `number`: of the step, from 0."""
    if not states:
        return
    step_size = next(iter(states.values())).recipe.step_size
    moves: Iterable[Move] = (state.move(warmup, accept, rates.get(name, []), scale) for name, state in states.items())
    if step_size.joint:
        moves = list(moves)
    observe = observes(number)
    common = step_size.common(moves) if isinstance(moves, list) else None
    for state, move in zip(states.values(), moves, strict=True):
        state.step(move, warmup, common, observe=observe)


def as_double(t: Tensor) -> Tensor:
    """Floating-point numbers in float64, others as they are."""
    return t.double() if t.is_floating_point() else t
