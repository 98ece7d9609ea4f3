"""The paper's Fig. 6 from what a record holds of it: bars instead of samples, a hundred points of each curve.

The figure is always drawn from this, so that one drawn again from a record is the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from lngd_bench.studies.gaussian.figure import STAGES, Sample, Stage
from lngd_bench.studies.gaussian.normality import CLOSE, Normal

STAGE_COLOURS = dict(zip(STAGES, ("#0072B2", "#009E73"), strict=True))
BARS, NORMAL, RECTIFIED = "#56B4E9", "#D55E00", "#000000"
BINS, CURVE_POINTS, SHOWN_DEVIATIONS = 50, 200, 3
MOST_POINTS, DIGITS = 100, 6  # of a curve of distances
INCHES_A_LAYER, INCHES_HIGH, DOTS_PER_INCH = 5.4, 8.0, 120


@dataclass(frozen=True)
class Bars:
    """One histogram of the figure.

    Attributes:
        n: all samples; `counts` leave out those that are exactly 0, which have no density.
        low, high: where the bars begin and end.
        numbers: the fields of `Normality`, flat; what is not known is NaN.
    """

    quantity: str
    n: int
    low: float
    high: float
    counts: tuple[int, ...]
    numbers: Mapping[str, float]

    @property
    def normal(self) -> Normal:
        return self._fitted("")

    @property
    def rectified(self) -> Normal:
        return self._fitted("rectified_")

    def _fitted(self, prefix: str) -> Normal:
        mean, deviation = (self.numbers[f"{prefix}{name}"] for name in ("mean", "deviation"))
        return Normal(torch.tensor(mean, dtype=torch.double), torch.tensor(deviation, dtype=torch.double))


@dataclass(frozen=True)
class Picture:
    """A layer at one stage; `distances` of all coordinates ascend, by field of `Normality`."""

    layer: str
    stage: str
    coordinate: Bars
    norm: Bars
    distances: Mapping[str, tuple[float, ...]]


def pictured(stage: Stage) -> Picture:
    """What the figure shows of it."""
    distances = {name: _points(stage.every[name]) for name in ("distance", "rectified_distance")}
    return Picture(stage.layer, stage.stage, _bars(stage.coordinate), _bars(stage.norm), distances)


def _bars(sample: Sample) -> Bars:
    values = sample.values.double()
    counts, edges = torch.histogram(values[values != 0].cpu(), BINS)
    numbers = {name: value.item() for name, value in sample.fit.numbers().items()}
    heights = tuple(int(count) for count in counts.tolist())
    return Bars(sample.quantity, len(values), edges[0].item(), edges[-1].item(), heights, numbers)


def _points(distances: Tensor) -> tuple[float, ...]:
    """The k-th of m has the share k/m of the known ones at or below it; m is their number or 100."""
    known = distances[distances.isfinite()].sort().values
    count = min(len(known), MOST_POINTS)
    points = (known[-(-k * len(known) // count) - 1].item() for k in range(1, count + 1))
    return tuple(float(f"{point:.{DIGITS}g}") for point in points)


def draw(pictures: Sequence[Picture], path: Path, title: str) -> Path:
    """Writes the PNG: layers side by side, their stages below each other, the distances of all coordinates at the bottom."""
    layers = list(dict.fromkeys(picture.layer for picture in pictures))
    figure = Figure(figsize=(INCHES_A_LAYER * len(layers), INCHES_HIGH), layout="constrained")
    parts = figure.subfigures(1, len(layers), squeeze=False)[0]
    for part, layer in zip(parts, layers, strict=True):
        part.suptitle(layer, fontsize=11)
        _draw_layer(part, [picture for picture in pictures if picture.layer == layer])
    labelled = {label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(labelled.values(), labelled, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=12)
    figure.savefig(path, dpi=DOTS_PER_INCH, facecolor="white")
    return path


def _draw_layer(part: SubFigure, pictures: Sequence[Picture]) -> None:
    grid = part.add_gridspec(len(STAGES) + 1, 2)
    for row, picture in enumerate(pictures):
        _histogram(part.add_subplot(grid[row, 0]), picture.stage, picture.coordinate)
        _histogram(part.add_subplot(grid[row, 1]), picture.stage, picture.norm)
    _distances(part.add_subplot(grid[-1, :]), pictures)


def _histogram(axes: Axes, stage: str, bars: Bars) -> None:
    """Densities over all samples; zeros are counted in words."""
    edges = np.linspace(bars.low, bars.high, len(bars.counts) + 1)
    width = edges[1] - edges[0]
    axes.bar(edges[:-1], np.array(bars.counts) / (bars.n * width), width, align="edge", color=BARS, label="samples")
    t = torch.linspace(*_range(bars), CURVE_POINTS, dtype=torch.double)
    axes.plot(t, bars.normal.density(t), color=NORMAL, label="normal, mean and deviation of the samples")
    if np.isfinite(bars.numbers["rectified_distance"]):
        label = "rectified normal, zeros and mean of the samples"
        axes.plot(t[t > 0], bars.rectified.density(t[t > 0]), color=RECTIFIED, linestyle="--", label=label)
    axes.set_title(f"{stage}, {bars.quantity}", fontsize=9)
    axes.annotate(_remark(bars.numbers), (0.97, 0.95), xycoords="axes fraction", ha="right", va="top", fontsize=8)
    axes.set_ylim(top=1.35 * axes.get_ylim()[1])  # room for the remark
    axes.set_yticks([])
    _tidy(axes)


def _range(bars: Bars) -> tuple[float, float]:
    """Of the samples, and of the normal as far as it counts: what it puts below 0 where no output is belongs to the picture."""
    normal = bars.normal
    ends = [normal.mean.item() + sign * SHOWN_DEVIATIONS * normal.deviation.item() for sign in (-1, 1)]
    return min(bars.low, ends[0]), max(bars.high, ends[1])


def _remark(numbers: Mapping[str, float]) -> str:
    distance = numbers["rectified_distance"]
    rectified = f"\nKS of values > 0: {distance:.3f}" if np.isfinite(distance) else ""
    zeros = f"\n{100 * numbers['zeros']:.0f} % exactly 0" if numbers["zeros"] > 0 else ""
    return f"KS: {numbers['distance']:.3f}{rectified}{zeros}"


def _distances(axes: Axes, pictures: Sequence[Picture]) -> None:
    """The share of coordinates whose distance is below what the axis says."""
    for picture in pictures:
        for name, style in (("distance", "-"), ("rectified_distance", "--")):
            known = picture.distances[name]
            if known:
                label = f"all coordinates, {picture.stage}{' (to the rectified normal)' if name.startswith('rect') else ''}"
                share = np.arange(1, len(known) + 1) / len(known)
                axes.plot(known, share, style, color=STAGE_COLOURS[picture.stage], label=label)
    axes.axvline(CLOSE, color="0.6", linewidth=1)
    place = (CLOSE, 1.0)
    axes.annotate(str(CLOSE), place, xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8, color="0.35")
    axes.set_xlabel("KS distance of a coordinate", fontsize=9)
    axes.set_ylabel("share of coordinates", fontsize=9)
    axes.set_xlim(left=0)
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
