"""AdamW, torch's own, for the parameters without curvature, inside the same optimizer."""

from typing import Any

import torch
from torch import nn

from lngd.types import Flag

FOUND_INF = "found_inf"
"""The attribute by which torch.amp.GradScaler tells a fused optimizer to skip a step without synchronising."""
FUSED_DEVICES = ("cpu", "cuda", "xpu", "mps")


class Fallback:
    """Drives torch.optim.AdamW on groups and state that belong to the outer optimizer."""

    def __init__(self) -> None:
        self._adamw = torch.optim.AdamW([nn.Parameter(torch.zeros(1))])

    def step(self, groups: list[dict[str, Any]], state: Any, accept: Flag) -> None:
        """One step of the fallback groups; where `accept` is false nothing changes.

        The fused kernel takes that flag on the device (`found_inf`, torch's own protocol for gradient scaling). Where
        there is none, the flag is read on the host.
        """
        mine = [group for group in groups if group["kind"] == "fallback" and group["params"]]
        fused = all(fusible(p) for group in mine for p in group["params"])
        if not mine or not (fused or accept):
            return
        self._adamw.param_groups, self._adamw.state = [self._complete(g, fused) for g in mine], state
        setattr(self._adamw, FOUND_INF, accept.logical_not().to(torch.float32))
        self._adamw.step()

    @staticmethod
    def adopt(state: Any) -> None:
        """After loading: the fused kernel counts steps on the parameter's device, torch leaves the count where it was loaded."""
        for p, entry in state.items():
            if "step" in entry and fusible(p):
                entry["step"] = entry["step"].to(p.device)

    def _complete(self, group: dict[str, Any], fused: bool) -> dict[str, Any]:
        """A group as AdamW reads it; one that was added later may lack options."""
        return {**self._adamw.defaults, **group, "fused": fused, "foreach": None}


def fusible(p: nn.Parameter) -> bool:
    """Whether the fused kernel takes a parameter."""
    return p.device.type in FUSED_DEVICES and p.is_floating_point()
