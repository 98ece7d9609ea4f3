"""How the extra cost of a method's ordinary step grows with the width, depth, batch and classes of a perceptron.

An ordinary step neither measures nor refreshes; SGD's steps alternate with it. The extra is the difference.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from lngd.optimizer import NaturalGradient
from lngd_bench.report.colours import COLOURS
from lngd_bench.studies.overhead.on_paper import Work, layer_shapes, layers_of, total
from lngd_bench.studies.overhead.timing import PAST_THE_RAMP, Trainee
from lngd_bench.studies.overhead.workloads import Inputs
from lngd_bench.studies.results import MISSING, markdown, number
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
HEADINGS = ("axis", "size", "ms", "SGD ms", "ratio", "extra ms", "on paper ms", "on paper Gop")
FITS = ("axis", "measured", "upper half", "on paper, operations", "on paper, time")
LEGEND = """ms: an ordinary step, which neither measures nor refreshes, and SGD's beside it, medians. extra: the difference.
on paper: what preconditioning, the rate and passes over the gradient should take on this machine. Exponents: p where the extra
grows as sizeᵖ, fitted over all sizes and over the upper half; on paper over the upper half."""


@dataclass(frozen=True)
class Perceptron:
    """`depth` hidden layers as wide as the input. The names of its fields are the axes."""

    width: int = 512
    depth: int = 3
    batch: int = 128
    classes: int = 10

    @property
    def mean_over(self) -> MeanOver:
        return "batch"

    def model(self) -> nn.Module:
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


def point(axis: Axis, perceptron: Perceptron, method: str, steps: int, second: Work) -> Point:
    """One size; the first step of each, which fills its state, does not count. `second`: what the machine does in one."""
    reference = Trainee(perceptron, "sgd")
    trainee = Trainee(perceptron, method, PAST_THE_RAMP + 1)
    pairs = [(reference.step(), trainee.step()) for _ in range(1 + min(steps, MOST_STEPS))][1:]
    sgd, own = (statistics.median(times) for times in zip(*pairs, strict=True))
    assert isinstance(trainee.optimizer, NaturalGradient)
    shapes = layer_shapes(trainee.model, (trainee.inputs[0][:1],))
    layers = layers_of(method, trainee.optimizer, shapes, perceptron.batch)
    work = total(layer.precondition().plus(layer.rate()).plus(layer.apply()) for layer in layers)
    return Point(axis, getattr(perceptron, axis), own, sgd, work.operations, work.milliseconds(second))


def exponents(points: Sequence[Point]) -> tuple[float, float, float, float]:
    """p where a quantity grows as valueᵖ, of one axis: the extra time over all sizes and over the upper half, then, over the
    upper half, operations and time on paper.

    The upper half, where a step is more than Python's own time, is what a formula speaks of.
    """
    upper = points[len(points) // 2 - 1 :] if len(points) > 2 else points
    return (
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


def by_axis(points: Sequence[Point]) -> list[list[Point]]:
    """The points of each axis, by size."""
    axes = dict.fromkeys(point.axis for point in points)
    return [sorted((p for p in points if p.axis == axis), key=lambda p: p.value) for axis in axes]


def rows(points: Sequence[Point]) -> list[list[str]]:
    """A size each, under HEADINGS."""
    return [
        [p.axis, str(p.value), *map(number, (p.milliseconds, p.sgd, p.ratio, p.extra, p.predicted, 1e-9 * p.operations))]
        for axis in by_axis(points)
        for p in axis
    ]


def fits(points: Sequence[Point]) -> list[list[str]]:
    """An axis each, under FITS."""
    found = [(axis[0].axis, exponents(axis)) for axis in by_axis(points)]
    return [[axis, *(MISSING if math.isnan(value) else f"{value:.2f}" for value in values)] for axis, values in found]


def as_markdown(title: str, points: Sequence[Point]) -> str:
    """Both tables."""
    return "\n".join([f"# {title}\n", f"{LEGEND}\n", markdown(HEADINGS, rows(points)), markdown(FITS, fits(points))])


def draw(points: Sequence[Point]) -> Figure:
    """A panel an axis."""
    axes = by_axis(points)
    figure = Figure(figsize=(max(4.5, 3.2 * len(axes)), 3.2), layout="constrained")
    panels = figure.subplots(1, len(axes), squeeze=False)[0]
    for panel, each in zip(panels, axes, strict=True):
        _panel(panel, each)
    panels[0].set_ylabel("milliseconds")
    panels[0].legend(fontsize=8)
    return figure


def _panel(axes: Axes, points: Sequence[Point]) -> None:
    values = [point.value for point in points]
    axes.plot(values, [p.sgd for p in points], color=COLOURS["sgd"], marker="s", label="SGD's step")
    axes.plot(values, [p.extra for p in points], color=COLOURS["lngd"], marker="o", linewidth=2.4, label="extra")
    axes.plot(values, [p.predicted for p in points], color="0.35", linestyle="--", label="extra on paper")
    axes.set_xscale("log", base=10 if points[0].axis == "classes" else 2)
    axes.set_yscale("log")
    axes.set_xticks(values, list(map(str, values)), fontsize=8)
    axes.minorticks_off()
    axes.set_xlabel(points[0].axis)
    axes.grid(color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
