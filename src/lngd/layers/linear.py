"""nn.Linear, which is a linear layer already, and GPT-2's Conv1D, which is one with its weight stored the other way round."""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lngd.layers.layer import Layer, in_shape
from lngd.types import Activations, GradientMatrix, Gradients


class LinearLayer(Layer):
    """nn.Linear; every dimension between the first and the last is a position."""

    folds: ClassVar[bool] = True

    def activations(self, x: Float[Tensor, "n ..."]) -> Activations:
        return self.with_ones(_rows(x.to(self.dtype)))

    def gradients(self, grad: Float[Tensor, "n ..."]) -> Gradients:
        return _rows(grad.to(self.dtype))

    def output(self, x: Float[Tensor, "n ..."], matrix: GradientMatrix) -> Float[Tensor, "n ..."]:
        x = x.to(matrix.dtype)
        return F.linear(x, matrix) if self.bias is None else F.linear(x, matrix[:, :-1], matrix[:, -1])

    def outputs_of_each(self, x: Float[Tensor, "l n c"], matrices: Float[Tensor, "l o i"]) -> Float[Tensor, "l n o"]:
        """`output` of several layers like this one on inputs without positions, in one product."""
        x = x.to(matrices.dtype)
        if self.bias is None:
            return torch.bmm(x, matrices.mT)
        return torch.baddbmm(matrices[..., -1].unsqueeze(1), x, matrices[..., :-1].mT)

    def split(self, matrix: GradientMatrix) -> list[Tensor]:
        if type(self).matrix_as_weight is not Layer.matrix_as_weight:
            return super().split(matrix)
        return [matrix] if self.bias is None else [matrix[:, :-1], matrix[:, -1]]  # the same with nothing called


class Conv1DLayer(LinearLayer):
    """`y = x W + b` with the weight `[i, o]`: `Conv1D` of transformers, of which GPT-2 is built."""

    @property
    def outputs(self) -> int:
        return self.weight.shape[1]

    def weight_as_matrix(self, weight: Tensor) -> GradientMatrix:
        return weight.mT

    def matrix_as_weight(self, matrix: GradientMatrix) -> Tensor:
        return matrix.mT


def is_conv1d(module: nn.Module) -> bool:
    """Whether a module is transformers' Conv1D, or a subclass that leaves its forward alone; transformers is not imported.

    What tells it from others of that name: `nf` outputs, a weight `[i, nf]` and a bias `[nf]`, and nothing else.
    """
    named = next((kind for kind in type(module).__mro__ if kind.__name__ == "Conv1D"), None)
    if named is None or vars(named).get("forward") is not type(module).forward:
        return False
    own = {name: tuple(p.shape) for name, p in module.named_parameters(recurse=False)}
    weight, outputs = own.get("weight", ()), getattr(module, "nf", None)
    return own == {"weight": weight, "bias": (outputs,)} and weight[1:] == (outputs,)


def _rows(t: Tensor) -> Float[Tensor, "n s d"]:
    """With all positions in one dimension."""
    return in_shape(t, len(t), math.prod(t.shape[1:-1]), t.shape[-1])
