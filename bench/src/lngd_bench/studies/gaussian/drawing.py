"""The paper's Fig. 6 from a record: a line about the run, then those of `outputs`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from lngd_bench.report.style import tidy
from lngd_bench.studies.gaussian.normality import CLOSE
from lngd_bench.studies.gaussian.outputs import STAGES

STAGE_COLOURS = dict(zip(STAGES, ("#0072B2", "#009E73"), strict=True))
BARS, NORMAL, RECTIFIED = "#56B4E9", "#D55E00", "#000000"
CURVE_POINTS, SHOWN_DEVIATIONS = 200, 3
INCHES_A_LAYER, INCHES_HIGH = 4.8, 7.2

Line = Mapping[str, Any]


def draw(lines: Sequence[Line]) -> Figure:
    """Layers side by side, their stages below each other, the distances of all coordinates at the bottom."""
    start, *rest = lines
    layers = list(dict.fromkeys(line["layer"] for line in rest))
    figure = Figure(figsize=(INCHES_A_LAYER * len(layers), INCHES_HIGH), layout="constrained")
    parts = figure.subfigures(1, len(layers), squeeze=False)[0]
    for part, layer in zip(parts, layers, strict=True):
        part.suptitle(layer, fontsize=11)
        _draw_layer(part, [line for line in rest if line["layer"] == layer])
    labelled = {label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(labelled.values(), labelled, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    config = start["config"]
    figure.suptitle(f"{config['title']}: {rest[0]['n']:,} samples after {config['total_steps']} steps", fontsize=12)
    return figure


def _draw_layer(part: SubFigure, lines: Sequence[Line]) -> None:
    grid = part.add_gridspec(len(STAGES) + 1, 2)
    bars = [line for line in lines if line["event"] == "sample"]
    for index, line in enumerate(bars):
        _histogram(part.add_subplot(grid[index // 2, index % 2]), line)
    _distances(part.add_subplot(grid[-1, :]), [line for line in lines if line["event"] == "coordinates"])


def _histogram(axes: Axes, line: Line) -> None:
    """Densities over all samples; zeros are counted in words."""
    edges = np.linspace(line["low"], line["high"], len(line["counts"]) + 1)
    width = edges[1] - edges[0]
    axes.bar(edges[:-1], np.array(line["counts"]) / (line["n"] * width), width, align="edge", color=BARS, label="samples")
    mean, deviation = line["mean"], line["deviation"]
    # What the normal puts below 0, where no output is, belongs to the picture.
    low, high = mean - SHOWN_DEVIATIONS * deviation, mean + SHOWN_DEVIATIONS * deviation
    t = np.linspace(min(line["low"], low), max(line["high"], high), CURVE_POINTS)
    axes.plot(t, _density(t, mean, deviation), color=NORMAL, label="normal, mean and deviation of the samples")
    if line["rectified_distance"] is not None:
        above = t[t > 0]
        curve = _density(above, line["rectified_mean"], line["rectified_deviation"])
        axes.plot(above, curve, color=RECTIFIED, linestyle="--", label="rectified normal, zeros and mean of the samples")
    axes.set_title(f"{line['stage']}, {line['quantity']}", fontsize=9)
    distance = line["rectified_distance"]
    remark = f"KS: {line['distance']:.3f}" + ("" if distance is None else f"\nKS of values > 0: {distance:.3f}")
    remark += f"\n{100 * line['zeros']:.0f} % exactly 0" if line["zeros"] > 0 else ""
    axes.annotate(remark, (0.97, 0.95), xycoords="axes fraction", ha="right", va="top", fontsize=8)
    axes.set_ylim(top=1.35 * axes.get_ylim()[1])  # room for the remark
    axes.set_yticks([])
    _tidy(axes)


def _density(t: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    return np.exp(-(((t - mean) / deviation) ** 2) / 2) / (deviation * math.sqrt(2 * math.pi))


def _distances(axes: Axes, lines: Sequence[Line]) -> None:
    """The share of coordinates whose distance is below what the axis says."""
    for line in lines:
        for name, style, to_what in (("normal", "-", ""), ("rectified", "--", " (to the rectified normal)")):
            if known := line[name]["curve"]:
                share = np.arange(1, len(known) + 1) / len(known)
                label = f"all coordinates, {line['stage']}{to_what}"
                axes.plot(known, share, style, color=STAGE_COLOURS[line["stage"]], label=label)
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
    tidy(axes, grid=False)
