"""What a run is judged by: which way is better, in what unit it is printed, and how coarse an automatic target is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

MetricName = Literal["accuracy", "loss", "bleu"]


@dataclass(frozen=True)
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
    "accuracy": Metric("accuracy", "best acc. %", 2, lambda a: 1 - a, "error", 0.005, "0.5 points", scale=100, unit=" %"),
    "loss": Metric("loss", "best loss", 3, lambda loss: loss, "loss", 0.05, "0.05", higher_is_better=False),
    "bleu": Metric("BLEU", "best BLEU", 2, lambda bleu: 1 / max(bleu, 1e-3), "1/BLEU", 0.5, "0.5"),
}
