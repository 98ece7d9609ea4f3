"""Schedules of the learning rate: each gives what the rate is multiplied by at a step counted from zero.

A schedule knows the rate that it multiplies, since the paper's cosine ends at a rate of its own, and counts in shares of the
run, so the same schedule serves a run of 200 epochs and one of ten.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

WARMUP_SHARE = 0.05


@dataclass(frozen=True)
class Schedule:
    """(step, total steps, base rate) → multiplier, positive before `total`; `name` stands in records."""

    name: str
    formula: Callable[[int, int, float], float]

    def __call__(self, step: int, total: int, lr: float) -> float:
        return self.formula(step, total, lr)

    def __str__(self) -> str:
        return self.name


def steps(parts: int = 5, factor: float = 0.1) -> Schedule:
    """×`factor` after each of `parts` equal parts of the run; the paper's CIFAR-10: ×0.1 every 40 of 200 epochs."""
    return Schedule(f"×{factor:g} after each of {parts} parts", lambda step, total, _: factor ** (parts * step // total))


def paper_cosine(floor: float = 0.001) -> Schedule:
    """α = c + ½ (α₀ − c)(1 + cos(2 · 0.47 π t/T)), c = 0.001: the paper's for SGD on ImageNet (appendix E.2)."""

    def formula(step: int, total: int, lr: float) -> float:
        return (floor + 0.5 * (lr - floor) * (1 + math.cos(2 * 0.47 * math.pi * step / total))) / lr

    return Schedule("cosine", formula)


def polynomial(power: int) -> Schedule:
    """(1 − t/T)^E, E ∈ {2, …, 6}: the paper's for Adam, K-FAC and LNGD on ImageNet (appendix E.2)."""
    return Schedule(f"(1 − t/T)^{power}", lambda step, total, _: (1 - step / total) ** power)


def warmed(then: Schedule, share: float = WARMUP_SHARE, *, restarts: bool = True) -> Schedule:
    """A linear warm-up over a share of the steps; then another schedule.

    Its time begins after the warm-up with `restarts`; otherwise it has gone on beneath it.
    """

    def formula(step: int, total: int, lr: float) -> float:
        warmup = max(1, round(share * total))
        if step < warmup:
            return (step + 1) / warmup
        return then(step - warmup, max(1, total - warmup), lr) if restarts else then(step, total, lr)

    return Schedule(f"{100 * share:g} % warm-up, {then}", formula)


LINEAR = warmed(Schedule("linear decay", lambda step, total, _: (total - step) / total))
"""The bench's own, the same for all competitors."""

SCHEDULES: Mapping[str, Schedule] = {
    "linear": LINEAR,
    "steps": steps(),
    "cosine": paper_cosine(),
    **{f"polynomial-{power}": polynomial(power) for power in (2, 3, 4, 5, 6)},
}
"""By the name that `--schedule` knows them by."""


def multiplier(schedule: Schedule, step: int, total: int, lr: float) -> float:
    """Zero from the end of the run on."""
    return schedule(step, total, lr) if step < total else 0.0


def scheduler(optimizer: Optimizer, schedule: Schedule, total: int) -> LambdaLR:
    """Every param group by its own base rate."""

    def of(lr: float) -> Callable[[int], float]:
        return lambda step: multiplier(schedule, step, total, lr)

    return LambdaLR(optimizer, [of(group["lr"]) for group in optimizer.param_groups])
