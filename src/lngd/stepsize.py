"""How far along a direction: a step size turns a layer's direction into α_l.

A step size keeps a few tensors per layer in a dictionary that is checkpointed with it. `accept` is a flag on the device: where
it is false the step is being skipped and no state may change.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from lngd.linalg import inner
from lngd.types import Flag, GradientMatrix, Scalar

State: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True)
class Move:
    """What is known of one layer when its step is sized."""

    gradient: GradientMatrix
    """∇ of this batch."""
    average: GradientMatrix
    """What was preconditioned: ∇ itself or its moving average."""
    direction: GradientMatrix
    """d = F̂⁻¹ · average."""
    curvature: Scalar | None
    """dᵀFd of this batch's empirical Fisher; None if no sample of the layer was caught."""
    accept: Flag
    lr: float
    """What α_l is multiplied with: the larger lr of weight and bias, and the share that the warm-up leaves of it."""
    summed: Scalar | None = None
    """How many samples the loss is a sum over; None for a mean."""

    @cached_property
    def slope(self) -> Scalar:
        """⟨d, average⟩."""
        return inner(self.direction, self.average)


class StepSize(ABC):
    """α_l of one layer."""

    needs_samples: ClassVar[bool] = False
    joint: ClassVar[bool] = False
    """Whether `common` has a factor."""
    matrices: ClassVar[int] = 0
    """How many tensors of the gradient's size it keeps."""

    @abstractmethod
    def rate(self, move: Move, state: State) -> Scalar:
        """α_l ≥ 0; 0 where it would not be finite. Updates `state`."""

    def common(self, moves: Sequence[Move]) -> Scalar | None:
        """A factor on every α_l that depends on all layers together, if `joint`; None for 1."""
        return None


@dataclass(frozen=True)
class Constant(StepSize):
    """α_l = 1: lr alone decides (LNGD-sample, the ablation of PAPER sec. 4)."""

    def rate(self, move: Move, state: State) -> Scalar:
        return move.direction.new_ones(())


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

    def rate(self, move: Move, state: State) -> Scalar:
        slope = move.slope  # ⟨d,∇⟩ > 0: F̂ is positive definite
        state["slope"] = torch.where(move.accept & slope.isfinite(), slope, state.get("slope", torch.zeros_like(slope)))
        kappa = self._envelope(move, slope, state)
        alpha = (kappa + self.mu / slope).reciprocal()
        return torch.where(alpha.isfinite() & (kappa > 0), alpha, 0.0)

    def _envelope(self, move: Move, slope: Scalar, state: State) -> Scalar:
        old = state.get("kappa")
        if move.curvature is None:
            return torch.full_like(slope, math.inf) if old is None else old
        new = move.curvature.to(slope.dtype) / slope
        if old is None:
            old = torch.zeros_like(new)
        valid = move.accept & new.isfinite()
        kappa = torch.where(valid, torch.maximum(new, torch.lerp(new, old, self.smoothing)), old)
        state["kappa"] = kappa
        return kappa


@dataclass(frozen=True)
class FixedRMS(StepSize):
    """α_l = ρ / RMS(d): every layer moves by lr·ρ an entry, root mean square; with ρ = 0.2 lr is an Adam rate (Liu et al. 2025).

    Args:
        rms: ρ.
    """

    rms: float = 0.2

    def rate(self, move: Move, state: State) -> Scalar:
        alpha = self.rms * move.direction.numel() ** 0.5 / move.direction.norm()
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

    def rate(self, move: Move, state: State) -> Scalar:
        square, weight = self._second_moment(move, state)
        adam = move.average / ((square / weight).sqrt() + self.eps)
        alpha = adam.norm() / move.direction.norm()
        return torch.where(alpha.isfinite(), alpha, 0.0)

    def _second_moment(self, move: Move, state: State) -> tuple[Tensor, Scalar]:
        new = move.gradient.square()
        square = state.get("square", torch.zeros_like(new))
        weight = state.get("weight", new.new_zeros(()))
        counts = move.accept & new.isfinite().all()  # the square of a large gradient overflows
        share = counts.to(new.dtype) * (1 - self.decay)
        state["square"] = square.lerp(torch.where(counts, new, 0.0), share)
        state["weight"] = weight.lerp(torch.ones_like(weight), share)
        return state["square"], state["weight"]


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

    def rate(self, move: Move, state: State) -> Scalar:
        slope = move.slope
        return (slope.isfinite() & (slope >= 0)).to(slope.dtype)  # else F̂⁻¹ is not what it should be, and this layer waits

    def common(self, moves: Sequence[Move]) -> Scalar | None:
        device = moves[0].direction.device
        divergences = torch.stack([self._divergence(move).to(device) for move in moves])
        divergences = torch.where(divergences.isfinite(), divergences.clamp(min=0.0), 0.0)
        share = (self.kl / divergences.sum()).sqrt().clamp(max=1.0)
        return torch.where(share.isfinite(), share, 0.0)

    def _divergence(self, move: Move) -> Scalar:
        """lr² ⟨d,∇⟩ of one sample."""
        slope = move.lr**2 * move.slope
        return slope if move.summed is None else slope / move.summed
