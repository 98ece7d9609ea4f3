"""Measuring and refreshing: at which steps, and what a skipped step owes to the next one."""

import warnings
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch

from lngd.capture import Capture
from lngd.linalg import all_finite
from lngd.optimizer.layer_state import LayerState
from lngd.optimizer.loss_scale import LossScale
from lngd.optimizer.measurement import Measurement
from lngd.optimizer.refresh import refresh
from lngd.optimizer.refusals import refuse_parts_of_a_model
from lngd.optimizer.schedule import Schedule
from lngd.sampling import FisherType
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
        spread: steps over which a refresh of all layers is spread, if the next is not due before.
    """

    states: dict[str, LayerState]
    fisher: FisherType
    curvature: Schedule
    inverses: Schedule
    spread: int
    owed: list[str] = field(default_factory=list)
    """Layers whose inverses are to be renewed, in this order."""
    portions: int = 0
    """Steps over which that is to be done."""
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
        """Renews the next inverses that are due, and those that a measured layer lacks.

        All at once would make one step in an interval many times as long as the others, so they are spread over the steps
        that follow, by their cost.
        """
        portion = self._portion()
        if self.inverses.due(step):
            self.owed = [name for name, state in self.states.items() if state.block.measured]
            self.portions = min(self.spread, self.inverses.gap(step))
            portion = self._portion() if self.portions == 1 else []
        lacking = [name for name, state in self.states.items() if state.block.measured and not state.block.ready]
        names = list(dict.fromkeys([*lacking, *portion]))
        if names and accept:
            for name in names:
                refresh(name, self.states[name])
            self.owed = [name for name in self.owed if name not in names]
            self.portions = max(1, self.portions - 1)

    def _portion(self) -> list[str]:
        """The first layers that are owed, until they make up a step's share of the work."""
        known = [name for name in self.owed if name in self.states]
        costs = [self.states[name].block.refresh_cost for name in known]
        before = accumulate(costs, initial=0)
        share = sum(costs) / max(1, self.portions)
        return [name for name, done in zip(known, before, strict=False) if done < share]

    def memory(self) -> dict[str, Any]:
        """What a checkpoint has to know."""
        return {"owed": list(self.owed), "portions": self.portions, "overflows": self.overflows}

    def recall(self, memory: dict[str, Any]) -> None:
        """Takes what `memory` gave."""
        self.owed, self.portions, self.overflows = list(memory["owed"]), memory["portions"], memory["overflows"]

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
