"""What the charts of the page are drawn from: per optimizer a mean and a deviation over seeds, rounded, in both colours."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lngd_bench.report.colours import on_dark, on_light
from lngd_bench.report.curves import curve, focus
from lngd_bench.report.summary import REFERENCE, Row, TaskSummary
from lngd_bench.tasks.metric import METRICS
from lngd_bench.training.records import finite

DIGITS = 6  # more than a pixel shows
DASHES = ("none", "7 4", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Line:
    """How a row of a table is drawn: rows of one optimizer share its colour and differ in their dashes."""

    row: Row
    light: str
    dark: str
    dash: str

    @property
    def emphasised(self) -> bool:
        return self.row.optimizer == REFERENCE

    @property
    def style(self) -> str:
        return f"--light:{self.light};--dark:{self.dark}"

    @property
    def classes(self) -> str:
        return "series own-series" if self.emphasised else "series"


def lines(summary: TaskSummary) -> Iterator[Line]:
    """In the table's order."""
    before: Counter[str] = Counter()
    for index, row in enumerate(summary.rows):
        dash = DASHES[before[row.optimizer] % len(DASHES)]
        before[row.optimizer] += 1
        yield Line(row, on_light(row.optimizer, index), on_dark(row.optimizer, index), dash)


def chart_data(summary: TaskSummary) -> dict[str, Any]:
    """Numbers, strings and null, ready for JSON."""
    metric = METRICS[summary.metric]
    return {
        "metric": {
            "name": summary.metric,
            "scale": metric.scale,
            "digits": metric.digits,
            "unit": metric.unit,
            "higher": metric.higher_is_better,
        },
        "target": finite(summary.target),
        "focus": focus(summary),
        "series": [_series(line) for line in lines(summary)],
    }


def _series(line: Line) -> dict[str, Any]:
    look = {"label": line.row.label, "own": line.emphasised, "light": line.light, "dark": line.dark, "dash": line.dash}
    return look | {field: _points(line.row, field) for field in ("train_loss", "metric")}


def _points(row: Row, field: str) -> dict[str, Any]:
    points = curve(row.runs, field)
    return {
        "epochs": points.epochs.tolist(),
        "seconds": _rounded(points.seconds),
        "mean": _rounded(points.mean),
        "deviation": _rounded(points.deviation) if len(row.runs) > 1 else None,
    }


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]
