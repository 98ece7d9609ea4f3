"""How the extra cost of a method's ordinary step grows with the width, depth, batch and classes of a perceptron.

An ordinary step neither measures nor refreshes; SGD's steps alternate with it. The extra is the difference.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import linear_regression, median
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lngd.optimizer import NaturalGradient
from lngd_bench.report.style import COLOURS, tidy
from lngd_bench.studies.overhead.on_paper import Work, layer_shapes, layers_of, total
from lngd_bench.studies.overhead.timing import PAST_THE_RAMP, Trainee
from lngd_bench.studies.results import MISSING, markdown, number
from lngd_bench.tasks.models.plain import mlp

BASE = {"width": 512, "depth": 3, "batch": 128, "classes": 10}
"""A perceptron of `depth` hidden layers as wide as the input."""
AXES: Mapping[str, tuple[int, ...]] = {
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

Point = Mapping[str, Any]
"""One size: `axis`, `value`, `milliseconds` and `sgd` of an ordinary step and of SGD's beside it, `operations` that such a step
adds on paper, and its `predicted` milliseconds."""


def perceptron(sizes: Mapping[str, int], method: str, first: int | None = None) -> Trainee:
    """Its inputs are noise, its targets every class in its turn."""
    model = mlp(*[sizes["width"]] * (sizes["depth"] + 1), sizes["classes"])
    inputs, targets = torch.randn(sizes["batch"], sizes["width"]), torch.arange(sizes["batch"]) % sizes["classes"]
    return Trainee(method, model, (inputs,), targets, first=first)


def point(axis: str, sizes: Mapping[str, int], method: str, steps: int, second: Work) -> dict[str, Any]:
    """The first step, which fills the state, does not count. `second`: what the machine does in one."""
    reference, trainee = perceptron(sizes, "sgd"), perceptron(sizes, method, PAST_THE_RAMP + 1)
    pairs = [(reference.step(), trainee.step()) for _ in range(1 + min(steps, MOST_STEPS))][1:]
    sgd, own = (median(times) for times in zip(*pairs, strict=True))
    assert isinstance(trainee.optimizer, NaturalGradient)
    shapes = layer_shapes(trainee.model, (trainee.inputs[0][:1],))
    layers = layers_of(method, trainee.optimizer, shapes, sizes["batch"])
    work = total(layer.precondition().plus(layer.rate()).plus(layer.apply()) for layer in layers)
    times = {"milliseconds": own, "sgd": sgd, "operations": work.operations, "predicted": work.milliseconds(second)}
    return {"axis": axis, "value": sizes[axis], **times}


def extra(point: Point) -> float:
    """Milliseconds over SGD's step."""
    return point["milliseconds"] - point["sgd"]


def exponents(points: Sequence[Point]) -> tuple[float, float, float, float]:
    """p where a quantity grows as valueᵖ, of one axis: the extra time over all sizes and over the upper half, then, over the
    upper half, operations and time on paper.

    The upper half, where a step is more than Python's own time, is what a formula speaks of.
    """
    upper = points[len(points) // 2 - 1 :] if len(points) > 2 else points
    return (
        slope([(p["value"], extra(p)) for p in points]),
        slope([(p["value"], extra(p)) for p in upper]),
        slope([(p["value"], p["operations"]) for p in upper]),
        slope([(p["value"], p["predicted"]) for p in upper]),
    )


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the least-squares line through the logarithms; what is not positive is left out, NaN if fewer than two points remain."""
    logs = [(math.log(x), math.log(y)) for x, y in points if x > 0 and y > 0]
    return linear_regression(*zip(*logs, strict=True)).slope if len(logs) > 1 else math.nan


def by_axis(points: Sequence[Point]) -> list[list[Point]]:
    """The points of each axis, by size."""
    return [sorted(axis, key=lambda p: p["value"]) for _, axis in groupby(points, key=lambda p: p["axis"])]


def tables(points: Sequence[Point]) -> list[tuple[Sequence[str], list[list[str]]]]:
    """Headings and rows: a size each, and an axis each."""
    sizes, fits = [], []
    for axis in by_axis(points):
        name = axis[0]["axis"]
        fits.append([name, *(MISSING if math.isnan(value) else f"{value:.2f}" for value in exponents(axis))])
        for p in axis:
            own, sgd = p["milliseconds"], p["sgd"]
            figures = (own, sgd, own / sgd, extra(p), p["predicted"], 1e-9 * p["operations"])
            sizes.append([name, str(p["value"]), *map(number, figures)])
    return [(HEADINGS, sizes), (FITS, fits)]


def as_markdown(title: str, points: Sequence[Point]) -> str:
    """Both tables."""
    return "\n".join([f"# {title}\n", f"{LEGEND}\n", *(markdown(*table) for table in tables(points))])


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
    name, values = points[0]["axis"], [point["value"] for point in points]
    axes.plot(values, [p["sgd"] for p in points], color=COLOURS["sgd"], marker="s", label="SGD's step")
    axes.plot(values, [extra(p) for p in points], color=COLOURS["lngd"], marker="o", linewidth=2.4, label="extra")
    axes.plot(values, [p["predicted"] for p in points], color="0.35", linestyle="--", label="extra on paper")
    axes.set_xscale("log", base=10 if name == "classes" else 2)
    axes.set_yscale("log")
    axes.set_xticks(values, list(map(str, values)), fontsize=8)
    axes.minorticks_off()
    axes.set_xlabel(name)
    axes.grid(color="0.9", linewidth=0.8)
    tidy(axes, grid=False)
