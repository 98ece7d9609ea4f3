"""nn.MultiheadAttention's in-projection: three linear layers of one size in one weight."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lngd.layers.layer import Layer
from lngd.types import Activations, GradientMatrix, Gradients


class AttentionInput(Layer):
    """Queries, keys and values as three groups, each with factors of its own.

    Its `x` is no module's input: `lngd.capture.attention` makes it with `inputs_of`, `[n, 3, s, i]`, a bias's constant included.
    """

    weight_name = "in_proj_weight"
    bias_name = "in_proj_bias"
    batched_dims = 3
    unsupported: ClassVar[dict[str, Callable[[Any], bool]]] = {
        "no curvature for MultiheadAttention with kdim or vdim": lambda module: not module._qkv_same_embed_dim,
        "no curvature for MultiheadAttention with add_bias_kv": lambda module: module.bias_k is not None,
    }

    def __init__(self, module: nn.Module, *, with_bias: bool) -> None:
        super().__init__(module, with_bias=with_bias)
        self.groups = 3

    def inputs_of(self, x: Float[Tensor, "n s e"], groups: slice) -> Float[Tensor, "n 3 s i"]:
        """An input as that of some of the three groups; rows of the others are zero and count in no second moment."""
        rows = self.with_ones(x).unsqueeze(1)
        if groups == slice(0, 3):
            return rows.expand(-1, 3, -1, -1)
        return in_groups(rows, groups)

    def activations(self, x: Float[Tensor, "n 3 s i"]) -> Activations:
        return x.to(self.dtype).transpose(0, 1)

    def gradients(self, grad: Float[Tensor, "n 3 s o"]) -> Gradients:
        return grad.to(self.dtype).transpose(0, 1)

    def output(self, x: Float[Tensor, "n 3 s i"], matrix: GradientMatrix) -> Float[Tensor, "n 3 s o"]:
        return x.to(self.dtype) @ matrix.mT


def in_groups(rows: Float[Tensor, "n k s d"], groups: slice) -> Float[Tensor, "n 3 s d"]:
    """Rows of some of the three groups, zeros in the others; one row for all of them will do."""
    count = groups.stop - groups.start
    return F.pad(rows.expand(-1, count, -1, -1), (0, 0, 0, 0, groups.start, 3 - groups.stop))
