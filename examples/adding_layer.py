"""Curvature for a layer of one's own, by an adapter: python examples/adding_layer.py"""

import torch
from torch import nn

import lngd
from patterns import train


def product(x, weight):
    """Each block `[o, i]` of the weight times its share of the inputs."""
    return torch.einsum("...ki,koi->...ko", x.unflatten(-1, (len(weight), -1)), weight)


class BlockDiagonal(nn.Module):
    """y = W x + b with W zero off k blocks."""

    def __init__(self, blocks, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(blocks, outputs, inputs) * inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(blocks, outputs))

    def forward(self, x):
        return (product(x, self.weight) + self.bias).flatten(-2)


class BlockDiagonalLayer(lngd.Layer):
    """k linear layers, as groups: a is `[k, n, s, i]`, g `[k, n, s, o]`, the matrix `[k, o, i]`."""

    def __init__(self, module, *, with_bias):
        super().__init__(module, with_bias=with_bias)
        self.groups = len(self.weight)

    @property
    def outputs(self):
        return self.weight.shape[1]

    def activations(self, x):
        return self.with_ones(self.gradients(x))

    def gradients(self, grad):  # inputs and outputs are cut alike
        return grad.to(self.dtype).reshape(len(grad), -1, self.groups, grad.shape[-1] // self.groups).movedim(2, 0)

    def output(self, x, matrix):
        weight, *bias = self.split(matrix)
        return sum(bias, product(x.to(self.dtype), weight)).flatten(-2)


lngd.register_layer(BlockDiagonal, BlockDiagonalLayer)
lngd.check_layer(BlockDiagonal(4, 5, 3), torch.randn(6, 7, 20))  # silent if all is right
torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = nn.Sequential(BlockDiagonal(4, 16, 16), nn.GELU(), nn.Linear(64, 32), nn.GELU(), BlockDiagonal(2, 16, 5)).to(device)
optimizer = lngd.LNGD(model)
print(optimizer.summary())
train(model, optimizer)
