"""What a checkpoint holds beyond torch's own part, and how it is checked before anything is touched."""

from typing import Any

import torch
from torch import Tensor

from lngd.layers import Layer
from lngd.optimizer.layer_state import LayerState

VERSION = 4
HEADER: dict[str, type] = {
    "parameters": list,
    "fisher": str,
    "mean_over": str,
    "steps": int,
    "skipped": int,
    "demoted": list,
    "measuring": bool,
    "owed": list,
    "portions": int,
    "overflows": int,
    "groups": list,
    "generator": Tensor,
    "layers": dict,
}
"""What the checkpoint's own part holds beside its version."""
LAYER: dict[str, type] = {"kind": str, "dims": list, "updates": int, "float64": bool, "block": dict, "state": dict}
"""What it holds of a layer."""
GROUP = ("params", "kind", "lr")
"""What a parameter group can't do without."""


def save(header: dict[str, Any], states: dict[str, LayerState], generator: torch.Generator) -> dict[str, Any]:
    """Plain containers, numbers and tensors only: it loads with `weights_only=True`."""
    layers = {
        name: {
            "kind": type(s.block).__name__,
            "dims": _dims(s),
            "updates": s.block.updates,
            "float64": s.layer.least_dtype == torch.float64,
            "block": s.block.tensors(),
            "state": dict(s.state),
        }
        for name, s in states.items()
    }
    return {"version": VERSION, **header, "generator": generator.get_state(), "layers": layers}


def validated(state_dict: dict[str, Any], header: dict[str, Any], states: dict[str, LayerState]) -> dict[str, Any]:
    """The checkpoint in full, if it fits this optimizer. Its own part, "lngd", is complete and of the right types.

    torch's distributed checkpointing writes the keys of `state` as text and drops empty containers: both are put right.

    Raises:
        ValueError: it does not; the message names the first difference.
    """
    if not {"state", "param_groups", "lngd"} <= set(state_dict):
        raise ValueError("this is no checkpoint of lngd: it needs the entries 'state', 'param_groups' and 'lngd'")
    saved = {**state_dict["lngd"]}
    if saved.get("version") != VERSION:
        raise ValueError(f"the checkpoint has format {saved.get('version')}, this version of lngd reads format {VERSION}")
    _complete(saved, HEADER, "lngd")
    saved["layers"] = {name: _complete_layer(name, entry) for name, entry in saved["layers"].items()}
    _compare_parameters(saved["parameters"], header["parameters"])
    expected = set(states) - {name for name, _ in saved["demoted"]}
    different = sorted(expected ^ set(saved["layers"]))
    if different:
        where = "checkpoint" if different[0] in saved["layers"] else "optimizer"
        raise ValueError(f"layer '{different[0]}' has curvature only in the {where}")
    _compare_blocks(saved["layers"], states)
    for name in ("fisher", "mean_over"):
        if saved[name] != header[name]:
            raise ValueError(f"the checkpoint was made with {name}={saved[name]}, this optimizer has {header[name]}")
    _compare_groups(state_dict["param_groups"], saved["groups"], header["groups"])
    numbered = {int(key) if str(key).isdecimal() else key: entry for key, entry in state_dict["state"].items()}
    return {"state": numbered, "param_groups": state_dict["param_groups"], "lngd": saved}


def paired(sizes: list[int]) -> list[tuple[int, ...]]:
    """Each group's two halves: a layer may have moved from one to the other."""
    return [tuple(sizes[i : i + 2]) for i in range(0, len(sizes), 2)]


def restore(saved: dict[str, Any], states: dict[str, LayerState], generator: torch.Generator) -> None:
    """Puts the checkpoint in place, on each layer's device, in the dtype of its statistics."""
    for name, entry in saved["layers"].items():
        layer = states[name].layer
        layer.least_dtype = torch.float64 if entry["float64"] else torch.float32
        states[name].block.load(entry["updates"], _copied(entry["block"], layer))
        states[name].state = _copied(entry["state"], layer)
    generator.set_state(saved["generator"].cpu())


def _copied(tensors: dict[str, Tensor], layer: Layer) -> dict[str, Tensor]:
    device = layer.weight.device
    dtypes = {key: layer.dtype if value.is_floating_point() else value.dtype for key, value in tensors.items()}
    return {key: value.detach().to(device, dtypes[key], copy=True) for key, value in tensors.items()}


def _dims(state: LayerState) -> list[int]:
    layer = state.layer
    return list(state.block.dims(layer.inputs, layer.outputs, one_hot=layer.one_hot))


def _complete(entries: dict[str, Any], expected: dict[str, type], where: str) -> None:
    for name, kind in expected.items():
        if not isinstance(entries.get(name), kind):
            raise ValueError(f"the checkpoint is damaged: {where} has no '{name}' of type {kind.__name__}")


def _complete_layer(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    unmeasured: dict[str, Any] = {"block": {}, "state": {}} if entry.get("updates") == 0 else {}
    complete = {**unmeasured, **entry}
    _complete(complete, LAYER, f"layer '{name}'")
    return complete


def _compare_groups(groups: list[dict[str, Any]], saved: list[int], own: list[int]) -> None:
    for index, group in enumerate(groups):
        for name in GROUP:
            if name not in group:
                raise ValueError(f"the checkpoint is damaged: parameter group {index} has no '{name}'")
    totals, mine = [sum(pair) for pair in paired(saved)], [sum(pair) for pair in paired(own)]
    if totals != mine or [len(group["params"]) for group in groups] != saved:
        raise ValueError(f"the checkpoint's parameter groups hold {totals} parameters, this optimizer's {mine}")


def _compare_parameters(saved: list[list[Any]], own: list[list[Any]]) -> None:
    for (name, shape, trained), (my_name, my_shape, my_trained) in zip(saved, own, strict=False):
        if name != my_name:
            raise ValueError(f"the checkpoint has parameter '{name}' where the model has '{my_name}'")
        if shape != my_shape:
            raise ValueError(f"parameter '{name}' is {shape} in the checkpoint and {my_shape} in the model")
        if trained != my_trained:
            raise ValueError(f"parameter '{name}' is {'trained' if trained else 'frozen'} in the checkpoint, not so here")
    if len(saved) != len(own):
        extra = (saved if len(saved) > len(own) else own)[min(len(saved), len(own))][0]
        raise ValueError(f"the checkpoint has {len(saved)} parameters, the model {len(own)}: '{extra}' stands in one only")


def _compare_blocks(saved: dict[str, Any], states: dict[str, LayerState]) -> None:
    for name, entry in saved.items():
        own = type(states[name].block).__name__
        if entry["kind"] != own:
            raise ValueError(
                f"layer '{name}' has a {entry['kind']} in the checkpoint, a {own} here: it was made by another method"
            )
        dims = _dims(states[name])
        if entry["dims"] != dims:
            raise ValueError(
                f"layer '{name}' has factors of {entry['dims']} in the checkpoint, of {dims} here: check max_factor_dim"
            )
        missing = set(states[name].block.statistics) - set(entry["block"]) if entry["updates"] else set()
        if missing:
            raise ValueError(f"the checkpoint is damaged: layer '{name}' has no '{min(missing)}'")
