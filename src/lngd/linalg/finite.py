"""What to do with a flag that says whether numbers are finite."""

import torch
from torch import Tensor

from lngd.types import Flag

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
