"""Matrices as vectors."""

import torch
from jaxtyping import Float
from torch import Tensor


def inner(x: Float[Tensor, "l n"], y: Float[Tensor, "l n"]) -> Float[Tensor, " l"]:
    """⟨x, y⟩ of each row."""
    return torch.linalg.vecdot(x, y)
