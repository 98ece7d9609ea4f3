"""What all layers of an optimizer share: when curvature is measured, how large its factors are, how far a step goes."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from torch import nn

from lngd.ranges import check, out_of_range
from lngd.sampling import MeanOver
from lngd.step_size import STEP_SIZES, StepSize

MomentumOn: TypeAlias = Literal["gradient", "nesterov", "update"]
BatchDim: TypeAlias = int | Callable[[str, nn.Module], int]
"""The dimension of a batch's samples, everywhere or by a layer's name and module."""


@dataclass(frozen=True)
class Schedule:
    """When curvature is measured, from how much of a batch, and when its inverses are refreshed.

    Args:
        curvature_every: steps between measurements of the statistics (T_FIM).
        inverse_every: steps between refreshes of the inverses (T_INV).
        ramp: at steps 1, 2, 4, 8, … below the interval too, since statistics change fast at first.
        refresh_over: steps over which a refresh is spread, layer by layer, so that none is much longer than others; 1: at once.
        samples: of a batch, that measure the curvature, more where that is less than 2,048 pixels or tokens in all; None for all.

    Raises:
        ValueError: a number out of its range.
    """

    curvature_every: int = 20
    inverse_every: int = 20
    ramp: bool = True
    refresh_over: int = 4
    samples: int | None = 8

    def __post_init__(self) -> None:
        check(vars(self))

    def measures(self, step: int) -> bool:
        """Whether step `step`, counted from 0, measures the statistics."""
        return self._due(step, self.curvature_every)

    def refreshes(self, step: int) -> bool:
        """Whether a refresh of the inverses begins at step `step`."""
        return self._due(step, self.inverse_every)

    def next_measurement(self, step: int) -> int:
        """The first step from `step` on that measures."""
        return next(later for later in itertools.count(step) if self.measures(later))

    def next_refresh(self, step: int) -> int:
        """The first step from `step` on at which a refresh begins."""
        return next(later for later in itertools.count(step) if self.refreshes(later))

    def portions(self, step: int) -> int:
        """Over how many steps the refresh that begins at step `step` is spread: the next one has to find it done."""
        return min(self.refresh_over, self.next_refresh(step + 1) - step)

    def _due(self, step: int, every: int) -> bool:
        return step % every == 0 or (self.ramp and step < every and step & (step - 1) == 0)


@dataclass(frozen=True)
class Factors:
    """How large a Fisher factor is kept, and how it is damped.

    Args:
        max_dim: the largest dense factor: of a larger one only diagonal blocks are kept, of at most `max_dim` rows and 512. EKFAC
            and NGPlus leave it to AdamW.
        convolution: of a convolution with more than `max_dim` inputs: "kronecker" (Φ_channels ⊗ Φ_kernel) or "full" (as any other
            layer's). LNGD's block only.
        damping_bounds: (ν₁, ν₂), absolute bounds of λ.
        raw_damping: what `damping` is multiplied with in a layer that sees the data themselves: its inputs are rows, `[n, i]`,
            to which no gradient leads. Whitening them amplifies what hardly varies, such as pixels at the border, more than
            a few thousand samples support. SpectralLNGD damps the outputs likewise where they are rows, `[n, o]`, that the loss
            reads. None: the method's own, 100 for LNGD, LNGDLr and SpectralLNGD, 1 for the others.

    Raises:
        ValueError: a number out of its range.
    """

    max_dim: int = 256
    convolution: Literal["kronecker", "full"] = "kronecker"
    damping_bounds: tuple[float, float] = (1e-5, math.inf)
    raw_damping: float | None = None

    def __post_init__(self) -> None:
        check(vars(self))


def as_schedule(given: Schedule | int, default: Schedule) -> Schedule:
    """A number stands for both intervals."""
    return given if isinstance(given, Schedule) else replace(default, curvature_every=given, inverse_every=given)


def as_factors(given: Factors | int, default: Factors) -> Factors:
    """A number stands for the largest dense factor; what an object leaves open is the method's own."""
    if not isinstance(given, Factors):
        return replace(default, max_dim=given)
    return replace(given, raw_damping=default.raw_damping) if given.raw_damping is None else given


def as_step_size(given: StepSize | str) -> StepSize:
    """By its name, with its own defaults.

    Raises:
        ValueError: there is none of that name.
    """
    if isinstance(given, StepSize):
        return given
    if given not in STEP_SIZES:
        raise out_of_range("step_size", given, f"one of {', '.join(map(repr, STEP_SIZES))}, or an object such as LayerwiseRate()")
    return STEP_SIZES[given]()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all layers of an optimizer share and no group can change."""

    step_size: StepSize
    momentum_on: MomentumOn
    mean_over: MeanOver
    batch_dim: BatchDim
    keep_norms: bool
    spectral: bool
    """Whether the direction's singular values, measured by F̂, are set to one."""
    schedule: Schedule
    factors: Factors
    warmup: int

    def __post_init__(self) -> None:
        check({name: getattr(self, name) for name in ("momentum_on", "mean_over", "batch_dim", "keep_norms", "warmup")})

    def batch_dim_of(self, name: str, module: nn.Module) -> int:
        """Where a layer's samples are, or the model's.

        Raises:
            ValueError: the user's function gives no dimension.
        """
        if isinstance(self.batch_dim, int):
            return self.batch_dim
        found = self.batch_dim(name, module)
        if not isinstance(found, int) or found < 0:
            raise out_of_range(f"batch_dim('{name}', …)", found, "a dimension, 0 or more")
        return found

    def share_of_lr(self, step: int) -> float:
        """What the warm-up leaves of lr at step `step`, counted from 0."""
        return min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0

    @property
    def numbers(self) -> tuple[str, ...]:
        """Numbers that a layer keeps."""
        averaged = () if self.momentum_on == "update" else ("average_weight",)
        aligned = ("alignment", "observations") if self.keep_norms else ()
        return (*averaged, *aligned, *(("summed",) if self.mean_over == "none" else ()), *self.step_size.memory)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Tensors of its own shape that each parameter of a layer keeps."""
        return ("momentum" if self.momentum_on == "update" else "average", *self.step_size.tensors)
