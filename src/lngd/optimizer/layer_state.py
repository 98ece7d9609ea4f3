"""One layer in training: its block, its averages, and its step, Algorithm 1 line by line."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lngd.capture import Calls, OnSample, RateSample
from lngd.curvature import CurvatureBlock
from lngd.fisher import FisherType, MeanOver, fisher_weight
from lngd.layers import Layer
from lngd.linalg import inner, largest_magnitude
from lngd.optimizer.directional import directional_curvature
from lngd.optimizer.loss_scale import LossScale
from lngd.optimizer.momentum import Momentum, running_mean
from lngd.stepsize import Move, State, StepSize
from lngd.types import Flag, GradientMatrix, Scalar, joined

INVARIANCE_DECAY = 0.9
INVARIANCE_THRESHOLD = 0.1
"""A layer is scale-invariant if the running mean of |cos(W, ∇)|·√dim is below this. For unrelated W and ∇ that mean is about 0.8
at any width; in front of a normalisation it is rounding error (`tests/optimizer/test_scale_invariance.py`)."""
INVARIANCE_STEPS = 10
"""How many steps have to agree before a norm is kept."""


@dataclass(frozen=True)
class Recipe:
    """What all layers of an optimizer share."""

    momentum: Momentum
    step_size: StepSize
    fisher: FisherType
    mean_over: MeanOver
    keep_norms: bool


@dataclass
class Measurement:
    """What the forwards since the last step have measured, a mean over their samples."""

    means: tuple[Tensor, ...] = ()
    samples: int = 0
    positions: int = 0
    largest: int = 0
    forward_id: int = -1
    fisher: FisherType | None = None
    """Where g came from, which is not always the optimizer's own Fisher type; None as long as there is none."""

    def add(self, measured: tuple[Tensor, ...], n: int, positions: int, forward_id: int) -> None:
        """Adds a mean over n samples. A second call in the same forward adds to the same samples, as further positions would."""
        if forward_id != self.forward_id:
            self.forward_id, self.largest, self.positions = forward_id, 0, 0
        before, self.samples = self.samples, self.samples + max(0, n - self.largest)
        self.largest, self.positions = max(self.largest, n), max(self.positions, positions)
        share, new = before / self.samples, n / self.samples
        self.means = tuple(m * share + x * new for m, x in zip(self.means, measured, strict=True)) if self.means else measured


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
                    a = joined([self.layer.activations(x) for x, _ in same])
                    g = joined([self.layer.gradients(g) for _, g in same])
                    self.pending.add(self.block.measure(a, g), n, self._tokens(same), forward_id)

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
        gradient = torch.where(accept, self.layer.gradient(), 0.0)
        average = recipe.momentum.before(gradient, beta, self.state, accept)
        direction = self.block.precondition(average) if self.block.ready else torch.zeros_like(average)
        curvature = directional_curvature(self.layer, direction, samples, recipe.mean_over)
        if curvature is not None:
            curvature = curvature * scale.of_squares(curvature.device)
        lr = warmup * max(group["lr"] for group in self.groups)
        return Move(gradient, average, direction, curvature, accept, lr, self.state.get("summed"))

    def step(self, move: Move, warmup: float, common: Scalar | None) -> None:
        """How far: α_l, W ← W − lr·α_l·d (LNGD Algorithm 1, lines 13–16).

        Args:
            move: of this step.
            warmup: the share of lr that this step may use.
            common: the factor of all layers' rates.
        """
        beta, recipe, accept = self.groups[0]["momentum"], self.recipe, move.accept
        rate = recipe.step_size.rate(move, self.state)
        if common is not None:
            rate = rate * common.to(rate.device)
        self.rate = torch.where(accept, rate, 0.0)
        update = recipe.momentum.after(-warmup * rate * self._scaled_by_lr(move.direction), beta, self.state, accept)
        self._apply(update, move.gradient, accept)

    def _scaled_by_lr(self, direction: GradientMatrix) -> GradientMatrix:
        """lr·d. Weight and bias may have rates of their own; lr belongs inside ζ, so that momentum keeps the rate of its time."""
        lr, *bias = [group["lr"] for group in self.groups]
        if not bias or bias[0] == lr:
            return lr * direction
        return torch.cat([lr * direction[..., :-1], bias[0] * direction[..., -1:]], dim=-1)

    def _apply(self, update: GradientMatrix, gradient: GradientMatrix, accept: Flag) -> None:
        weight = self.layer.weight
        norm = weight.norm() if self.recipe.keep_norms else None
        invariant = None if norm is None else self._scale_invariant(gradient, norm, accept)
        for p, delta, group in zip(self.layer.parameters, self.layer.split(update), self.groups, strict=True):
            shrink = group["lr"] * group["weight_decay"]
            possible = accept & stays_finite(p, delta, shrink)
            if shrink:
                p.mul_(1 - possible.to(self.layer.dtype) * shrink)
            p.add_(torch.where(possible, delta, 0.0).to(p.dtype))
        if norm is not None and invariant is not None:
            ratio = norm / weight.norm()
            weight.mul_(torch.where(invariant & accept & ratio.isfinite() & (ratio > 0), ratio, 1.0))

    def _scale_invariant(self, gradient: GradientMatrix, norm: Tensor, accept: Flag) -> Flag:
        """Whether the loss does not depend on the weight's norm: ∇ stays orthogonal to W.

        A step orthogonal to W can only lengthen it, and a natural-gradient step is as long as W is: left alone, norms grow
        geometrically until they overflow, while the function looks healthy.
        """
        weight, grad = self.layer.weight, self.layer.split(gradient)[0]
        cosine = inner(weight.to(grad.dtype), grad).abs() / (norm.to(grad.dtype) * grad.norm())
        seen = self.state.get("invariance_steps", torch.zeros_like(cosine))
        self.state["invariance_steps"] = seen + (accept & cosine.isfinite())
        mean = running_mean(self.state, "alignment", cosine * weight.numel() ** 0.5, decay=INVARIANCE_DECAY, accept=accept)
        return (mean < INVARIANCE_THRESHOLD) & (seen >= INVARIANCE_STEPS)


def deliver_to(states: dict[str, LayerState]) -> OnSample:
    """Where a source delivers. It holds the layers and not their optimizer, which is then freed without the garbage collector."""

    def deliver(name: str, calls: Calls, forward_id: int, fisher: FisherType) -> None:
        states[name].measure(calls, forward_id, fisher)

    return deliver


@torch.no_grad()
def step_layers(
    states: dict[str, LayerState], warmup: float, accept: Flag, rates: dict[str, list[RateSample]], scale: LossScale
) -> None:
    """Steps every layer, one after the other; a joint step size sees all directions first."""
    if not states:
        return
    step_size = next(iter(states.values())).recipe.step_size
    moves: Iterable[Move] = (state.move(warmup, accept, rates.get(name, []), scale) for name, state in states.items())
    if step_size.joint:
        moves = list(moves)
    common = step_size.common(moves) if isinstance(moves, list) else None
    for state, move in zip(states.values(), moves, strict=True):
        state.step(move, warmup, common)


def as_double(t: Tensor) -> Tensor:
    """Floating-point numbers in float64, others as they are."""
    return t.double() if t.is_floating_point() else t


def stays_finite(p: Tensor, delta: Tensor, shrink: float) -> Flag:
    """Whether (1 − shrink) p + delta has room in p's dtype; a direction of finite numbers may be too long for it."""
    before, step = largest_magnitude([p, delta])
    return abs(1 - shrink) * before.to(step.dtype) + step < torch.finfo(p.dtype).max / 2
