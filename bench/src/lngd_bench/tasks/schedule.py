"""Schedules of the learning rate: each gives what the rate is multiplied by at a step counted from zero.

A schedule knows the rate that it multiplies, since the paper's cosine ends at a rate of its own, and counts in shares of the
run, so the same schedule serves a run of 200 epochs and one of ten.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Schedule = Callable[[int, int, float], float]
"""(step, total steps, base rate) → multiplier; positive before `total`."""

WARMUP_SHARE = 0.05


@dataclass(frozen=True)
class Linear:
    """1 − t/T."""

    def __call__(self, step: int, total: int, lr: float) -> float:
        return (total - step) / total

    def __str__(self) -> str:
        return "linear decay"


@dataclass(frozen=True)
class Steps:
    """×`factor` after each of `parts` equal parts of the run; the paper's CIFAR-10: ×0.1 every 40 of 200 epochs."""

    parts: int = 5
    factor: float = 0.1

    def __call__(self, step: int, total: int, lr: float) -> float:
        return self.factor ** (self.parts * step // total)

    def __str__(self) -> str:
        return f"×{self.factor:g} after each of {self.parts} parts"


@dataclass(frozen=True)
class PaperCosine:
    """α = c + ½ (α₀ − c)(1 + cos(2 · 0.47 π t/T)), c = 0.001: the paper's for SGD on ImageNet (appendix E.2)."""

    floor: float = 0.001

    def __call__(self, step: int, total: int, lr: float) -> float:
        return (self.floor + 0.5 * (lr - self.floor) * (1 + math.cos(2 * 0.47 * math.pi * step / total))) / lr

    def __str__(self) -> str:
        return "cosine"


@dataclass(frozen=True)
class Polynomial:
    """(1 − t/T)^E, E ∈ {2, …, 6}: the paper's for Adam, K-FAC and LNGD on ImageNet (appendix E.2)."""

    power: int

    def __call__(self, step: int, total: int, lr: float) -> float:
        return (1 - step / total) ** self.power

    def __str__(self) -> str:
        return f"(1 − t/T)^{self.power}"


@dataclass(frozen=True)
class Warmed:
    """A linear warm-up over a share of the steps; then another schedule has the steps that are left, or all of them.

    Attributes:
        restarts: the other schedule's time begins after the warm-up; otherwise it has gone on beneath it.
    """

    then: Schedule
    share: float = WARMUP_SHARE
    restarts: bool = True

    def __call__(self, step: int, total: int, lr: float) -> float:
        warmup = max(1, round(self.share * total))
        if step < warmup:
            return (step + 1) / warmup
        if self.restarts:
            return self.then(step - warmup, max(1, total - warmup), lr)
        return self.then(step, total, lr)

    def __str__(self) -> str:
        return f"{100 * self.share:g} % warm-up, {self.then}"


@dataclass(frozen=True)
class InverseRoot:
    """√(w T / t) from the share w of the steps on (Vaswani et al. 2017, eq. 3, for any base rate)."""

    share: float = WARMUP_SHARE

    def __call__(self, step: int, total: int, lr: float) -> float:
        return min(1.0, math.sqrt(self.share * total / max(step, 1)))

    def __str__(self) -> str:
        return "inverse root"


LINEAR = Warmed(Linear())
"""The bench's own, the same for all competitors."""

SCHEDULES: Mapping[str, Schedule] = {
    "linear": LINEAR,
    "steps": Steps(),
    "cosine": PaperCosine(),
    **{f"polynomial-{power}": Polynomial(power) for power in (2, 3, 4, 5, 6)},
    "inverse-root": Warmed(InverseRoot(), restarts=False),
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
