"""nn.Module → (a, g): after this file every supported module is a linear layer.

The contract of an adapter, checked for each one against autograd: with `a = layer.activations(x)` of shape `[n, s, i]` and
`g = layer.gradients(∂loss/∂output)` of shape `[n, s, o]`, `einsum("nso,nsi->oi", g, a)` is the weight's gradient (the bias
last, as the weight of a constant input 1). A grouped convolution has a leading group dimension in all three.
A new layer is one class here and one row in `LAYERS`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lngd.types import Activations, GradientMatrix, Gradients


class Layer(ABC):
    """A module seen as `s = W a`. `with_bias`: its bias is trained too and counts as the last input."""

    batched_dims: int = 2
    """The least number of dimensions that an input with a batch dimension has."""

    def __init__(self, module: nn.Module, *, with_bias: bool) -> None:
        self.module = module
        self.weight: nn.Parameter = module.get_parameter("weight")
        self.bias: nn.Parameter | None = module.get_parameter("bias") if with_bias else None
        self.groups: int = getattr(module, "groups", 1)
        self.least_dtype = torch.float32
        self.batch_dim = 0

    @abstractmethod
    def activations(self, x: Float[Tensor, "n ..."]) -> Activations:
        """The module's input as rows that W multiplies."""

    @abstractmethod
    def gradients(self, grad: Float[Tensor, "n ..."]) -> Gradients:
        """A tensor shaped like the module's output as rows."""

    @abstractmethod
    def output(self, x: Float[Tensor, "n ..."], matrix: GradientMatrix) -> Float[Tensor, "n ..."]:
        """What the module would put out if `matrix` were its weights: `D a`, shaped like the output. Nothing is unfolded."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Weight first, then the bias if it is trained."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    @property
    def inputs(self) -> int:
        """i, the bias's constant 1 included."""
        return self.weight[0].numel() + (self.bias is not None)

    @property
    def outputs(self) -> int:
        """o, per group."""
        return self.weight.shape[0] // self.groups

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of statistics: float32 or better, whatever the parameters' dtype."""
        return torch.promote_types(self.weight.dtype, self.least_dtype)

    def gradient(self) -> GradientMatrix:
        """The gradient of the loss as one matrix."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return self.matrix(grads)

    def matrix(self, tensors: list[Tensor]) -> GradientMatrix:
        """Tensors shaped like `parameters` as one matrix, in the statistics' dtype. Always a copy."""
        columns = [t.reshape(*self._group_shape(), self.outputs, -1).to(self.dtype) for t in tensors]
        return torch.cat(columns, dim=-1)

    def split(self, matrix: GradientMatrix) -> list[Tensor]:
        """The inverse of `matrix`: one tensor per parameter, in its shape."""
        if self.bias is None:
            return [matrix.reshape(self.weight.shape)]
        return [matrix[..., :-1].reshape(self.weight.shape), matrix[..., -1].reshape(self.bias.shape)]

    def batch_first(self, t: Tensor) -> Tensor:
        """An input or output with its samples in the first dimension; called twice, as it was."""
        return t if self.batch_dim == 0 or t.dim() <= self.batch_dim + 1 else t.transpose(0, self.batch_dim)

    def refuses_call(self, args: tuple, kwargs: dict[str, Any]) -> str | None:
        """Why a call has no curvature, if it has none."""
        return None

    def check_batch(self, x: Tensor, name: str) -> None:
        """Raises ValueError if `x` has no batch dimension: a Fisher matrix is a mean over samples."""
        if x.dim() < self.batched_dims:
            raise ValueError(
                f"layer '{name}' got an input of shape {tuple(x.shape)}, which has no batch dimension: "
                f"{type(self.module).__name__} needs at least {self.batched_dims} dimensions here, put x.unsqueeze(0) in"
            )

    def _group_shape(self) -> tuple[int, ...]:
        return (self.groups,) if self.groups > 1 else ()

    def _with_ones(self, a: Float[Tensor, "*group n s c"]) -> Activations:
        return a if self.bias is None else F.pad(a, (0, 1), value=1.0)


class LinearLayer(Layer):
    """nn.Linear; every dimension between the first and the last is a position."""

    def activations(self, x: Float[Tensor, "n ..."]) -> Activations:
        return self._with_ones(x.to(self.dtype).reshape(len(x), math.prod(x.shape[1:-1]), x.shape[-1]))

    def gradients(self, grad: Float[Tensor, "n ..."]) -> Gradients:
        return grad.to(self.dtype).reshape(len(grad), math.prod(grad.shape[1:-1]), grad.shape[-1])

    def output(self, x: Float[Tensor, "n ..."], matrix: GradientMatrix) -> Float[Tensor, "n ..."]:
        return F.linear(x.to(self.dtype), *self.split(matrix))


CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class ConvLayer(Layer):
    """nn.Conv1d, nn.Conv2d, nn.Conv3d with any stride, dilation, padding and groups; every output pixel is a position."""

    def __init__(self, module: nn.Module, *, with_bias: bool) -> None:
        assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        super().__init__(module, with_bias=with_bias)
        self.convolution = module
        self.space = self.weight.dim() - 2
        self.batched_dims = self.space + 2

    def activations(self, x: Float[Tensor, "n ..."]) -> Activations:
        patches = self._pad(x.to(self.dtype))
        for axis in range(self.space):
            patches = self._windows(patches, axis)
        patches = patches.unflatten(1, (self.groups, -1))  # [n, groups, channels, *pixels, *kernel]
        pixels, kernel = (range(3 + start, 3 + start + self.space) for start in (0, self.space))
        positions = math.prod(patches.shape[3 : 3 + self.space])
        rows = patches.permute(1, 0, *pixels, 2, *kernel).reshape(self.groups, len(x), positions, self.weight[0].numel())
        return self._with_ones(rows if self.groups > 1 else rows[0])

    def gradients(self, grad: Float[Tensor, "n ..."]) -> Gradients:
        rows = grad.to(self.dtype).reshape(len(grad), self.groups, self.outputs, -1).permute(1, 0, 3, 2)
        return rows if self.groups > 1 else rows[0]

    def output(self, x: Float[Tensor, "n ..."], matrix: GradientMatrix) -> Float[Tensor, "n ..."]:
        weight, *bias = self.split(matrix)
        convolve, stride, dilation = CONVOLUTIONS[self.space], self.convolution.stride, self.convolution.dilation
        padded = self._pad(x.to(self.dtype))
        return convolve(padded, weight, *bias, stride=stride, dilation=dilation, groups=self.groups)

    def _windows(self, x: Tensor, axis: int) -> Tensor:
        kernel, dilation = self.weight.shape[2 + axis], self.convolution.dilation[axis]
        return x.unfold(2 + axis, dilation * (kernel - 1) + 1, self.convolution.stride[axis])[..., ::dilation]

    def _pad(self, x: Tensor) -> Tensor:
        mode = self.convolution.padding_mode
        amounts = [amount for axis in reversed(range(self.space)) for amount in self._padding(axis)]
        return F.pad(x, amounts, mode="constant" if mode == "zeros" else mode)

    def _padding(self, axis: int) -> tuple[int, int]:
        padding = self.convolution.padding
        if not isinstance(padding, str):
            return padding[axis], padding[axis]
        if padding == "valid":
            return 0, 0
        total = self.convolution.dilation[axis] * (self.weight.shape[2 + axis] - 1)  # "same"
        return total // 2, total - total // 2  # an odd total puts the larger half at the end, as torch does


LAYERS: dict[type[nn.Module], type[Layer]] = {
    nn.Linear: LinearLayer,
    nn.Conv1d: ConvLayer,
    nn.Conv2d: ConvLayer,
    nn.Conv3d: ConvLayer,
}
"""Which modules have curvature. A subclass counts as its parent unless it has a forward of its own."""


def adapter_of(module: nn.Module) -> type[Layer] | None:
    """The adapter for a module, or None if it has none."""
    for supported, adapter in LAYERS.items():
        if isinstance(module, supported) and type(module).forward is supported.forward:
            return adapter
    return None
