"""Layers in front of a normalisation: the loss does not depend on the norm of their weight, and no step may let it grow.

There ∇ is orthogonal to W. A step orthogonal to W can only lengthen it, and a natural-gradient step is as long as W is: left
alone, norms grow geometrically until they overflow, while the function looks healthy.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from lngd.layers import Layer
from lngd.linalg import inner, norms, readable
from lngd.stepsize import Moves, State, gathered, scattered
from lngd.types import Flag, Flags, Vector

DECAY = 0.9
THRESHOLD = 0.1
"""A layer is scale-invariant if the running mean of |cos(W, ∇)|·√dim is below this. For unrelated W and ∇ that mean is about 0.8
at any width; in front of a normalisation it is rounding error (`tests/optimizer/test_scale_invariance.py`)."""
AGREED = 10
"""How many observations have to agree before a norm is kept."""
EVERY = 4
"""Steps between two of them after the first 2 · AGREED: they read the weight and the gradient once more."""


def observes(step: int) -> bool:
    """Whether step `step`, counted from 0, looks for scale-invariance."""
    return step < 2 * AGREED or step % EVERY == 0


@contextmanager
def norms_kept(layers: Sequence[Layer], moves: Moves, states: Sequence[State], *, observe: bool) -> Iterator[None]:
    """Around a step of some layers: afterwards a scale-invariant one's weight has the norm it had before."""
    before = norms([layer.weight for layer in layers])
    if observe:
        _observe(layers, moves, states, before)
    yield
    invariant = _are_invariant(states, moves).unbind()
    chosen = [k for k, flag in enumerate(invariant) if not readable(flag) or flag]
    if chosen:
        _restore([layers[k].weight for k in chosen], *(torch.stack([each[k] for k in chosen]) for each in (before, invariant)))


def _restore(weights: Sequence[Tensor], before: Vector, invariant: Flags) -> None:
    ratio = before / norms(weights)
    ratio = torch.where(invariant & ratio.isfinite() & (ratio > 0), ratio, 1.0)
    for weight, each in zip(weights, ratio.unbind(), strict=True):
        weight.mul_(each)


def _observe(layers: Sequence[Layer], moves: Moves, states: Sequence[State], before: Vector) -> None:
    grads = [layer.split(gradient)[0] for layer, gradient in zip(layers, moves.gradients, strict=True)]
    slopes = torch.stack([inner(layer.weight.to(g.dtype), g) for layer, g in zip(layers, grads, strict=True)])
    cosine = slopes.abs() / (before.to(slopes.dtype) * norms(grads))
    seen = gathered(states, "invariance_steps", cosine)
    scattered(states, "invariance_steps", seen + (moves.accept & cosine.isfinite()))
    scaled = torch.stack(torch._foreach_mul(cosine.unbind(), [layer.weight.numel() ** 0.5 for layer in layers]))
    running_mean(states, "alignment", scaled, moves.accept)


def running_mean(states: Sequence[State], name: str, values: Vector, accept: Flag) -> None:
    """A moving average of a scalar of each layer, started at its first finite value; NaN before that."""
    old = gathered(states, name, values, missing=math.nan)
    new = torch.where(old.isfinite(), torch.lerp(values, old, DECAY), values)
    scattered(states, name, torch.where(accept & values.isfinite(), new, old))


def _are_invariant(states: Sequence[State], moves: Moves) -> Flags:
    like = moves.directions[0].new_empty(len(states))
    alignment = gathered(states, "alignment", like, missing=math.nan)
    return (alignment < THRESHOLD) & (gathered(states, "invariance_steps", like) > AGREED) & moves.accept
