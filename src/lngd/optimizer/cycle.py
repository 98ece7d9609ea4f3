"""Measuring and refreshing: at which steps, and what a skipped step owes to the next one."""

import warnings
from dataclasses import dataclass

import torch

from lngd.capture import Capture
from lngd.fisher import FisherType
from lngd.linalg import all_finite
from lngd.optimizer.layer_state import LayerState, Measurement
from lngd.optimizer.loss_scale import LossScale
from lngd.optimizer.refresh import refresh
from lngd.optimizer.refusals import refuse_parts_of_a_model
from lngd.optimizer.schedule import Schedule
from lngd.types import Flag

OVERFLOWS = 3
"""So many measurements in a row have to overflow before a layer goes to float64: one wild batch is skipped instead."""


@dataclass
class Cycle:
    """The curvature of all layers over time.

    Args:
        states: the layers, by name.
        fisher: where their statistics come from.
        curvature, inverses: when statistics are measured and inverses refreshed.
    """

    states: dict[str, LayerState]
    fisher: FisherType
    curvature: Schedule
    inverses: Schedule
    refreshing: bool = False
    """Whether a refresh is owed."""
    lost: bool = False
    """Whether the last measurement was not finite."""
    overflows: int = 0

    def measure(self, capture: Capture, accept: Flag, scale: LossScale) -> Flag:
        """At a measuring step, takes the statistics; else changes nothing and waits for nothing."""
        capture.source.finished(None)
        pending = [mean for state in self.states.values() for mean in state.pending.means]
        if not pending:
            refuse_parts_of_a_model(self.fisher, capture.waiting and bool(self.states))
            return accept
        measured = accept & all_finite(pending).to(accept.device)
        self.lost = not measured
        if measured:
            self.overflows = 0
            for state in self.states.values():
                state.take_measurement(scale)
        elif accept:
            self._overflowed()
        return measured

    def refresh(self, step: int, accept: Flag) -> None:
        """Renews inverses where that is due, or where a measured layer has none."""
        self.refreshing |= self.inverses.due(step)
        waiting = [n for n, s in self.states.items() if s.block.measured and (self.refreshing or not s.block.ready)]
        if waiting and accept:
            for name in waiting:
                refresh(name, self.states[name])
            self.refreshing = False

    def measures_next(self, step: int, active: dict[str, LayerState]) -> bool:
        """Whether the coming step measures."""
        missing = any(not state.block.measured for state in active.values())
        due = missing or self.lost or self.curvature.due(step)
        self.lost = False
        return due

    def forget(self) -> None:
        """Drops what was measured since the last step."""
        for state in self.states.values():
            state.pending = Measurement()

    def _overflowed(self) -> None:
        """Gradients are finite and a statistic, which is a square, is not."""
        self.overflows += 1
        if self.overflows < OVERFLOWS:
            return
        for name, state in self.states.items():
            means = [mean for mean in state.pending.means if mean.is_floating_point()]
            if means and not all_finite(means) and state.layer.dtype != torch.float64 and means[0].device.type != "mps":
                state.promote()
                warnings.warn(
                    f"layer '{name}': its statistics overflow float32 and are kept in float64 from now on", stacklevel=5
                )
