"""Networks without normalisation, which would forgive a badly scaled step: a perceptron and a convolutional one, with ReLU."""

from itertools import pairwise

from torch import nn


def mlp(*sizes: int) -> nn.Sequential:
    """Widths from the input's to the classes'; images are flattened."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn(channels: tuple[int, int, int] = (16, 32, 64), classes: int = 10) -> nn.Sequential:
    """Three 3×3 convolutions, each halving the image (28 → 14 → 7 → 3), and two linear layers."""
    first, second, third = channels
    return nn.Sequential(
        *_stage(1, first),
        *_stage(first, second),
        *_stage(second, third),
        nn.Flatten(),
        nn.Linear(third * 3 * 3, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )


def _stage(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
