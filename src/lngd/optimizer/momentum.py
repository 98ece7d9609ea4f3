"""Where the momentum sits: on the gradient, before it is preconditioned (ours), or on the update (the paper)."""

from collections.abc import Sequence
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from lngd.linalg import choose
from lngd.stepsize import State, gathered, scattered
from lngd.types import Flag, GradientMatrices, Vector

Steps: TypeAlias = tuple[list[Tensor], Vector]
"""Of some parameters: a tensor shaped like each, and the numbers that they are multiplied with."""


class Momentum:
    """Two hooks of a step, for some layers at once; on its own, no momentum.

    `states` are the layers' and are checkpointed; where `accept` is false they may not change."""

    matrices: ClassVar[int] = 0
    """How many tensors of the gradient's size it keeps."""

    def before(self, gradients: GradientMatrices, beta: float, states: Sequence[State], accept: Flag) -> GradientMatrices:
        """From the gradients to what is preconditioned."""
        return gradients

    def after(self, steps: Steps, beta: float, states: Sequence[State], name: str, accept: Flag) -> Steps:
        """From ζ = −lr·α_l·d to what is added to one parameter of each layer, the layer's `name`."""
        return steps


class GradientMomentum(Momentum):
    """M ← βM + (1−β)∇, corrected for its start at zero, then preconditioned: κ is measured along a smooth direction.

    Corrected at once: M moves by the share (1−β)/(1−βᵗ) towards ∇.
    """

    matrices = 1

    def before(self, gradients: GradientMatrices, beta: float, states: Sequence[State], accept: Flag) -> GradientMatrices:
        share = accept.to(gradients[0].dtype) * (1 - beta)
        weight = gathered(states, "average_weight", share.expand(len(states)))  # 1 − βᵗ
        weight = scattered(states, "average_weight", weight.lerp(torch.ones_like(weight), share))
        shares = (share / weight.clamp(min=torch.finfo(weight.dtype).tiny)).unbind()
        for state, gradient, each in zip(states, gradients, shares, strict=True):
            if "average" not in state:
                state["average"] = torch.zeros_like(gradient)
            state["average"].lerp_(gradient, each)
        return [state["average"] for state in states]


class NesterovMomentum(GradientMomentum):
    """GradientMomentum a step ahead: (1−β)∇ + βM, as Nesterov's method has it."""

    def before(self, gradients: GradientMatrices, beta: float, states: Sequence[State], accept: Flag) -> GradientMatrices:
        return list(torch._foreach_lerp(gradients, super().before(gradients, beta, states, accept), beta))


class UpdateMomentum(Momentum):
    """m ← τm + ζ, then θ ← θ + m (LNGD Algorithm 1, lines 14–16)."""

    matrices = 1

    def after(self, steps: Steps, beta: float, states: Sequence[State], name: str, accept: Flag) -> Steps:
        directions, lengths = steps
        updates = []
        for state, direction, length in zip(states, directions, lengths.unbind(), strict=True):
            old = state[name] if name in state else torch.zeros_like(direction)
            new = beta * old + length * direction
            state[name] = choose(accept, new, old)
            updates.append(new)
        return updates, torch.ones_like(lengths)


MOMENTA: dict[str, type[Momentum]] = {"gradient": GradientMomentum, "nesterov": NesterovMomentum, "update": UpdateMomentum}
