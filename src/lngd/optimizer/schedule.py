"""When curvature is measured and when its inverses are refreshed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Every `every` steps; with `ramp` also at steps 1, 2, 4, 8, … below that, since statistics change fast at first."""

    every: int
    ramp: bool

    def due(self, step: int) -> bool:
        """Whether step `step`, counted from 0, is one of them."""
        power_of_two = step & (step - 1) == 0
        return step % self.every == 0 or (self.ramp and step < self.every and power_of_two)

    def gap(self, step: int) -> int:
        """Steps from `step` to the next that is due."""
        return next(ahead for ahead in range(1, self.every + 1) if self.due(step + ahead))
