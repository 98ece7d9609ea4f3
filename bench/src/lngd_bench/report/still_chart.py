"""The charts of the page as plain SVG, for readers without scripts: against epochs, with the page's own colours."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from lngd_bench.report.chart_data import Line, lines
from lngd_bench.report.curves import Curve, curve, focus
from lngd_bench.report.summary import TaskSummary
from lngd_bench.tasks.metric import METRICS

WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 62, 448, 26, 240  # of the plot
BOX = (LEFT, TOP, RIGHT - LEFT, BOTTOM - TOP)
TICKS = 4  # intervals between them


@dataclass(frozen=True)
class Axis:
    """A value's pixel; `of` is what the axis is even in."""

    low: float
    high: float
    start: float
    stop: float
    of: Callable[[float], float] = float

    def __call__(self, value: float) -> float:
        share = (self.of(value) - self.of(self.low)) / (self.of(self.high) - self.of(self.low))
        return self.start + share * (self.stop - self.start)


def still_charts(summary: TaskSummary) -> str:
    """Training loss and metric side by side, and a legend."""
    shown = list(lines(summary))
    metric = METRICS[summary.metric]
    loss = _panel("training loss (log)", [(line, curve(line.row.runs, "train_loss")) for line in shown], None, _loss_text)
    unit = f",{metric.unit}" if metric.unit else ""
    curves = [(line, curve(line.row.runs, "metric")) for line in shown]
    quality = _panel(f"evaluation {metric.name}{unit}", curves, focus(summary), metric.text, summary.target)
    names = "".join(_legend_entry(line) for line in shown)
    return f'<div class="still"><div class="panels">{loss}{quality}</div><ul class="legend">{names}</ul></div>'


def _loss_text(value: float) -> str:
    return f"{value:.2g}"


def _panel(
    title: str,
    curves: Sequence[tuple[Line, Curve]],
    limits: tuple[float, float] | None,
    text: Callable[[float], str],
    target: float = math.nan,
) -> str:
    """`limits` of the vertical axis; None for one in the logarithm, over all values."""
    values = np.concatenate([points.mean for _, points in curves])
    positive = values[values > 0]
    if not len(positive):
        return _svg(title, [f'<text x="0" y="{HEIGHT / 2}">nothing to show</text>'])
    low, high = limits or (float(positive.min()) / 1.1, float(positive.max()) * 1.1)
    y = Axis(low, high, BOTTOM, TOP, float if limits else math.log10)
    last = max(2, *(len(points.epochs) for _, points in curves))
    x = Axis(1, last, LEFT + 6, RIGHT - 4)
    drawn = "".join(_line(line, points, x, y) for line, points in curves)
    plot = '<svg x="{}" y="{}" width="{}" height="{}" viewBox="{} {} {} {}">'.format(*BOX, *BOX)
    return _svg(title, [*_vertical(y, text), *_horizontal(x), f"{plot}{drawn}</svg>", *_target(y, target, text)])


def _svg(title: str, parts: Iterable[str]) -> str:
    name = escape(title)
    inside = "".join(parts)
    head = f'<svg class="static" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name} against epochs">'
    return f'{head}<text class="title" x="0" y="14">{name}</text>{inside}</svg>'


def _vertical(y: Axis, text: Callable[[float], str]) -> Iterator[str]:
    decades = [10.0**power for power in range(-12, 7) if y.low <= 10.0**power <= y.high]
    for value in decades if y.of is math.log10 and len(decades) > 1 else even_ticks(y.low, y.high):
        place = y(value)
        yield f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>'
        yield f'<text x="{LEFT - 6}" y="{place + 4:.1f}" text-anchor="end">{escape(text(value))}</text>'


def even_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten."""
    raw = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= 0.999 * raw)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _horizontal(x: Axis) -> Iterator[str]:
    yield f'<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{BOTTOM}" y2="{BOTTOM}"/>'
    for epoch in sorted({1, round(x.high / 2), round(x.high)}):
        yield f'<text x="{x(epoch):.1f}" y="{BOTTOM + 17}" text-anchor="middle">{epoch}</text>'
    yield f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 34}" text-anchor="middle">epochs</text>'


def _line(line: Line, points: Curve, x: Axis, y: Axis) -> str:
    places = [(x(epoch), y(mean)) for epoch, mean in zip(points.epochs, points.mean, strict=True) if y.of is float or mean > 0]
    path = "".join(f"{'L' if index else 'M'}{px:.1f} {py:.1f}" for index, (px, py) in enumerate(places))
    dots = "".join(f'<circle class="dot" cx="{px:.1f}" cy="{py:.1f}" r="2.5"/>' for px, py in places)
    return (
        f'<g class="{line.classes}" style="{line.style}"><path class="line" d="{path}" stroke-dasharray="{line.dash}"/>{dots}</g>'
    )


def _target(y: Axis, target: float, text: Callable[[float], str]) -> Iterator[str]:
    """Nothing where it is outside, or there is none."""
    if not y.low <= target <= y.high:
        return
    place = y(target)
    yield f'<line class="target" x1="{LEFT}" x2="{RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>'
    yield f'<text class="halo" x="{LEFT + 4}" y="{place - 5:.1f}">target {escape(text(target))}</text>'


def _legend_entry(line: Line) -> str:
    swatch = f'<svg viewBox="0 0 28 12" aria-hidden="true"><path class="line" d="M1 6H27" stroke-dasharray="{line.dash}"/></svg>'
    return f'<li><span class="{line.classes}" style="{line.style}">{swatch}{escape(line.row.label)}</span></li>'
