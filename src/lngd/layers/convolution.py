"""nn.Conv1d, nn.Conv2d, nn.Conv3d: a linear layer at every output pixel, on the patch under the kernel."""

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lngd.layers.layer import Layer
from lngd.layers.patches import CONVOLUTIONS, Patches
from lngd.types import Activations, GradientMatrix, Gradients


class ConvLayer(Layer):
    """nn.Conv1d, nn.Conv2d, nn.Conv3d with any stride, dilation, padding and groups; every output pixel is a position."""

    def __init__(self, module: nn.Module, *, with_bias: bool) -> None:
        assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        super().__init__(module, with_bias=with_bias)
        self.convolution = module
        self.groups = module.groups
        self.space = self.weight.dim() - 2
        self.batched_dims = self.space + 2
        self.kernel_places = math.prod(self.weight.shape[2:])

    def activations(self, x: Float[Tensor, "n ..."]) -> Activations:
        return self.with_ones(self.patches(x).rows())

    def patches(self, x: Float[Tensor, "n ..."]) -> Patches:
        """The input, and how the kernel moves over it."""
        convolution = self.convolution
        return Patches(
            self._pad(x.to(self.dtype)),
            kernel=tuple(self.weight.shape[2:]),
            stride=convolution.stride,
            dilation=convolution.dilation,
            groups=self.groups,
            bias=self.bias is not None,
        )

    def gradients(self, grad: Float[Tensor, "n ..."]) -> Gradients:
        return rows_of_pixels(grad.to(self.dtype), self.groups)

    def output(self, x: Float[Tensor, "n ..."], matrix: GradientMatrix) -> Float[Tensor, "n ..."]:
        weight, *bias = self.split(matrix)
        convolve, stride, dilation = CONVOLUTIONS[self.space], self.convolution.stride, self.convolution.dilation
        padded = self._pad(x.to(self.dtype))
        return convolve(padded, weight, *bias, stride=stride, dilation=dilation, groups=self.groups)

    def _pad(self, x: Tensor) -> Tensor:
        mode = self.convolution.padding_mode
        amounts = [amount for axis in reversed(range(self.space)) for amount in self._padding(axis)]
        return F.pad(x, amounts, mode="constant" if mode == "zeros" else mode) if any(amounts) else x  # of nothing, a copy

    def _padding(self, axis: int) -> tuple[int, int]:
        padding = self.convolution.padding
        if not isinstance(padding, str):
            return padding[axis], padding[axis]
        if padding == "valid":
            return 0, 0
        total = self.convolution.dilation[axis] * (self.weight.shape[2 + axis] - 1)  # "same"
        return total // 2, total - total // 2  # an odd total puts the larger half at the end, as torch does


def rows_of_pixels(pixels: Float[Tensor, "n c ..."], groups: int) -> Gradients:
    """An output's pixels as rows of its channels."""
    rows = pixels.flatten(2)
    return rows.mT if groups == 1 else rows.unflatten(1, (groups, -1)).permute(1, 0, 3, 2)
