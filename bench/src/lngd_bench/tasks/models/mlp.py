"""A multi-layer perceptron with ReLU and no normalisation."""

from itertools import pairwise

from torch import nn


def mlp(*sizes: int) -> nn.Sequential:
    """Widths from the input's to the classes'; images are flattened."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
