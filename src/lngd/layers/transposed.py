"""nn.ConvTranspose1d, 2d, 3d: a convolution with stride 1 over an input that zeros have stretched, its kernel turned around."""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lngd.layers.convolution import rows_of_pixels
from lngd.layers.layer import Layer
from lngd.layers.patches import TRANSPOSED, rows_of_patches, windows
from lngd.types import Activations, GradientMatrix, Gradients


class ConvTransposeLayer(Layer):
    """Any stride, padding, output padding, dilation and groups; every output pixel is a position.

    y[p] = Σ W[k] x[t] over all p = stride·t + dilation·k − padding: with z the input, stride − 1 zeros after each pixel, a window
    of z around p holds the x[t] in the reverse order of k.
    """

    def __init__(self, module: nn.Module, *, with_bias: bool) -> None:
        assert isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
        super().__init__(module, with_bias=with_bias)
        self.convolution = module
        self.groups = module.groups
        self.space = self.weight.dim() - 2
        self.batched_dims = self.space + 2

    @property
    def outputs(self) -> int:
        return self.weight.shape[1]

    def refuses_call(self, args: tuple, kwargs: dict[str, Any]) -> str | None:
        size = args[1] if len(args) > 1 else kwargs.get("output_size")
        return None if size is None else "it was called with output_size; give the module output_padding instead"

    def activations(self, x: Float[Tensor, "n ..."]) -> Activations:
        padded = F.pad(self._stretched(x.to(self.dtype)), self._padding())
        patches = windows(padded, self.weight.shape[2:], (1,) * self.space, self.convolution.dilation)
        reversed_kernel = patches.flip(*range(2 + self.space, 2 + 2 * self.space))
        return self.with_ones(rows_of_patches(reversed_kernel, self.groups))

    def gradients(self, grad: Float[Tensor, "n ..."]) -> Gradients:
        return rows_of_pixels(grad.to(self.dtype), self.groups)

    def output(self, x: Float[Tensor, "n ..."], matrix: GradientMatrix) -> Float[Tensor, "n ..."]:
        weight, *bias = self.split(matrix)
        module = self.convolution
        return TRANSPOSED[self.space](
            x.to(self.dtype),
            weight,
            *bias,
            stride=module.stride,
            padding=module.padding,
            output_padding=module.output_padding,
            groups=module.groups,
            dilation=module.dilation,
        )

    def weight_as_matrix(self, weight: Tensor) -> GradientMatrix:
        """From `[groups · in, o, *kernel]`."""
        return weight.unflatten(0, (*self.group_shape, -1)).movedim(-self.space - 1, -self.space - 2).flatten(-self.space - 1)

    def matrix_as_weight(self, matrix: GradientMatrix) -> Tensor:
        columns = matrix.unflatten(-1, (-1, *self.weight.shape[2:])).movedim(-self.space - 2, -self.space - 1)
        return columns.reshape(self.weight.shape)

    def _stretched(self, x: Tensor) -> Tensor:
        """With stride − 1 zeros between neighbours."""
        stride = self.convolution.stride
        sizes = [(size - 1) * step + 1 for size, step in zip(x.shape[2:], stride, strict=True)]
        stretched = x.new_zeros(*x.shape[:2], *sizes)
        every = [slice(None, None, step) for step in (1, 1, *stride)]
        stretched[tuple(every)] = x
        return stretched

    def _padding(self) -> list[int]:
        """As F.pad takes it, the last dimension first; where it is negative, pixels are cut off."""
        amounts: list[int] = []
        for axis in reversed(range(self.space)):
            reach = self.convolution.dilation[axis] * (self.weight.shape[2 + axis] - 1)
            before = reach - int(self.convolution.padding[axis])
            amounts += [before, before + self.convolution.output_padding[axis]]
        return amounts
