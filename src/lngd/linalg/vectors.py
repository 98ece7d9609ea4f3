"""Matrices as vectors."""

import torch
from jaxtyping import Float
from torch import Tensor

from lngd.types import Scalar


def inner(x: Float[Tensor, "..."], y: Float[Tensor, "..."]) -> Scalar:
    """⟨x, y⟩ over all entries."""
    return torch.dot(x.reshape(-1), y.reshape(-1))
