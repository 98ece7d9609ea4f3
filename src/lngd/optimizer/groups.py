"""Parameter groups: from what the user gives to one group for curvature and one for the fallback each."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lngd.layers import Layer
from lngd.optimizer.hyperparameters import check_hyperparameters

GROUP_DEFAULTS = ("lr", "momentum", "weight_decay", "damping", "damping_bounds", "decay", "fallback_lr")
"""The hyperparameters that a group may override."""

GROUP_ONLY: dict[str, Any] = {"curvature": None}
"""What only a group may say, and what it says if it doesn't: `curvature=False` sends its parameters to AdamW, True gives
curvature to layers that have it on request only."""

ADAMW = {
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "amsgrad": False,
    "maximize": False,
    "capturable": False,
    "differentiable": False,
}
"""The fallback's own, torch's defaults; a group may override `betas` and `eps`."""


def user_groups(model: nn.Module, params: Iterable[Any] | None, defaults: dict[str, Any]) -> list[dict[str, Any]]:
    """Complete groups of the model's trainable parameters.

    Raises:
        ValueError: a parameter is not the model's, stands in two groups, or there is nothing to train.
    """
    given = list(model.parameters() if params is None else params)
    groups = [dict(g) for g in given] if given and isinstance(given[0], dict) else [{"params": given}]
    known = {id(p): name for name, p in model.named_parameters()}
    seen: set[int] = set()
    for group in groups:
        _check_group_options(group)
        group["params"] = [_parameter(entry, known, seen) for entry in _listed(group["params"])]
    complete = [
        {**defaults, **GROUP_ONLY, **group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups
    ]
    if not any(group["params"] for group in complete):
        raise ValueError("nothing to train: the model has no parameter with requires_grad=True among the given ones")
    return complete


def curvature_choices(groups: Iterable[dict[str, Any]]) -> dict[int, bool]:
    """By a parameter's id, what its group says about curvature, if it says anything."""
    return {id(p): group["curvature"] for group in groups if group["curvature"] is not None for p in group["params"]}


def split_group(group: dict[str, Any], layers: dict[str, Layer]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A group as its curvature half and its fallback half; either may be empty."""
    curved = {id(p) for layer in layers.values() for p in layer.parameters}
    mine = [p for p in group["params"] if id(p) in curved]
    rest = [p for p in group["params"] if id(p) not in curved]
    return (
        {**group, "params": mine, "kind": "curvature"},
        {**ADAMW, **group, "params": rest, "kind": "fallback", "lr": fallback_rate(group)},
    )


def fallback_rate(group: Mapping[str, Any]) -> float:
    """AdamW's rate in a group: its own, or None for the group's lr."""
    return float(group["lr"] if group["fallback_lr"] is None else group["fallback_lr"])


def move_to_fallback(groups: Sequence[dict[str, Any]], p: nn.Parameter, group: dict[str, Any]) -> None:
    """Moves a parameter to the fallback half of its group, which stands right after it."""
    half = groups[next(i for i, g in enumerate(groups) if g is group) + 1]
    group["params"] = [q for q in group["params"] if q is not p]
    half["params"].append(p)


def _check_group_options(group: dict[str, Any]) -> None:
    options = {k: v for k, v in group.items() if k not in ("params", "betas", "eps", "name")}
    for name in options:
        if name not in (*GROUP_DEFAULTS, *GROUP_ONLY):
            known = ", ".join((*GROUP_DEFAULTS, *GROUP_ONLY, "betas", "eps"))
            raise ValueError(f"'{name}' is no option of a parameter group; there are: {known}")
    check_hyperparameters(options)


def _listed(params: Any) -> list[Any]:
    return [params] if isinstance(params, Tensor) else list(params)


def _parameter(entry: Any, known: dict[int, str], seen: set[int]) -> nn.Parameter:
    p = entry[1] if isinstance(entry, tuple) else entry  # named_parameters() is welcome too
    if id(p) not in known:
        shape = tuple(p.shape) if isinstance(p, Tensor) else repr(p)
        raise ValueError(f"params hold a parameter of shape {shape} that is not one of the model's own")
    if id(p) in seen:
        raise ValueError(f"parameter '{known[id(p)]}' stands twice in params")
    seen.add(id(p))
    return p
