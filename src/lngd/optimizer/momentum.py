"""Where the momentum sits: on the gradient, before it is preconditioned (ours), or on the update (the paper)."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from lngd.stepsize import State
from lngd.types import Flag, GradientMatrix


class Momentum:
    """Two hooks of a step; on its own, no momentum.

    `state` is the layer's and is checkpointed; where `accept` is false it may not change."""

    matrices: ClassVar[int] = 0
    """How many tensors of the gradient's size it keeps."""

    def before(self, gradient: GradientMatrix, beta: float, state: State, accept: Flag) -> GradientMatrix:
        """From the gradient to what is preconditioned."""
        return gradient

    def after(self, update: GradientMatrix, beta: float, state: State, accept: Flag) -> GradientMatrix:
        """From −lr·α_l·d to what is added to the weights."""
        return update


class GradientMomentum(Momentum):
    """M ← βM + (1−β)∇, corrected for its start at zero, then preconditioned: κ is measured along a smooth direction."""

    matrices = 1

    def before(self, gradient: GradientMatrix, beta: float, state: State, accept: Flag) -> GradientMatrix:
        share = accept.to(gradient.dtype) * (1 - beta)
        average = state.get("average", torch.zeros_like(gradient)).lerp(gradient, share)
        weight = state.get("average_weight", gradient.new_zeros(()))
        weight = weight.lerp(torch.ones_like(weight), share)
        state["average"], state["average_weight"] = average, weight
        return average / weight.clamp(min=torch.finfo(weight.dtype).tiny)


class UpdateMomentum(Momentum):
    """m ← τm + ζ with ζ = −lr·α_l·d, then θ ← θ + m (LNGD Algorithm 1, lines 14–16)."""

    matrices = 1

    def after(self, update: GradientMatrix, beta: float, state: State, accept: Flag) -> GradientMatrix:
        old = state.get("momentum", torch.zeros_like(update))
        new = beta * old + update
        state["momentum"] = torch.where(accept, new, old)
        return new


MOMENTA: dict[str, type[Momentum]] = {"gradient": GradientMomentum, "update": UpdateMomentum}


def running_mean(state: State, name: str, value: Tensor, *, decay: float, accept: Flag) -> Tensor:
    """A moving average of a scalar, started at its first finite value; NaN before that."""
    old = state.get(name, torch.full_like(value, math.nan))
    new = torch.where(old.isfinite(), torch.lerp(value, old, decay), value)
    state[name] = torch.where(accept & value.isfinite(), new, old)
    return state[name]
