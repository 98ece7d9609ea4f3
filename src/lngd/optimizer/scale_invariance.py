"""Layers in front of a normalisation: the loss does not depend on the norm of their weight, and no step may let it grow.

There ∇ is orthogonal to W. A step orthogonal to W can only lengthen it, and a natural-gradient step is as long as W is: left
alone, norms grow geometrically until they overflow, while the function looks healthy.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lngd.layers import Layer
from lngd.linalg import inner, readable
from lngd.optimizer.momentum import running_mean
from lngd.stepsize import Move, State
from lngd.types import Flag, Scalar

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
def norm_kept(layer: Layer, move: Move, state: State, *, observe: bool) -> Iterator[None]:
    """Around a step: afterwards the weight has the norm it had before, if the layer is scale-invariant."""
    norm = layer.weight.norm()
    if observe:
        _observe(layer, move, state, norm)
    yield
    invariant = _is_invariant(state, move.accept)
    if readable(invariant) and not invariant:
        return
    ratio = norm / layer.weight.norm()
    layer.weight.mul_(torch.where(invariant & ratio.isfinite() & (ratio > 0), ratio, 1.0))


def _observe(layer: Layer, move: Move, state: State, norm: Scalar) -> None:
    grad = layer.split(move.gradient)[0]
    cosine = inner(layer.weight.to(grad.dtype), grad).abs() / (norm.to(grad.dtype) * grad.norm())
    seen = state["invariance_steps"] if "invariance_steps" in state else torch.zeros_like(cosine)
    state["invariance_steps"] = seen + (move.accept & cosine.isfinite())
    scaled = cosine * layer.weight.numel() ** 0.5
    running_mean(state, "alignment", scaled, decay=DECAY, accept=move.accept)


def _is_invariant(state: State, accept: Flag) -> Flag:
    if "alignment" not in state:
        return torch.zeros_like(accept)
    return (state["alignment"] < THRESHOLD) & (state["invariance_steps"] > AGREED) & accept
