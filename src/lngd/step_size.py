"""How far along a direction: a step size turns the directions of some layers into their α_l.

What a step size remembers of a layer is a number, kept in a vector that has an entry for each layer, or a tensor shaped like each
parameter. Both stand in `optimizer.state`. Where `accept` is false the step is being skipped and no memory may change.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from lngd.capture import RateSample
from lngd.layers import Layer
from lngd.ranges import check
from lngd.sampling import FisherType, MeanOver, curvature_along, fisher_weight
from lngd.torch_private import foreach_add, foreach_div, foreach_lerp_, foreach_mul, foreach_norm, foreach_sqrt
from lngd.types import Flag, GradientMatrices, GradientMatrix, Scalar, Vector

TOKENS_FOR = 4
"""Samples that the tokens of one sequence stand for."""
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
    summed: Vector | None = None
    """How many samples the loss is a sum over; None for a mean."""

    @cached_property
    def slope(self) -> Vector:
        """⟨d, M⟩."""
        pairs = zip(self.directions, self.averages.vectors, strict=True)
        return torch.stack([torch.dot(d.reshape(-1), m) for d, m in pairs])

    @cached_property
    def length(self) -> Vector:
        """‖d‖."""
        return torch.stack(foreach_norm(self.directions))

    @cached_property
    def dFd(self) -> Vector | None:
        """dᵀFd (LNGD eq. 13); NaN for a layer of which no sample was caught, None if none was of any."""
        sizes = {(len(samples), samples[0].batch, len(samples[0].g)) if samples else (0, 0, 0) for samples in self.samples}
        if self.mean_over == "token" or len(sizes) > 1 or next(iter(sizes))[0] != 1:
            curvature = self._curvature_of_each()
        else:  # the usual case: of each layer one call on the same samples
            slopes = []
            for layer, d, (sample,) in zip(self.layers, self.directions, self.samples, strict=True):
                products = layer.output(sample.x, d) * sample.g
                slopes.append(products.sum(1) if products.dim() == 2 else products.flatten(1).sum(1))
            weight = fisher_weight(FisherType.EMPIRICAL, self.mean_over, batch=self.samples[0][0].batch, positions=1)
            curvature = torch.stack(slopes).square().mean(1) * weight  # (1/N) Σₙ ⟨d, ∇⁽ⁿ⟩²
        return curvature if self.squared_scale is None else curvature * self.squared_scale

    def _curvature_of_each(self) -> Vector:
        """dᵀFd of layers that were called often, or not at all, or of which tokens are the samples."""
        each = zip(self.layers, self.directions, self.samples, strict=True)
        found = [directional_curvature(layer, d, samples, self.mean_over) for layer, d, samples in each]
        unknown = self.directions[0].new_full((), math.nan)
        return torch.stack([unknown if value is None else value.to(unknown.dtype) for value in found])


class StepSize(ABC):
    """α_l of each layer."""

    samples: int | None = 0
    """Samples of a batch that it wants to see the gradients of; None for all."""
    lr_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    """Between which an lr is of this step size's kind: outside it is a warning."""
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
        samples: how many of a batch measure dᵀFd, a quarter as many sequences with `mean_over="token"`; None for all.
    """

    memory: ClassVar[tuple[str, ...]] = ("kappa",)
    lr_range: ClassVar[tuple[float, float]] = (4e-3, 10.0)
    mu: float = 1e-8
    smoothing: float = 0.9
    samples: int | None = 16

    def alpha(self, step: Directions) -> Vector:
        slope = step.slope  # ⟨d,∇⟩ > 0: F̂ is positive definite
        kappa = step.memory["kappa"]  # 0 for a layer whose κ has never been seen
        if step.dFd is not None:
            new = step.dFd / slope
            envelope = torch.maximum(new, torch.lerp(new, kappa, self.smoothing))
            kappa.copy_(torch.where(step.accept & new.isfinite(), envelope, kappa))
        alpha = (kappa + self.mu / slope).reciprocal()
        return torch.where(alpha.isfinite() & (kappa > 0), alpha, 0.0)


@dataclass(frozen=True)
class FixedRMS(StepSize):
    """α_l = ρ / RMS(d): every layer moves by lr·ρ an entry, root mean square; with ρ = 0.2 lr is an Adam rate (Liu et al. 2025).

    Args:
        rms: ρ.
    """

    lr_range: ClassVar[tuple[float, float]] = (0.0, 0.3)
    rms: float = 0.2

    def alpha(self, step: Directions) -> Vector:
        wanted = [self.rms * d.numel() ** 0.5 for d in step.directions]
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
    lr_range: ClassVar[tuple[float, float]] = (0.0, 0.3)
    decay: float = 0.999
    eps: float = 1e-8

    def alpha(self, step: Directions) -> Vector:
        weight = step.memory["square_weight"]  # 1 − β₂ᵗ
        new = [foreach_mul(grads, grads) for grads in step.averages.gradients]
        finite = torch.stack([torch.stack(foreach_norm(part, ord=1)) for part in new]).isfinite().all(0)
        counts = step.accept & finite  # the square of a large gradient overflows
        share = counts.to(weight.dtype) * (1 - self.decay)
        weight.lerp_(torch.ones_like(weight), share)
        lengths = []
        for squares, running, averages in zip(new, step.tensors["square"], step.averages.parts, strict=True):
            counted = [torch.where(flag, each, 0.0) for flag, each in zip(counts.unbind(), squares, strict=True)]
            foreach_lerp_(list(running), counted, share.unbind())
            roots = foreach_sqrt(foreach_div(list(running), weight.unbind()))
            adam = foreach_div(list(averages), foreach_add(roots, self.eps))
            lengths.append(torch.stack(foreach_norm(adam)))
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


StepSizeName: TypeAlias = Literal["layerwise", "graft", "kl_clip", "rms", "constant"]
STEP_SIZES: Mapping[str, type[StepSize]] = {
    "layerwise": LayerwiseRate,
    "graft": Graft,
    "kl_clip": KLClip,
    "rms": FixedRMS,
    "constant": Constant,
}


def directional_curvature(
    layer: Layer, direction: GradientMatrix, samples: Sequence[RateSample], mean_over: MeanOver
) -> Scalar | None:
    """dᵀFd = E[⟨d, ∇⁽ⁿ⟩²] with ⟨d, ∇⁽ⁿ⟩ = Σₛ gₛᵀ d aₛ: no per-sample weight gradient is made (LNGD eq. 13).

    With a mean over tokens F is that of one token, so tokens are the samples. A sequence's own ⟨d, ∇⟩² has the products of all
    pairs of its tokens, which made it 40 to 100 times the Gauss–Newton curvature on a GPT, and the steps that much too short.

    Returns:
        None if no sample was caught.
    """
    if not samples:
        return None
    squares: dict[tuple[int, int], Tensor] = {}
    for sample in samples:  # calls on the same samples, one forward's, together
        key = sample.forward_id, sample.batch
        slopes = layer.output(sample.x, direction) * sample.g
        if mean_over == "token":
            slopes = layer.gradients(slopes).sum(-1)
            slopes = slopes.sum(0) if slopes.dim() > 2 else slopes
            squares[key] = squares.get(key, 0.0) + slopes.square().sum(1)
        else:
            squares[key] = squares.get(key, 0.0) + slopes.flatten(1).sum(1)
    found = torch.cat([*squares.values()]) if len(squares) > 1 else next(iter(squares.values()))
    batches, tokens = dict[int, int](), dict[int, float]()
    for sample in samples:  # micro-batches add up, calls of one forward don't
        batches[sample.forward_id] = n = max(batches.get(sample.forward_id, 0), sample.batch)
        own = n * sample.g.numel() / (len(sample.g) * layer.outputs * layer.groups)
        tokens[sample.forward_id] = max(tokens.get(sample.forward_id, 0.0), own)
    batch = sum(batches.values())
    squared = found if mean_over == "token" else found.square()
    return curvature_along(squared, sum(tokens.values()) / batch, mean_over, batch=batch)
