"""What a run is judged by: which way is better, in what unit it is printed, and how coarse an automatic target is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

MetricName = Literal["accuracy", "loss", "bleu"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One row.

    Attributes:
        name: in a sentence.
        heading: of a table's column.
        scale, digits: a value is printed times `scale` with so many digits.
        error: something to make small, by which outliers are told from the rest.
        grain: what an automatic target is rounded to, towards the easier side.
    """

    name: str
    heading: str
    digits: int
    error: Callable[[float], float]
    error_name: str
    grain: float
    grain_text: str
    higher_is_better: bool = True
    scale: float = 1
    unit: str = ""

    @property
    def best(self) -> Callable[..., float]:
        return max if self.higher_is_better else min

    @property
    def worst(self) -> Callable[..., float]:
        return min if self.higher_is_better else max

    @property
    def sign(self) -> str:
        """Of a target."""
        return "≥" if self.higher_is_better else "≤"

    def reached(self, value: float, target: float) -> bool:
        return value >= target if self.higher_is_better else value <= target

    def text(self, value: float) -> str:
        return f"{self.scale * value:.{self.digits}f}{self.unit}"


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric(
        name="accuracy",
        heading="best acc. %",
        scale=100,
        digits=2,
        unit=" %",
        error=lambda accuracy: 1 - accuracy,
        error_name="error",
        grain=0.005,
        grain_text="0.5 points",
    ),
    "loss": Metric(
        name="loss",
        higher_is_better=False,
        heading="best loss",
        digits=3,
        error=lambda loss: loss,
        error_name="loss",
        grain=0.05,
        grain_text="0.05",
    ),
    "bleu": Metric(
        name="BLEU",
        heading="best BLEU",
        digits=2,
        error=lambda bleu: 1 / max(bleu, 1e-3),
        error_name="1/BLEU",
        grain=0.5,
        grain_text="0.5",
    ),
}
