"""nn.Embedding: a linear layer whose inputs are one-hot, of the vocabulary's size."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lngd.layers.layer import Layer, in_shape
from lngd.types import GradientMatrix, Gradients, OneHot


class EmbeddingLayer(Layer):
    """W is the transposed weight `[V, E]`; every index is a position, those that are `padding_idx` are no input at all."""

    one_hot: ClassVar[bool] = True
    unsupported: ClassVar[dict[str, Callable[[Any], bool]]] = {
        "max_norm changes its weight in the forward pass": lambda module: module.max_norm is not None,
        "scale_grad_by_freq scales its gradient": lambda module: module.scale_grad_by_freq,
        "its gradient is sparse": lambda module: module.sparse,
    }
    on_request = "AdamW trains embeddings better (docs/layers.md); a group with curvature=True overrides that"
    batched_dims = 1

    def __init__(self, module: nn.Module, *, with_bias: bool) -> None:
        assert isinstance(module, nn.Embedding)
        super().__init__(module, with_bias=with_bias)
        self.padding_idx = module.padding_idx

    @property
    def outputs(self) -> int:
        return self.weight.shape[1]

    def activations(self, x: Int[Tensor, "n ..."]) -> OneHot:
        places, size = in_shape(x, len(x), math.prod(x.shape[1:])).long(), len(self.weight)
        if self.padding_idx is not None:
            places = places.masked_fill(places == self.padding_idx, size)
        return OneHot(places, size, self.dtype)

    def gradients(self, grad: Float[Tensor, "n ..."]) -> Gradients:
        return in_shape(grad.to(self.dtype), len(grad), math.prod(grad.shape[1:-1]), self.outputs)

    def output(self, x: Int[Tensor, "n ..."], matrix: GradientMatrix) -> Float[Tensor, "n ..."]:
        return F.embedding(x, matrix.mT)

    def weight_as_matrix(self, weight: Tensor) -> GradientMatrix:
        return weight.mT

    def matrix_as_weight(self, matrix: GradientMatrix) -> Tensor:
        return matrix.mT
