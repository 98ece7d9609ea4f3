"""The record of `lngd gaussian`: its numbers, and the bars and points from which its figure can be drawn again."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lngd_bench.studies.fisher.figure_records import FigureRecord
from lngd_bench.studies.gaussian.drawing import Bars, Picture
from lngd_bench.studies.gaussian.figure import STAGES, Stage
from lngd_bench.studies.gaussian.normality import aggregate
from lngd_bench.training.records import Header, finite

FILE = "gaussian.jsonl"
PICTURE = "fig6.png"
RECORD = FigureRecord("gaussian", FILE, 16 * 2**20, "bars")  # of two layers it has 12 thousand bytes
MOST_LAYERS = 20  # side by side in one figure
NUMBERS = ("mean", "deviation", "distance", "zeros", "rectified_distance", "rectified_mean", "rectified_deviation")
"""Of a sample; the figure shows these."""
DISTANCES = {"normal": "distance", "rectified": "rectified_distance"}
MOST_BARS = 1000


def aggregates(stage: Stage) -> dict[str, dict[str, float]]:
    """Over all coordinates."""
    return {name: aggregate(stage.every[field]) for name, field in DISTANCES.items()}


def title(config: Mapping[str, Any], samples: int) -> str:
    """Of the figure."""
    return f"{config['title']}: {samples:,} samples after {config['total_steps']} steps"


def write(path: Path, header: Header, accuracy: float, stages: Sequence[Stage], pictures: Sequence[Picture]) -> Path:
    start = {"event": "start", **asdict(header), "accuracy": accuracy}
    lines = [start, *(line for stage, picture in zip(stages, pictures, strict=True) for line in _lines(stage, picture))]
    path.write_text("".join(json.dumps(line, allow_nan=False) + "\n" for line in lines), encoding="utf-8")
    return path


def read(directory: Path) -> tuple[list[Picture], str]:
    """The figure's contents and title, from what `lngd gaussian` has left in a directory.

    Raises:
        BenchError: nothing, or a record from before it kept bars, or a damaged one.
    """
    return RECORD.read(directory, _contents)


def _contents(lines: Sequence[Mapping[str, Any]]) -> tuple[list[Picture], str] | None:
    start, *rest = lines
    if not any("counts" in line for line in rest):
        return None
    pictures = list(_pictures(rest))
    return pictures, title(start["config"], pictures[0].norm.n)


def _lines(stage: Stage, picture: Picture) -> Iterator[dict[str, Any]]:
    place = {"layer": stage.layer, "stage": stage.stage}
    for bars in (picture.coordinate, picture.norm):
        shape = {"low": bars.low, "high": bars.high, "counts": list(bars.counts)}
        yield {"event": "sample", **place, "quantity": bars.quantity, "n": bars.n, **_finite(bars.numbers), **shape}
    count = stage.every["distance"].numel()
    curves = {name: list(picture.distances[field]) for name, field in DISTANCES.items()}
    parts = {name: {**_finite(numbers), "curve": curves[name]} for name, numbers in aggregates(stage).items()}
    yield {"event": "coordinates", **place, "count": count, **parts}


def _pictures(lines: Sequence[Mapping[str, Any]]) -> Iterator[Picture]:
    """Two samples and the coordinates for each layer and stage."""
    if not (0 < len(lines) <= 3 * len(STAGES) * MOST_LAYERS and len(lines) % 3 == 0):
        raise ValueError(f"{len(lines)} lines after the first")
    seen: set[tuple[str, str]] = set()
    for coordinate, norm, every in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        place = (every["layer"], every["stage"])
        if every["stage"] not in STAGES or place in seen:
            raise ValueError(f"stage {every['stage']} of layer {every['layer']}")
        seen.add(place)
        curves = {field: tuple(map(_number, every[name]["curve"])) for name, field in DISTANCES.items()}
        yield Picture(str(every["layer"]), every["stage"], _bars(coordinate), _bars(norm), curves)


def _bars(line: Mapping[str, Any]) -> Bars:
    counts = tuple(map(int, line["counts"]))
    n, low, high = int(line["n"]), _number(line["low"]), _number(line["high"])
    if not (0 < len(counts) <= MOST_BARS and n > 0 and low < high):
        raise ValueError("a histogram without bars")
    numbers = {name: math.nan if line[name] is None else _number(line[name]) for name in NUMBERS}
    return Bars(str(line["quantity"]), n, low, high, counts, numbers)


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is not a finite number")
    return number


def _finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: finite(value) for name, value in numbers.items()}
