"""A plain convolutional network: no normalisation that would forgive a badly scaled step."""

from torch import nn


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
