"""Adding steps to parameters, where that leaves them finite."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lngd.linalg import choose, largest_magnitude, norms
from lngd.optimizer.momentum import Steps
from lngd.types import Flag, Flags, Vector


def add_steps(parameters: Sequence[nn.Parameter], steps: Steps, accept: Flag, *, shrink: float) -> None:
    """p ← (1 − shrink) p + length · direction for parameters of one dtype, unless that has no room in it."""
    directions, lengths = steps
    possible = accept & stay_finite(parameters, steps, shrink)
    if shrink:
        torch._foreach_mul_(list(parameters), list((1 - possible.to(lengths.dtype) * shrink).unbind()))
    lengths = torch.where(possible, lengths, 0.0)
    for p, direction, length, flag in zip(parameters, directions, lengths.unbind(), possible.unbind(), strict=True):
        direction = choose(flag, direction, 0.0)
        if direction.dtype == p.dtype:
            p.addcmul_(direction, length)
        else:
            p.add_((direction * length).to(p.dtype))


def stay_finite(parameters: Sequence[Tensor], steps: Steps, shrink: float) -> Flags:
    """Whether (1 − shrink) p + length · direction has room in p's dtype; finite numbers may be too long for it."""
    directions, lengths = steps
    before, far = _bounds(parameters), _bounds(directions)
    return abs(1 - shrink) * before.to(far.dtype) + lengths.abs() * far < torch.finfo(parameters[0].dtype).max / 2


def _bounds(tensors: Sequence[Tensor]) -> Vector:
    """max |x| ≤ ‖x‖₂, which is faster to have; the room that float16 has is too narrow for that."""
    if tensors[0].dtype == torch.float16:
        return torch.stack(largest_magnitude(list(tensors)))
    return norms(tensors)
