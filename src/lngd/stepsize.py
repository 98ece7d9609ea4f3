"""How far along a direction: a step size turns a layer's direction into α_l.

A step size keeps a few tensors per layer in a dictionary that is checkpointed with it. `accept` is a flag on the device: where
it is false the step is being skipped and no state may change.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from lngd.linalg import inner, norms
from lngd.types import Flag, GradientMatrices, GradientMatrix, Scalar, Vector

State: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True)
class Moves:
    """What is known of some layers of one device and dtype when their steps are sized; a vector has an entry for each.

    Formulas are written for one layer and read the same for all: what they cost in calls does not grow with the number of layers.
    """

    gradients: GradientMatrices
    """∇ of this batch."""
    averages: GradientMatrices
    """What was preconditioned: ∇ itself or its moving average."""
    directions: GradientMatrices
    """d = F̂⁻¹ · average."""
    curvature: Vector | None
    """dᵀFd of this batch's empirical Fisher; NaN for a layer of which no sample was caught, None if nobody looked."""
    accept: Flag
    lr: float
    """What α_l is multiplied with: the larger lr of weight and bias, and the share that the warm-up leaves of it."""
    summed: Vector | None = None
    """How many samples the loss is a sum over; None for a mean."""

    @cached_property
    def slope(self) -> Vector:
        """⟨d, average⟩."""
        return torch.stack([inner(d, m) for d, m in zip(self.directions, self.averages, strict=True)])

    @cached_property
    def length(self) -> Vector:
        """‖d‖."""
        return norms(self.directions)


def gathered(states: Sequence[State], name: str, like: Vector, missing: float = 0.0) -> Vector:
    """A scalar that each layer keeps, as one vector; `missing` for a layer that has none yet."""
    known = [state.get(name) for state in states]
    if all(value is None for value in known):
        return torch.full_like(like, missing)
    return torch.stack([like.new_tensor(missing) if value is None else value.to(like.dtype) for value in known])


def scattered(states: Sequence[State], name: str, values: Vector) -> Vector:
    """The inverse of `gathered`; the vector."""
    for state, value in zip(states, values.unbind(), strict=True):
        state[name] = value
    return values


class StepSize(ABC):
    """α_l of each layer."""

    needs_samples: ClassVar[bool] = False
    joint: ClassVar[bool] = False
    """Whether `common` has a factor."""
    matrices: ClassVar[int] = 0
    """How many tensors of the gradient's size it keeps."""

    @abstractmethod
    def rate(self, moves: Moves, states: Sequence[State]) -> Vector:
        """α_l ≥ 0; 0 where it would not be finite. Updates `states`, one a layer."""

    def common(self, moves: Sequence[Moves]) -> Scalar | None:
        """A factor on every α_l that depends on all layers together, if `joint`; None for 1."""
        return None


@dataclass(frozen=True)
class Constant(StepSize):
    """α_l = 1: lr alone decides (LNGD-sample, the ablation of PAPER sec. 4)."""

    def rate(self, moves: Moves, states: Sequence[State]) -> Vector:
        return moves.directions[0].new_ones(len(moves.directions))


@dataclass(frozen=True)
class LayerwiseRate(StepSize):
    """α_l = ⟨d,∇⟩ / (dᵀFd + µ), the exact minimiser of the layer's quadratic model (LNGD eq. 12).

    Written with the dimensionless curvature κ = dᵀFd / ⟨d,∇⟩ as α_l = 1 / (κ̄ + µ/⟨d,∇⟩). The empirical Fisher vanishes
    on samples that are fitted, so the raw rate explodes; κ̄ rises at once and falls slowly: κ̄ ← max(κ, βκ̄ + (1−β)κ).
    β = 0 is eq. 12 as printed.

    Args:
        mu: µ.
        smoothing: β.
    """

    needs_samples: ClassVar[bool] = True
    mu: float
    smoothing: float

    def rate(self, moves: Moves, states: Sequence[State]) -> Vector:
        slope = moves.slope  # ⟨d,∇⟩ > 0: F̂ is positive definite
        scattered(states, "slope", torch.where(moves.accept & slope.isfinite(), slope, gathered(states, "slope", slope)))
        kappa = self._envelope(moves, slope, states)
        alpha = (kappa + self.mu / slope).reciprocal()
        return torch.where(alpha.isfinite() & (kappa > 0), alpha, 0.0)

    def _envelope(self, moves: Moves, slope: Vector, states: Sequence[State]) -> Vector:
        """κ̄; 0 for a layer whose κ has never been seen."""
        old = gathered(states, "kappa", slope)
        if moves.curvature is None:
            return old
        new = moves.curvature.to(slope.dtype) / slope
        valid = moves.accept & new.isfinite()
        return scattered(states, "kappa", torch.where(valid, torch.maximum(new, torch.lerp(new, old, self.smoothing)), old))


@dataclass(frozen=True)
class FixedRMS(StepSize):
    """α_l = ρ / RMS(d): every layer moves by lr·ρ an entry, root mean square; with ρ = 0.2 lr is an Adam rate (Liu et al. 2025).

    Args:
        rms: ρ.
    """

    rms: float = 0.2

    def rate(self, moves: Moves, states: Sequence[State]) -> Vector:
        wanted = [self.rms * d.numel() ** 0.5 for d in moves.directions]
        shares = torch._foreach_mul(moves.length.reciprocal().unbind(), wanted)
        alpha = torch.stack(list(shares))
        return torch.where(alpha.isfinite(), alpha, 0.0)


@dataclass(frozen=True)
class Graft(StepSize):
    """α_l = ‖Adam's step‖ / ‖d‖: this layer's direction at the length Adam would go, so lr is an Adam rate.

    Args:
        decay: Adam's β₂.
        eps: Adam's ε.
    """

    matrices: ClassVar[int] = 1
    decay: float = 0.999
    eps: float = 1e-8

    def rate(self, moves: Moves, states: Sequence[State]) -> Vector:
        layers = zip(moves.gradients, moves.averages, states, strict=True)
        alpha = norms([self._adam(*layer, moves.accept) for layer in layers]) / moves.length
        return torch.where(alpha.isfinite(), alpha, 0.0)

    def _adam(self, gradient: GradientMatrix, average: GradientMatrix, state: State, accept: Flag) -> GradientMatrix:
        """Adam's step of one layer, at lr 1."""
        new = gradient.square()
        square = state.get("square", torch.zeros_like(new))
        weight = state.get("weight", new.new_zeros(()))
        counts = accept & new.isfinite().all()  # the square of a large gradient overflows
        share = counts.to(new.dtype) * (1 - self.decay)
        state["square"] = square.lerp(torch.where(counts, new, 0.0), share)
        state["weight"] = weight.lerp(torch.ones_like(weight), share)
        return average / ((state["square"] / state["weight"]).sqrt() + self.eps)


@dataclass(frozen=True)
class KLClip(StepSize):
    """α = min(1, √(κ / Σ_l lr² ⟨d_l,∇_l⟩)) for all layers: no step moves the predictions by more than κ, as F̂ measures it.

    d = F̂⁻¹∇ makes ⟨d,∇⟩ = dᵀF̂d, so lr² Σ_l ⟨d_l,∇_l⟩ is twice the KL divergence between the predictions before and
    after the step, as F̂ sees it (Ba, Grosse, Martens 2017, sec. 5; the trust region of the K-FAC family).

    Args:
        kl: κ, in nats.
    """

    joint: ClassVar[bool] = True
    kl: float

    def rate(self, moves: Moves, states: Sequence[State]) -> Vector:
        slope = moves.slope
        return (slope.isfinite() & (slope >= 0)).to(slope.dtype)  # else F̂⁻¹ is not what it should be, and this layer waits

    def common(self, moves: Sequence[Moves]) -> Scalar | None:
        device = moves[0].directions[0].device
        divergences = torch.cat([self._divergence(each).to(device) for each in moves])
        divergences = torch.where(divergences.isfinite(), divergences.clamp(min=0.0), 0.0)
        share = (self.kl / divergences.sum()).sqrt().clamp(max=1.0)
        return torch.where(share.isfinite(), share, 0.0)

    def _divergence(self, moves: Moves) -> Vector:
        """lr² ⟨d,∇⟩ of one sample."""
        slope = moves.lr**2 * moves.slope
        return slope if moves.summed is None else slope / moves.summed
