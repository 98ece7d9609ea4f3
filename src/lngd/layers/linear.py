"""nn.Linear, which is a linear layer already."""

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lngd.layers.layer import Layer
from lngd.types import Activations, GradientMatrix, Gradients


class LinearLayer(Layer):
    """nn.Linear; every dimension between the first and the last is a position."""

    def activations(self, x: Float[Tensor, "n ..."]) -> Activations:
        return self._with_ones(x.to(self.dtype).reshape(len(x), math.prod(x.shape[1:-1]), x.shape[-1]))

    def gradients(self, grad: Float[Tensor, "n ..."]) -> Gradients:
        return grad.to(self.dtype).reshape(len(grad), math.prod(grad.shape[1:-1]), grad.shape[-1])

    def output(self, x: Float[Tensor, "n ..."], matrix: GradientMatrix) -> Float[Tensor, "n ..."]:
        return F.linear(x.to(self.dtype), *self.split(matrix))
