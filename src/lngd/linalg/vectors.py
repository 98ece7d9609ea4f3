"""Matrices as vectors."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lngd.torch_private import foreach_norm
from lngd.types import Scalar, Vector


def inner(x: Float[Tensor, "..."], y: Float[Tensor, "..."]) -> Scalar:
    """⟨x, y⟩ over all entries."""
    return torch.dot(x.reshape(-1), y.reshape(-1))


def norms(tensors: Sequence[Tensor]) -> Vector:
    """‖x‖ of each; infinite where the sum of squares is."""
    return torch.stack(foreach_norm(list(tensors)))
