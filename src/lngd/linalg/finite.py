"""Whether numbers are finite, and what to do with a flag that says so."""

import math

import torch
from torch import Tensor

from lngd.linalg.vectors import norms
from lngd.torch_private import foreach_norm
from lngd.types import Flag, Scalar

HOST = {"cpu"}
"""Devices whose memory is the host's own: reading a flag there waits for nothing."""


def readable(flag: Tensor) -> bool:
    """Whether a tensor lies in the host's own memory."""
    return flag.device.type in HOST


def choose(accept: Flag, new: Tensor, old: Tensor | float) -> Tensor:
    """`new` where the flag is true, else `old`, without waiting for the device.

    A `readable` flag is read instead: no entry is copied.
    """
    if not readable(accept):
        return torch.where(accept, new, old)
    if accept:
        return new
    return old if isinstance(old, Tensor) else torch.full_like(new, old)


def all_finite(tensors: list[Tensor]) -> Flag:
    """Whether no tensor holds a NaN or an infinity; one pass, and the answer stays on the device.

    The largest magnitude is finite exactly if every entry is, and unlike a sum of squares it cannot overflow. Where reading
    waits for nothing the faster sum of squares is asked first: if it is finite, so is every entry.
    """
    if all(readable(t) for t in tensors) and (finite := norms(tensors).isfinite().all()):
        return finite
    largest = largest_magnitude(tensors)
    device = largest[0].device
    return torch.stack([value.isfinite().to(device) for value in largest]).all()


def largest_magnitude(tensors: list[Tensor]) -> list[Scalar]:
    """max |x| of each tensor, NaN if it holds one.

    torch's norm of order infinity takes twenty times as long as its extrema on the CPU, and is one kernel for all elsewhere.
    """
    filled = [t if t.numel() else t.new_zeros(1) for t in tensors]
    if any(t.device.type != "cpu" for t in filled):
        return list(foreach_norm(filled, ord=math.inf))
    extrema = (torch.aminmax(t) for t in filled)
    return [torch.maximum(high, -low) for low, high in extrema]
