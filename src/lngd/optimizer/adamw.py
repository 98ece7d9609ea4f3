"""AdamW, torch's own, for the parameters without curvature, inside the same optimizer and on its state."""

import math
from collections.abc import Container, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lngd.optimizer.guards import Guard, lr_of
from lngd.optimizer.parameters import Group

FOUND_INF = "found_inf"
"""The attribute by which torch.amp.GradScaler tells a fused optimizer to skip a step without synchronising."""
FUSED_DEVICES = ("cpu", "cuda", "xpu", "mps")


class AdamW:
    """Drives torch.optim.AdamW on the parameters and the state of the outer optimizer."""

    def __init__(self) -> None:
        self._adamw = torch.optim.AdamW([nn.Parameter(torch.zeros(1))])
        self.groups: list[tuple[Group, float, list[nn.Parameter]]] = []
        """The outer optimizer's groups, and which of their parameters are AdamW's at which share of its rate."""

    def take(self, parameters: Iterable[tuple[Group, nn.Parameter]], *, chosen: Container[int]) -> None:
        """The parameters to train, each with its group; `chosen` are the ids of those that keep the whole rate."""
        found: dict[tuple[int, float], tuple[Group, float, list[nn.Parameter]]] = {}
        for group, p in parameters:
            share = 1.0 if id(p) in chosen else share_of_rate(p)
            found.setdefault((id(group), share), (group, share, []))[2].append(p)
        self.groups = list(found.values())

    def step(self, state: Any, guard: Guard, warmup: float) -> None:
        """One step at that share of the rate `warmup · lr · adamw_lr_ratio`; where the guard does not accept it nothing changes.

        A group that says curvature=False is torch's AdamW as it is, without a warm-up.

        The fused kernel takes that flag on the device (`found_inf`, torch's own protocol for gradient scaling). Where
        there is none, the flag is read on the host.
        """
        for fused in (True, False) if self.groups else ():
            mine = [
                self._of_torch(group, share if group["curvature"] is False else warmup * share, params, fused)
                for group, share, params in self.groups
            ]
            mine = [group for group in mine if group["params"]]
            if not mine or guard.refused or not (fused or guard.accept):
                continue
            self._adamw.param_groups, self._adamw.state = mine, state
            flag = guard.accept.logical_not().to(torch.float32) if fused and not guard.readable else None
            setattr(self._adamw, FOUND_INF, flag)
            self._adamw.step()

    def _of_torch(self, group: Group, share: float, params: Iterable[nn.Parameter], fused: bool) -> dict[str, Any]:
        """A group as torch's AdamW reads it."""
        own = {
            "params": [p for p in params if p.grad is not None and fusible(p) is fused],
            "lr": lr_of(group) * group["adamw_lr_ratio"] * share,
            "betas": group["adamw_betas"],
            "eps": group["adamw_eps"],
            "weight_decay": group["weight_decay"],
        }
        return {**self._adamw.defaults, **own, "fused": fused, "foreach": None if fused else False}


def share_of_rate(p: Tensor) -> float:
    """1/√(2i) for a matrix of i inputs, the kernel's places among them; 1 for a vector.

    Entries of vectors are near one, or free; those of a matrix are near 1/√i, and Adam moves them all alike: at one rate for
    both, outputs change √i times as fast as anything a vector does.
    """
    return 1.0 if sum(n > 1 for n in p.shape) < 2 else (2 * _inputs(p.shape)) ** -0.5


def _inputs(shape: torch.Size) -> int:
    """By torch's convention `[o, i, *kernel]`; of a stack of matrices, or of places, the longest side behind the first one."""
    return max(1, max(shape[1:]) if len(shape) == 3 or shape[0] == 1 else math.prod(shape[1:]))


def fusible(p: Tensor) -> bool:
    """Whether the fused kernel takes a parameter."""
    return p.device.type in FUSED_DEVICES and p.is_floating_point()


AVERAGES = ("exp_avg", "exp_avg_sq")


def complete_state(state: dict[str, Any], p: nn.Parameter) -> None:
    """Makes what torch's AdamW keeps of a parameter, unless it is there, on the parameter's device and in its dtype."""
    if state.keys() != {"step", *AVERAGES} or any(state[name].shape != p.shape for name in AVERAGES):
        state.clear()
        state["step"] = torch.zeros((), dtype=torch.float32)
        state.update({name: torch.zeros_like(p, memory_format=torch.preserve_format) for name in AVERAGES})
    state["step"] = state["step"].to(p.device if fusible(p) else "cpu")
    state.update({name: state[name].to(p.device, p.dtype) for name in AVERAGES})
