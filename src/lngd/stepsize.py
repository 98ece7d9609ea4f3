"""How far along a direction: a step size turns a layer's direction into α_l.

A step size keeps a few tensors per layer in a dictionary that is checkpointed with it. `accept` is a flag on the device: where
it is false the step is being skipped and no state may change.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
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


class StepSize(ABC):
    """α_l of one layer."""

    needs_samples: ClassVar[bool] = False

    @abstractmethod
    def rate(self, move: Move, state: State) -> Scalar:
        """α_l ≥ 0; 0 where it would not be finite. Updates `state`."""


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
        slope = inner(move.direction, move.average)  # ⟨d,∇⟩ > 0: F̂ is positive definite
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
class Graft(StepSize):
    """α_l = ‖Adam's step‖ / ‖d‖: this layer's direction at the length Adam would go, so lr is an Adam rate.

    Args:
        decay: Adam's β₂.
        eps: Adam's ε.
    """

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
        share = move.accept.to(new.dtype) * (1 - self.decay)
        state["square"] = square.lerp(torch.where(move.accept, new, 0.0), share)
        state["weight"] = weight.lerp(torch.ones_like(weight), share)
        return state["square"], state["weight"]
