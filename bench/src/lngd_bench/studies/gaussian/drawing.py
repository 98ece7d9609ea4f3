"""The paper's Fig. 6 and the record that it is drawn from: bars instead of samples, a hundred points of each curve.

A record has one line about the run, then three for each layer and stage: a coordinate, the norm, and all coordinates together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from lngd_bench import archive
from lngd_bench.errors import BenchError
from lngd_bench.studies.gaussian.normality import CLOSE, PerSample, aggregate
from lngd_bench.studies.gaussian.outputs import STAGES, Sample, Stage
from lngd_bench.studies.results import records_at
from lngd_bench.training.records import Header, finite

STUDY = "gaussian"
FILE = f"{STUDY}.jsonl"
DISTANCES = {"normal": "distance", "rectified": "rectified_distance"}
STAGE_COLOURS = dict(zip(STAGES, ("#0072B2", "#009E73"), strict=True))
BARS, NORMAL, RECTIFIED = "#56B4E9", "#D55E00", "#000000"
BINS, CURVE_POINTS, SHOWN_DEVIATIONS = 50, 200, 3
MOST_POINTS, DIGITS = 100, 6  # of a curve of distances
INCHES_A_LAYER, INCHES_HIGH = 4.8, 7.2

Line = Mapping[str, Any]


def record(header: Header, accuracy: float, stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """What is not known is null."""
    lines: list[dict[str, Any]] = [{"event": "start", **asdict(header), "accuracy": accuracy}]
    for stage in stages:
        place = {"layer": stage.layer, "stage": stage.stage}
        lines += [{"event": "sample", **place, **_bars(sample)} for sample in (stage.coordinate, stage.norm)]
        lines.append({"event": "coordinates", **place, "count": stage.every["distance"].size, **_curves(stage.every)})
    return lines


def read(source: Path) -> list[dict[str, Any]]:
    """What `lngd gaussian` has left: a directory or an archive.

    Raises:
        BenchError: nothing.
    """
    lines = archive.read(records_at(source, STUDY)).get(FILE)
    if not lines:
        raise BenchError(f"{source} has no {FILE}; lngd gaussian makes one")
    return lines


def draw(lines: Sequence[Line]) -> Figure:
    """Layers side by side, their stages below each other, the distances of all coordinates at the bottom.

    Raises:
        BenchError: the record lacks what the figure shows.
    """
    try:
        return _figure(lines[0], lines[1:])
    except (KeyError, TypeError, ValueError) as error:
        raise BenchError(f"the record of lngd gaussian lacks what its figure shows ({error}); make a new one") from error


def _bars(sample: Sample) -> dict[str, Any]:
    """Bars leave out what is exactly 0, which has no density."""
    values = sample.values.double().cpu().numpy()
    counts, edges = np.histogram(values[values != 0], BINS)
    numbers = {name: finite(float(value)) for name, value in vars(sample.fit).items()}
    shape = {"low": float(edges[0]), "high": float(edges[-1]), "counts": counts.tolist()}
    return {"quantity": sample.quantity, "n": len(values), **numbers, **shape}


def _curves(every: Mapping[str, PerSample]) -> dict[str, Any]:
    """The k-th of m points has the share k/m of the known distances at or below it; m is their number or 100."""
    found = {}
    for name, field in DISTANCES.items():
        known = np.sort(every[field][np.isfinite(every[field])])
        count = min(len(known), MOST_POINTS)
        points = [known[-(-k * len(known) // count) - 1] for k in range(1, count + 1)]
        aggregates = {key: finite(value) for key, value in aggregate(every[field]).items()}
        found[name] = {**aggregates, "curve": [float(f"{point:.{DIGITS}g}") for point in points]}
    return found


def _figure(start: Line, rest: Sequence[Line]) -> Figure:
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
    axes.annotate(_remark(line), (0.97, 0.95), xycoords="axes fraction", ha="right", va="top", fontsize=8)
    axes.set_ylim(top=1.35 * axes.get_ylim()[1])  # room for the remark
    axes.set_yticks([])
    _tidy(axes)


def _density(t: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    return np.exp(-(((t - mean) / deviation) ** 2) / 2) / (deviation * math.sqrt(2 * math.pi))


def _remark(line: Line) -> str:
    distance = line["rectified_distance"]
    rectified = "" if distance is None else f"\nKS of values > 0: {distance:.3f}"
    zeros = f"\n{100 * line['zeros']:.0f} % exactly 0" if line["zeros"] > 0 else ""
    return f"KS: {line['distance']:.3f}{rectified}{zeros}"


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
    axes.spines[["top", "right"]].set_visible(False)
