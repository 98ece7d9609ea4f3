"""How the extra cost of a method's ordinary step grows with the width, depth, batch and classes of a perceptron.

An ordinary step neither measures nor refreshes; SGD's steps alternate with it. The extra is the difference.
"""

import gc
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from lngd.optimizer import NaturalGradient
from lngd_bench.studies.overhead.flops import Work, layer_shapes
from lngd_bench.studies.overhead.machine import Machine
from lngd_bench.studies.overhead.overhead import PAST_THE_RAMP, Trainee
from lngd_bench.studies.overhead.prediction import layers_of
from lngd_bench.studies.overhead.workloads import Inputs
from lngd_bench.tasks.models.mlp import mlp
from lngd_bench.tasks.task import MeanOver

Axis = Literal["width", "depth", "batch", "classes"]
AXES: Mapping[Axis, tuple[int, ...]] = {
    "width": (128, 256, 512, 1024, 2048, 4096),
    "depth": (2, 4, 8, 16, 32),
    "batch": (32, 64, 128, 256, 512, 1024),
    "classes": (10, 100, 1000, 10000),
}
MOST_STEPS = 15
"""No interval has more ordinary steps than this in a row after its warm-up."""


@dataclass(frozen=True)
class Perceptron:
    """`depth` hidden layers as wide as the input. The names of its fields are the axes."""

    width: int = 512
    depth: int = 3
    batch: int = 128
    classes: int = 10

    @property
    def mean_over(self) -> MeanOver:
        """What the loss is a mean over."""
        return "batch"

    def model(self) -> nn.Module:
        """A new one."""
        return mlp(*[self.width] * (self.depth + 1), self.classes)

    def batch_of_data(self) -> tuple[Inputs, Tensor]:
        """Noise, and every class in its turn."""
        return (torch.randn(self.batch, self.width),), torch.arange(self.batch) % self.classes


@dataclass(frozen=True)
class Point:
    """One size.

    Args:
        milliseconds, sgd: of an ordinary step and of SGD's beside it, medians.
        operations: of what an ordinary step adds, on paper.
        predicted: its milliseconds on paper.
    """

    axis: Axis
    value: int
    milliseconds: float
    sgd: float
    operations: float
    predicted: float

    @property
    def extra(self) -> float:
        """Milliseconds over SGD's step."""
        return self.milliseconds - self.sgd

    @property
    def ratio(self) -> float:
        """To SGD's step."""
        return self.milliseconds / self.sgd


@dataclass(frozen=True)
class Exponents:
    """p where a quantity grows as valueᵖ: the extra time over all sizes, then over the upper half, as what is on paper."""

    measured: float
    upper: float
    operations: float
    predicted: float


def measure(axis: Axis, values: Sequence[int], method: str, steps: int, machine: Machine) -> Iterator[Point]:
    """One size after the other."""
    for value in values:
        yield point(axis, replace(Perceptron(), **{axis: value}), method, steps, machine)
        gc.collect()


def point(axis: Axis, perceptron: Perceptron, method: str, steps: int, machine: Machine) -> Point:
    """One size; the first step of each, which fills its state, does not count."""
    reference = Trainee(perceptron, "sgd")
    trainee = Trainee(perceptron, method, PAST_THE_RAMP + 1)
    pairs = [(reference.step(), trainee.step()) for _ in range(1 + min(steps, MOST_STEPS))][1:]
    sgd, own = (statistics.median(times) for times in zip(*pairs, strict=True))
    work = ordinary(perceptron, method, trainee)
    return Point(axis, getattr(perceptron, axis), own, sgd, work.operations, work.milliseconds(machine))


def ordinary(perceptron: Perceptron, method: str, trainee: Trainee) -> Work:
    """What an ordinary step adds to forward and backward, on paper."""
    assert isinstance(trainee.optimizer, NaturalGradient)
    shapes = layer_shapes(trainee.model, (trainee.inputs[0][:1],))
    layers = layers_of(method, trainee.optimizer, shapes, perceptron.batch)
    return sum((layer.precondition() + layer.rate() + layer.apply() for layer in layers), Work())


def exponents(points: Sequence[Point]) -> Exponents:
    """Of one axis; the upper half, where a step is more than Python's own time, is what a formula speaks of."""
    upper = points[len(points) // 2 - 1 :] if len(points) > 2 else points
    return Exponents(
        slope([(p.value, p.extra) for p in points]),
        slope([(p.value, p.extra) for p in upper]),
        slope([(p.value, p.operations) for p in upper]),
        slope([(p.value, p.predicted) for p in upper]),
    )


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the least-squares line through the logarithms; what is not positive is left out, NaN if fewer than two points remain."""
    logs = [(math.log(x), math.log(y)) for x, y in points if x > 0 and y > 0]
    if len(logs) < 2:
        return math.nan
    return statistics.linear_regression(*zip(*logs, strict=True)).slope
