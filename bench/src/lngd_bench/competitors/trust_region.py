"""A trust region that a schedule of the rate reaches."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from lngd import KLClip
from lngd.step_size import Directions
from lngd.types import Vector


@dataclass(frozen=True)
class ScheduledKLClip(KLClip):
    """`KLClip` at the largest lr so far, its step times lr over that one.

    Where the trust region binds, `KLClip` takes a step of the same length whatever lr is, so a schedule that divides lr by ten
    changes little until the step is shorter than the radius. Here the radius goes with lr, and κ is that of the largest lr.
    """

    memory: ClassVar[tuple[str, ...]] = ("largest_lr",)

    def _divergence(self, step: Directions) -> Vector:
        largest = step.memory["largest_lr"]
        largest.copy_(torch.where(step.accept, largest.clamp(min=step.lr), largest))
        slope = largest.square() * step.slope
        return slope if step.summed is None else slope / step.summed
