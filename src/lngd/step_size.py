"""How far along a direction: a step size turns the directions of some layers into their α_l.

What a step size remembers of a layer is a number, kept in a vector that has an entry for each layer, or a tensor shaped like each
parameter. Both stand in `optimizer.state`. Where `accept` is false the step is being skipped and no memory may change.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from lngd.capture import RateSample
from lngd.layers import Layer, LinearLayer
from lngd.linalg import inner_of_each, squared_norms
from lngd.ranges import check
from lngd.sampling import FisherType, MeanOver, curvature_along, fisher_weight
from lngd.torch_private import foreach_add, foreach_div, foreach_lerp_, foreach_mul, foreach_norm, foreach_sqrt
from lngd.types import Flag, GradientMatrices, GradientMatrix, Scalar, Vector

TOKENS_FOR = 4
"""Samples that the tokens of one sequence stand for."""
TOKENS_OF = 8
"""Tokens of all those sequences that stand for a sample where dᵀFd of a linear layer is measured."""
OF_LATE = 0.99
"""How much of the largest ‖g‖ is left after a step."""
REMEMBERED = 1e3
"""How much larger than now a gradient, or a curvature, is remembered: one that exploded once would stop its layer for good."""
WIDEST = 8.0
"""The largest w/i of `FixedRMS`: without it a layer of four inputs, as LoRA's, moves six times as far an entry as one of 128."""
OVER_ROWS = "over_rows"
"""The name of what is kept of a sharded layer: dᵀFd over the sum, over its processes, of that along the rows of each."""
LEAST_NORM = 0.1
"""Of a weight, or an output, over what it would be at unit gain: one that is shorter counts as that long."""
Parts: TypeAlias = Sequence[Sequence[Tensor]]
"""Tensors shaped like the parameters of some layers: of all weights, then of all biases."""


@dataclass
class Averages:
    """M of some layers: what is preconditioned, the gradient itself or its moving average."""

    gradients: Parts
    """∇ of this batch, by parameter."""
    parts: Parts
    """M by parameter."""
    matrices: GradientMatrices
    """M of each layer as the matrix that multiplies the activations."""
    vectors: GradientMatrices
    """The same, flat."""
    stacked: GradientMatrices = field(default_factory=list)
    """The same of each stack of layers."""


@dataclass
class Steps:
    """d of some layers."""

    matrices: GradientMatrices
    parts: Parts
    """By parameter."""
    stacked: GradientMatrices
    """Of each stack of layers; empty where layers stand alone."""


@dataclass
class Directions:
    """What is known of some layers of one device and dtype when their steps are sized; a vector has an entry for each.

    Formulas are written for one layer and read the same for all: what they cost in calls does not grow with the number of layers.
    """

    layers: Sequence[Layer]
    averages: Averages
    """M."""
    directions: GradientMatrices
    """d = F̂⁻¹M."""
    samples: Sequence[Sequence[RateSample]]
    """Of each layer, what was caught in the backward pass."""
    memory: Mapping[str, Vector]
    """What the step size keeps, by name; changed in place."""
    tensors: Mapping[str, Parts]
    """What it keeps of the parameters' shapes, by name; changed in place."""
    accept: Flag
    squared_scale: Scalar | None
    """What a square of the samples' gradients has to be multiplied with; None for 1."""
    mean_over: MeanOver
    lr: float | Tensor
    """What α_l is multiplied with: the larger lr of weight and bias, and the share that the warm-up leaves of it."""
    parts: Parts = ()
    """d by parameter."""
    stacked: GradientMatrices = field(default_factory=list)
    """d of each stack of layers; empty where layers stand alone."""
    summed: Vector | None = None
    """How many samples the loss is a sum over; None for a mean."""
    weights: Sequence[Tensor] = ()
    alike: Vector | float = 1.0
    """√o: how long a weight is whose outputs are as large as its inputs."""
    measured: bool = True
    """Whether this step measures the curvature, and with it what changes slowly."""
    curved: bool = True
    """Whether dᵀFd is measured along whole directions: not at every step where this process has some rows of d."""
    matrices: GradientMatrices | None = None
    """Of each layer the weight and the bias as a matrix; None where its parameters are whole."""
    tokens: int | None = None
    """How many tokens measure dᵀFd of a linear layer; None for all."""
    across: Callable[[Tensor], Tensor] | None = None
    """Sums over the processes that hold the rows of these layers; None where this one holds all."""

    def summed_up(self, numbers: Tensor) -> Tensor:
        """Numbers of the rows here as those of all rows."""
        return numbers if self.across is None else self.across(numbers)

    def norms_of(self, tensors: Sequence[Tensor]) -> Vector:
        """Of tensors of which this process holds some rows, one of each layer."""
        norms = torch.stack(foreach_norm(list(tensors)))
        return norms if self.across is None else self.across(norms.double().square()).sqrt().to(norms.dtype)

    def of_whole_layers(self, directions: GradientMatrices, weights: GradientMatrices) -> "Directions":
        """The same of layers of which this process holds some rows, with all rows; `weights` with their biases."""
        return replace(self, directions=directions, matrices=weights, across=None)

    def of_rows(self, directions: GradientMatrices) -> "Directions":
        """The same with zeros for the rows that this process does not hold."""
        return replace(self, directions=directions, across=None, measured=False)

    @cached_property
    def seen(self) -> bool:
        """Whether a sample of any layer was caught."""
        return any(self.samples)

    def numbers(self) -> Tensor:
        """What the samples of this process say of each layer, `[4, layers]`, under the scale that they have.

        How many of a batch, or of its tokens, they stand for, and times that ‖g‖², ‖s‖² (at a step that measures the
        curvature, else zero) and dᵀFd.
        """
        device = self.directions[0].device
        exact = torch.float32 if device.type == "mps" else torch.float64
        each = zip(self.samples, self.layers, strict=True)
        counts = torch.tensor([weight_of(own, layer, self.mean_over) for own, layer in each], dtype=exact, device=device)
        squares = self._scaled_norm.to(exact).square()
        outputs = self.output_norm.to(exact).square() if self.measured else torch.zeros_like(squares)
        curvature = self.cosines.to(exact) * squares * self.length.to(exact).square()
        found = torch.stack([squares, outputs, curvature])
        return torch.cat([counts.unsqueeze(0), torch.where(counts > 0, counts * found, 0.0)])

    def take(self, numbers: Tensor) -> None:
        """Takes what the samples of all processes say, summed, for what those of this process say.

        Of sharded layers, `[5, layers]`, there is dᵀFd along whole directions, at steps that gather these, and what is known at
        every step: the sum over processes of that along each one's rows. Their ratio holds until the next such step.
        """
        (counts, *sums), dtype = numbers, self.directions[0].dtype
        squares, outputs, curvature, *rows = (total / counts for total in sums)  # NaN where nobody has a sample
        if rows:
            ratio = self.memory[OVER_ROWS]  # 0 where nothing is known
            if self.curved:
                keep(ratio, (curvature / rows[0]).to(ratio.dtype), self.accept)
            else:
                curvature = torch.where(ratio > 0, ratio * rows[0], math.nan)
        scale = 1.0 if self.squared_scale is None else self.squared_scale
        known = {"_scaled_norm": squares.sqrt(), "dFd": curvature * scale, "output_norm": outputs.sqrt()}
        known["cosines"] = curvature / (squares * self.length.to(squares.dtype).square())
        vars(self).update({name: value.to(dtype) for name, value in known.items()}, seen=True)

    @cached_property
    def slope(self) -> Vector:
        """⟨d, M⟩."""
        if self.stacked:
            own = zip(self.stacked, self.averages.stacked, self._counts, strict=True)
            return torch.cat([inner_of_each(d.reshape(count, -1), m.reshape(count, -1)) for d, m, count in own])
        pairs = zip(self.directions, self.averages.vectors, strict=True)
        return self.summed_up(torch.stack([torch.dot(d.reshape(-1), m) for d, m in pairs]))

    @cached_property
    def length(self) -> Vector:
        """‖d‖."""
        return self.norms_of(self.directions)

    @cached_property
    def weight_norms(self) -> Vector:
        """‖W‖, without the bias."""
        return self.norms_of(self.weights).to(self.directions[0].dtype)

    @cached_property
    def dFd(self) -> Vector | None:
        """dᵀFd (LNGD eq. 13); NaN for a layer of which no sample was caught, None if none was of any."""
        if not self.seen:
            return None
        curvature = self._curvature()
        return curvature if self.squared_scale is None else curvature * self.squared_scale

    @property
    def gradient_norm(self) -> Vector:
        """‖g‖, root mean square over samples, g the loss's gradient at the layer's output; scaled as in dᵀFd, NaN as there."""
        return self._scaled_norm if self.squared_scale is None else self._scaled_norm * self.squared_scale.sqrt()

    @cached_property
    def output_norm(self) -> Vector:
        """‖s‖, root mean square over the samples, s the layer's output; NaN as for dᵀFd."""
        matrices = self.matrices or [layer.matrix([p.detach() for p in layer.parameters]) for layer in self.layers]
        return self._of_each(map(partial(output_norm, mean_over=self.mean_over), self.layers, self.samples, matrices))

    @cached_property
    def cosines(self) -> Vector:
        """dᵀFd / (‖d‖² ‖g‖²), made without the fourth power of the loss's scale, which has no room in float32."""
        return self._curvature(self._scaled_norm * self.length)

    def _curvature(self, scale: Vector | None = None) -> Vector:
        """(1/N) Σₙ ⟨d, ∇⁽ⁿ⟩² under the scale that the samples have; ⟨d, ∇⁽ⁿ⟩ is divided by `scale` before it is squared."""
        if self._usual is not None:
            slopes = self._slopes if scale is None else self._slopes / scale.unsqueeze(1)
            return slopes.square().mean(1) * self._usual[1]
        scales = [None] * len(self.layers) if scale is None else scale.unbind()
        each = zip(self.layers, self.directions, self.samples, scales, strict=True)
        return self._of_each(
            directional_curvature(layer, d, samples, self.mean_over, own, tokens=self.tokens) for layer, d, samples, own in each
        )

    @cached_property
    def _scaled_norm(self) -> Vector:
        """‖g‖ under the scale that the samples have."""
        if self._usual is None:
            return self._of_each(map(partial(gradient_norm, mean_over=self.mean_over), self.layers, self.samples))
        count, weight = self._usual
        norms = torch.stack(foreach_norm([sample.g for (sample,) in self.samples])).to(self.directions[0].dtype)
        return norms * (weight / count) ** 0.5

    @cached_property
    def _usual(self) -> tuple[int, float] | None:
        """In the usual case, of each layer one call on the same samples: how many, and what makes F of the mean square of their
        slopes. None otherwise."""
        sizes = {(len(samples), samples[0].batch, len(samples[0].g)) if samples else (0, 0, 0) for samples in self.samples}
        if self.mean_over == "token" or len(sizes) > 1 or (size := next(iter(sizes)))[0] != 1:
            return None
        return size[2], fisher_weight(FisherType.EMPIRICAL, self.mean_over, batch=size[1], positions=1)

    @cached_property
    def _slopes(self) -> Tensor:
        """⟨d, ·⟩ of the samples' gradients, in the usual case; `[layers, samples]`."""
        slopes, each, place = [], list(zip(self.layers, self.directions, self.samples, strict=True)), 0
        for d, count in zip(self.stacked or self.directions, self._counts, strict=True):
            own = each[place : place + count]
            place += count
            samples = [sample for _, _, (sample,) in own]
            if count > 1 and isinstance(own[0][0], LinearLayer) and all(sample.x.dim() == 2 for sample in samples):
                together = own[0][0].outputs_of_each(torch.stack([sample.x for sample in samples]), d)
                slopes.append((together * torch.stack([sample.g for sample in samples])).sum(2))
                continue
            for layer, direction, (sample,) in own:
                products = layer.output(sample.x, direction) * sample.g
                slopes.append((products.sum(1) if products.dim() == 2 else products.flatten(1).sum(1)).unsqueeze(0))
        return torch.cat(slopes)

    @cached_property
    def _counts(self) -> list[int]:
        """How many layers each stack has."""
        found: list[int] = []
        for d in self.stacked or self.directions:
            found.append(len(d) if d.dim() > self.directions[sum(found)].dim() else 1)
        return found

    def _of_each(self, values: Iterable[Scalar | None]) -> Vector:
        """What was found of each layer, NaN where nothing was."""
        unknown = self.directions[0].new_full((), math.nan)
        return torch.stack([unknown if value is None else value.to(unknown.dtype) for value in values])


class StepSize(ABC):
    """α_l of each layer."""

    samples: int | None = 0
    """Samples of a batch that it wants to see the gradients of; None for all."""
    lr_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    """Between which an lr is of this step size's kind: outside it is a warning."""
    lr_is: ClassVar[str] = "a factor on the step"
    """What it multiplies."""
    of_scale: ClassVar[bool] = True
    """Whether the run depends on the scale of the loss, so that a sum has to be told from a mean."""
    joint: ClassVar[bool] = False
    """Whether `common` has a factor."""
    memory: ClassVar[tuple[str, ...]] = ()
    """Numbers of each layer that it keeps."""
    tensors: ClassVar[tuple[str, ...]] = ()
    """Tensors of each parameter's shape that it keeps."""

    def __post_init__(self) -> None:
        check(vars(self))

    @abstractmethod
    def alpha(self, step: Directions) -> Vector:
        """α_l ≥ 0; 0 where it would not be finite."""

    def common(self, steps: Sequence[Directions]) -> Scalar | None:
        """A factor on every α_l that depends on all layers together, if `joint`; None for 1."""
        return None

    def sequences(self) -> int | None:
        """How many sequences do for `samples`, if each token is one."""
        return self.samples and math.ceil(self.samples / TOKENS_FOR)

    def tokens(self) -> int | None:
        """How many of their tokens measure dᵀFd of a linear layer; None for all."""
        return self.samples and TOKENS_OF * self.samples


@dataclass(frozen=True)
class Constant(StepSize):
    """α_l = 1: lr alone decides (LNGD-sample, the ablation of the paper's Table 5)."""

    def alpha(self, step: Directions) -> Vector:
        return step.directions[0].new_ones(len(step.directions))


@dataclass(frozen=True)
class LayerwiseRate(StepSize):
    """α_l = ⟨d,∇⟩ / (dᵀFd + µ), the exact minimiser of the layer's quadratic model (LNGD eq. 12); lr = 1 is a Newton step.

    Written with the dimensionless curvature κ = dᵀFd / ⟨d,∇⟩ as α_l = 1 / (κ̄ + µ/⟨d,∇⟩). The empirical Fisher vanishes
    on samples that are fitted, so the raw rate explodes; κ̄ rises at once and falls slowly: κ̄ ← max(κ, βκ̄ + (1−β)κ).

    Args:
        mu: µ, 0 or more.
        smoothing: β in [0, 1); 0 is eq. 12 as printed.
        samples: how many of a batch measure dᵀFd; with `mean_over="token"` a quarter as many sequences, and of a linear layer
            eight times as many of their tokens; None for all.
    """

    memory: ClassVar[tuple[str, ...]] = ("kappa", OVER_ROWS)
    lr_range: ClassVar[tuple[float, float]] = (4e-3, 10.0)
    lr_is: ClassVar[str] = "a share of each layer's Newton step"
    mu: float = 1e-8
    smoothing: float = 0.9
    samples: int | None = 16

    def alpha(self, step: Directions) -> Vector:
        slope = step.slope  # ⟨d,∇⟩ > 0: F̂ is positive definite
        kappa = step.memory["kappa"]  # 0 for a layer whose κ has never been seen
        if step.dFd is not None:
            new = step.dFd / slope
            keep(kappa, torch.maximum(new, torch.lerp(new, kappa, self.smoothing)), step.accept)
        alpha = (kappa + self.mu / slope).reciprocal()
        return torch.where(alpha.isfinite() & (kappa > 0), alpha, 0.0)


@dataclass(frozen=True)
class InvariantRate(StepSize):
    """α_l = 1/κ̄ as in eq. 12, but the same run for every scale of the loss, and no step that leaves a layer's own size.

    dᵀFd goes with the square of a factor on the loss, a curvature with the factor itself: eq. 12 is right for a mean
    log-likelihood and no other loss. Here the loss is quadratic in the layer's output s, and its gradient g there vanishes
    once s has moved by its own length. So F, whose g gᵀ has ‖g‖² where this curvature has ‖g‖/‖s‖, is rescaled:
    κ = (‖g‖/‖s‖) / ‖g‖² · dᵀFd / ⟨d,∇⟩, with the largest ‖g‖ of late in the ratio, so that steps end where gradients do. One that
    exploded once is remembered as a thousand of today's.
    In addition α_l‖d‖ is at most `max_move` of ‖W‖.

    Args:
        smoothing: β in [0, 1) of κ̄ ← max(κ, βκ̄ + (1−β)κ).
        max_move: the largest α_l‖d‖ in units of ‖W‖, so that a step moves by lr · max_move of it at most. For a weight longer
            than √o, the length at which inputs and outputs are alike, of √(‖W‖ √o); for one below a tenth of √o, of that.
        samples: as of `LayerwiseRate`.
    """

    memory: ClassVar[tuple[str, ...]] = ("kappa", "gradient_norm", "output_norm", OVER_ROWS)
    lr_range: ClassVar[tuple[float, float]] = (4e-3, 4.0)
    lr_is: ClassVar[str] = "a share of each layer's Newton step"
    of_scale: ClassVar[bool] = False
    smoothing: float = 0.9
    max_move: float = 0.2
    samples: int | None = 16

    def alpha(self, step: Directions) -> Vector:
        kappa, largest, output = step.memory["kappa"], step.memory["gradient_norm"], step.memory["output_norm"]
        if step.seen:
            if step.measured:
                keep(output, step.output_norm, step.accept)
            g = step.gradient_norm
            keep(largest, torch.maximum(g, remembered(OF_LATE * largest, g)), step.accept)
            now = g / output * step.length * step.cosines / (step.slope / step.length)
            new = largest / g * now
            keep(kappa, torch.maximum(new, remembered(torch.lerp(new, kappa, self.smoothing), now)), step.accept)
        alpha = torch.minimum(kappa.reciprocal(), self._longest(step) / step.length)
        return torch.where(alpha.isfinite() & (kappa > 0), alpha, 0.0)

    def _longest(self, step: Directions) -> Vector:
        """The longest α_l d."""
        norms = (step.weight_norms / step.alike).clamp(min=LEAST_NORM)
        return self.max_move * torch.minimum(norms, norms.sqrt()) * step.alike


@dataclass(frozen=True)
class FixedRMS(StepSize):
    """α_l = ρ √(w/i) / RMS(d): every layer moves by lr·ρ·√(w/i) an entry, root mean square, i its inputs.

    With ρ = 0.2 lr is an Adam rate for a layer of `base_width` inputs (Liu et al. 2025). A weight's own entries go with
    1/√i: without that factor a wide layer moves by more of itself than a narrow one, and each width wants an lr of its own
    (Yang et al. 2021, Bernstein & Newhouse 2024). Of an embedding i is w: it has one input at a time. Fewer inputs than w/8
    count as w/8.

    Args:
        rms: ρ.
        base_width: w, 1 or more; None for a factor of 1.
    """

    lr_range: ClassVar[tuple[float, float]] = (1.2e-3, 0.2)  # AdamW's customary 1e-3 is below
    lr_is: ClassVar[str] = "a length of which a weight's entry moves by a fifth, or less where a layer is wide"
    of_scale: ClassVar[bool] = False
    rms: float = 0.2
    base_width: int | None = 128

    def alpha(self, step: Directions) -> Vector:
        width = self.base_width
        wanted = [
            self.rms * (size_of(layer) * (1.0 if width is None or layer.one_hot else min(WIDEST, width / layer.inputs))) ** 0.5
            for layer in step.layers
        ]
        alpha = torch.stack(foreach_mul(step.length.reciprocal().unbind(), wanted))
        return torch.where(alpha.isfinite(), alpha, 0.0)


@dataclass(frozen=True)
class Graft(StepSize):
    """α_l = ‖Adam's step‖ / ‖d‖: this layer's direction at the length Adam would go, so lr is an Adam rate.

    Args:
        decay: Adam's β₂.
        eps: Adam's ε.
    """

    memory: ClassVar[tuple[str, ...]] = ("square_weight",)
    tensors: ClassVar[tuple[str, ...]] = ("square",)
    lr_range: ClassVar[tuple[float, float]] = (0.0, 0.2)
    lr_is: ClassVar[str] = "a rate of Adam's"
    of_scale: ClassVar[bool] = False
    decay: float = 0.999
    eps: float = 1e-8

    def alpha(self, step: Directions) -> Vector:
        weight = step.memory["square_weight"]  # 1 − β₂ᵗ
        new = [foreach_mul(grads, grads) for grads in step.averages.gradients]
        finite = torch.stack([torch.stack(foreach_norm(part, ord=1)) for part in new]).isfinite().all(0)
        finite = step.summed_up((~finite).to(weight.dtype)) == 0
        counts = step.accept & finite  # the square of a large gradient overflows
        share = counts.to(weight.dtype) * (1 - self.decay)
        weight.lerp_(torch.ones_like(weight), share)
        lengths = []
        for squares, running, averages in zip(new, step.tensors["square"], step.averages.parts, strict=True):
            counted = [torch.where(flag, each, 0.0) for flag, each in zip(counts.unbind(), squares, strict=True)]
            foreach_lerp_(list(running), counted, share.unbind())
            roots = foreach_sqrt(foreach_div(list(running), weight.unbind()))
            adam = foreach_div(list(averages), foreach_add(roots, self.eps))
            lengths.append(step.norms_of(adam))
        alpha = torch.stack(lengths).norm(dim=0) / step.length
        return torch.where(alpha.isfinite(), alpha, 0.0)


@dataclass(frozen=True)
class KLClip(StepSize):
    """α = min(1, √(κ / Σ_l lr² ⟨d_l,∇_l⟩)) for all layers: no step moves the predictions by more than κ, as F̂ measures it.

    d = F̂⁻¹∇ makes ⟨d,∇⟩ = dᵀF̂d, so lr² Σ_l ⟨d_l,∇_l⟩ is twice the KL divergence between the predictions before and
    after the step, as F̂ sees it (Ba, Grosse, Martens 2017, sec. 5; the trust region of the K-FAC family).

    Args:
        kl: κ, in nats.
    """

    joint: ClassVar[bool] = True
    kl: float = 1e-3

    def alpha(self, step: Directions) -> Vector:
        slope = step.slope
        return (slope.isfinite() & (slope >= 0)).to(slope.dtype)  # else F̂⁻¹ is not what it should be, and this layer waits

    def common(self, steps: Sequence[Directions]) -> Scalar | None:
        device = steps[0].directions[0].device
        divergences = torch.cat([self._divergence(each).to(device) for each in steps])
        divergences = torch.where(divergences.isfinite(), divergences.clamp(min=0.0), 0.0)
        share = (self.kl / divergences.sum()).sqrt().clamp(max=1.0)
        return torch.where(share.isfinite(), share, 0.0)

    def _divergence(self, step: Directions) -> Vector:
        """lr² ⟨d,∇⟩ of one sample."""
        slope = step.lr**2 * step.slope
        return slope if step.summed is None else slope / step.summed


StepSizeName: TypeAlias = Literal["invariant", "layerwise", "graft", "kl_clip", "rms", "constant"]
STEP_SIZES: Mapping[str, type[StepSize]] = {
    "invariant": InvariantRate,
    "layerwise": LayerwiseRate,
    "graft": Graft,
    "kl_clip": KLClip,
    "rms": FixedRMS,
    "constant": Constant,
}


def size_of(layer: Layer) -> int:
    """How many entries its matrix has."""
    return layer.groups * layer.outputs * layer.inputs


def remembered(before: Vector, now: Vector) -> Vector:
    """What was, but REMEMBERED times what is at most; a batch that says nothing, by a gradient of zero, changes nothing."""
    return torch.where(now > 0, torch.minimum(before, REMEMBERED * now), before)


def keep(memory: Vector, new: Vector, accept: Flag) -> None:
    """Replaces what is kept of each layer by what is finite."""
    memory.copy_(torch.where(accept & new.isfinite(), new, memory))


def directional_curvature(
    layer: Layer,
    direction: GradientMatrix,
    samples: Sequence[RateSample],
    mean_over: MeanOver,
    scale: Scalar | None = None,
    *,
    tokens: int | None = None,
) -> Scalar | None:
    """dᵀFd = E[⟨d, ∇⁽ⁿ⟩²] with ⟨d, ∇⁽ⁿ⟩ = Σₛ gₛᵀ d aₛ: no per-sample weight gradient is made (LNGD eq. 13).

    With a mean over tokens F is that of one token, so tokens are the samples. A sequence's own ⟨d, ∇⟩² has the products of all
    pairs of its tokens, which made it 40 to 100 times the Gauss–Newton curvature on a GPT, and the steps that much too short.

    Args:
        scale: what ⟨d, ∇⁽ⁿ⟩ is divided by before it is squared; None for 1.
        tokens: how many do, of a linear layer; None for all.

    Returns:
        None if no sample was caught.
    """
    if not samples:
        return None
    some = tokens if mean_over == "token" and isinstance(layer, LinearLayer) else None
    squares: dict[tuple[int, int], Tensor] = {}
    for sample in samples:  # calls on the same samples, one forward's, together
        key = sample.forward_id, sample.batch
        if some and sample.g[..., 0].numel() > some:
            squares[key] = squares.get(key, 0.0) + _squares_of_some_tokens(layer, direction, sample, scale, some)
            continue
        slopes = layer.output(sample.x, direction) * sample.g
        slopes = slopes if scale is None else slopes / scale
        if mean_over == "token":
            slopes = layer.gradients(slopes).sum(-1)
            slopes = slopes.sum(0) if slopes.dim() > 2 else slopes
            squares[key] = squares.get(key, 0.0) + slopes.square().sum(1)
        else:
            squares[key] = squares.get(key, 0.0) + slopes.flatten(1).sum(1)
    found = torch.cat([*squares.values()]) if len(squares) > 1 else next(iter(squares.values()))
    return _weighted(found if mean_over == "token" else found.square(), layer, samples, mean_over)


def _squares_of_some_tokens(
    layer: Layer, direction: GradientMatrix, sample: RateSample, scale: Scalar | None, wanted: int
) -> Tensor:
    """Σ ⟨d, ∇⟩² over the tokens of each sequence, on average, `[n]`: from so many of all their tokens.

    They are drawn in proportion to ‖g‖², at even distances, and count by its inverse. So the expectation is that of all tokens,
    and a loss that only a few of them enter is seen by those.
    """
    x, g = sample.x.flatten(0, -2), sample.g.flatten(0, -2)
    energies = squared_norms(g.to(layer.dtype))
    up_to = energies.cumsum(0)
    places = (torch.arange(wanted, device=g.device, dtype=up_to.dtype) + 0.5) * (up_to[-1] / wanted)
    chosen = torch.searchsorted(up_to, places).clamp(max=len(g) - 1)
    slopes = (layer.output(x[chosen], direction) * g[chosen]).sum(-1)
    slopes = slopes if scale is None else slopes / scale
    likely = energies[chosen].clamp(min=torch.finfo(energies.dtype).tiny)  # times wanted / Σ ‖g‖² how often each is drawn
    return (up_to[-1] / len(sample.g) * (slopes.square() / likely).mean()).expand(len(sample.g))


def gradient_norm(layer: Layer, samples: Sequence[RateSample], mean_over: MeanOver) -> Scalar | None:
    """‖g‖, root mean square over samples or tokens, of gradients that are scaled as in dᵀFd; None if no sample was caught."""
    if not samples:
        return None
    squares = torch.stack([sample.g.to(layer.dtype).square().sum() for sample in samples]).sum() / _count(samples)
    return _weighted(squares, layer, samples, mean_over).sqrt()


def output_norm(layer: Layer, samples: Sequence[RateSample], matrix: GradientMatrix, *, mean_over: MeanOver) -> Scalar | None:
    """‖s‖, root mean square over samples or tokens; a tenth of what inputs of their size would give at unit gain if that is more.

    Without that a weight that begins at zero would never leave it. Of inputs that are zero the bias's constant is left. None if
    no sample was caught.
    """
    if not samples:
        return None
    squares, entries = [], 0
    for sample in samples:
        s, floor = layer.output(sample.x, matrix), 0.0
        x = layer.multiplied(sample.x)
        if x.is_floating_point() and x.numel():
            mean = x.to(s.dtype).norm() ** 2 / x.numel()
            if layer.bias is not None:  # zeros leave the constant that the bias multiplies
                mean = torch.where(mean > 0, mean, 1 / layer.inputs)
            floor = LEAST_NORM**2 * s.numel() * mean
        squares.append(s.square().sum().clamp(min=floor))
        entries += s.numel()
    rows = entries / (layer.outputs * layer.groups) if mean_over == "token" else _count(samples)
    return (torch.stack(squares).sum() / rows).sqrt()


def _count(samples: Sequence[RateSample]) -> int:
    """Samples, those of several calls in one forward once."""
    return sum({(sample.forward_id, sample.batch): len(sample.g) for sample in samples}.values())


def _weighted(squares: Tensor, layer: Layer, samples: Sequence[RateSample], mean_over: MeanOver) -> Scalar:
    """The mean of squares of samples, as the loss weighs them."""
    batch, tokens = _sizes(samples, layer)
    return curvature_along(squares, tokens / batch, mean_over, batch=batch)


def weight_of(samples: Sequence[RateSample], layer: Layer, mean_over: MeanOver) -> float:
    """How many samples of the batch, or tokens, some of it stand for."""
    batch, tokens = _sizes(samples, layer)
    return tokens if mean_over == "token" else float(batch)


def _sizes(samples: Sequence[RateSample], layer: Layer) -> tuple[int, float]:
    """The samples of the whole batch, and their positions: micro-batches add up, calls of one forward don't."""
    batches, tokens = dict[int, int](), dict[int, float]()
    for sample in samples:
        batches[sample.forward_id] = n = max(batches.get(sample.forward_id, 0), sample.batch)
        own = n * sample.g.numel() / (len(sample.g) * layer.outputs * layer.groups)
        tokens[sample.forward_id] = max(tokens.get(sample.forward_id, 0.0), own)
    return sum(batches.values()), sum(tokens.values())
