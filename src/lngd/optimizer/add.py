"""Adding a step to a parameter, where that leaves it finite."""

import torch
from torch import Tensor, nn

from lngd.linalg import choose, largest_magnitude
from lngd.types import Flag, Scalar


def add_step(p: nn.Parameter, step: tuple[Tensor, Tensor], accept: Flag, *, shrink: float) -> None:
    """p ← (1 − shrink) p + length · direction, unless that has no room in p's dtype."""
    direction, length = step
    possible = accept & stays_finite(p, step, shrink)
    if shrink:
        p.mul_(1 - possible.to(direction.dtype) * shrink)
    direction = choose(possible, direction, 0.0)
    if direction.dtype == p.dtype:
        p.addcmul_(direction, torch.where(possible, length, 0.0))
    else:
        p.add_((direction * torch.where(possible, length, 0.0)).to(p.dtype))


def stays_finite(p: Tensor, step: tuple[Tensor, Tensor], shrink: float) -> Flag:
    """Whether (1 − shrink) p + length · direction has room in p's dtype; finite numbers may be too long for it."""
    direction, length = step
    before, far = _bound(p), _bound(direction)
    return abs(1 - shrink) * before.to(far.dtype) + length.abs() * far < torch.finfo(p.dtype).max / 2


def _bound(t: Tensor) -> Scalar:
    """max |x| ≤ ‖x‖₂, which is faster to have; the room that float16 has is too narrow for that."""
    return largest_magnitude([t])[0] if t.dtype == torch.float16 else t.norm()
