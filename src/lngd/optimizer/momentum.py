"""Where the momentum sits: on the gradient, before it is preconditioned (ours), or on the update (the paper)."""

import math
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from lngd.linalg import choose
from lngd.stepsize import State
from lngd.types import Flag, GradientMatrix

Steps: TypeAlias = list[tuple[Tensor, Tensor]]
"""A tensor shaped like each parameter, and the scalar that it is multiplied with."""


class Momentum:
    """Two hooks of a step; on its own, no momentum.

    `state` is the layer's and is checkpointed; where `accept` is false it may not change."""

    matrices: ClassVar[int] = 0
    """How many tensors of the gradient's size it keeps."""

    def before(self, gradient: GradientMatrix, beta: float, state: State, accept: Flag) -> GradientMatrix:
        """From the gradient to what is preconditioned."""
        return gradient

    def after(self, steps: Steps, beta: float, state: State, accept: Flag) -> Steps:
        """From ζ = −lr·α_l·d to what is added to the weights; each as a tensor and a factor, one pair a parameter."""
        return steps


class GradientMomentum(Momentum):
    """M ← βM + (1−β)∇, corrected for its start at zero, then preconditioned: κ is measured along a smooth direction.

    Corrected at once: M moves by the share (1−β)/(1−βᵗ) towards ∇.
    """

    matrices = 1

    def before(self, gradient: GradientMatrix, beta: float, state: State, accept: Flag) -> GradientMatrix:
        share = accept.to(gradient.dtype) * (1 - beta)
        weight = state.get("average_weight", gradient.new_zeros(()))  # 1 − βᵗ
        weight = weight.lerp(torch.ones_like(weight), share)
        average = state["average"] if "average" in state else torch.zeros_like(gradient)
        average.lerp_(gradient, share / weight.clamp(min=torch.finfo(weight.dtype).tiny))
        state["average"], state["average_weight"] = average, weight
        return average


class NesterovMomentum(GradientMomentum):
    """GradientMomentum a step ahead: (1−β)∇ + βM, as Nesterov's method has it."""

    def before(self, gradient: GradientMatrix, beta: float, state: State, accept: Flag) -> GradientMatrix:
        return gradient.lerp(super().before(gradient, beta, state, accept), beta)


class UpdateMomentum(Momentum):
    """m ← τm + ζ, then θ ← θ + m (LNGD Algorithm 1, lines 14–16)."""

    matrices = 1

    def after(self, steps: Steps, beta: float, state: State, accept: Flag) -> Steps:
        return [self._added(f"momentum_{k}", step, beta, state, accept) for k, step in enumerate(steps)]

    @staticmethod
    def _added(name: str, step: tuple[Tensor, Tensor], beta: float, state: State, accept: Flag) -> tuple[Tensor, Tensor]:
        direction, length = step
        old = state[name] if name in state else torch.zeros_like(direction)
        new = beta * old + length * direction
        state[name] = choose(accept, new, old)
        return new, torch.ones_like(length)


MOMENTA: dict[str, type[Momentum]] = {"gradient": GradientMomentum, "nesterov": NesterovMomentum, "update": UpdateMomentum}


def running_mean(state: State, name: str, value: Tensor, *, decay: float, accept: Flag) -> Tensor:
    """A moving average of a scalar, started at its first finite value; NaN before that."""
    old = state.get(name, torch.full_like(value, math.nan))
    new = torch.where(old.isfinite(), torch.lerp(value, old, decay), value)
    state[name] = torch.where(accept & value.isfinite(), new, old)
    return state[name]
