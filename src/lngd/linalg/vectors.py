"""Matrices as vectors."""

import torch
from jaxtyping import Float
from torch import Tensor

from lngd.types import Scalar


def inner(x: Float[Tensor, "..."], y: Float[Tensor, "..."]) -> Scalar:
    """⟨x, y⟩ over all entries."""
    return torch.dot(x.reshape(-1), y.reshape(-1))


def inner_of_each(x: Float[Tensor, "l n"], y: Float[Tensor, "l n"]) -> Float[Tensor, " l"]:
    """⟨x, y⟩ of each row."""
    if len(x) == 1:
        return inner(x, y).unsqueeze(0)  # writes no products
    return torch.linalg.vecdot(x, y)
