"""What a checkpoint holds beyond torch's own part, and how it is checked before anything is touched."""

from typing import Any

import torch
from torch import Tensor

from lngd.layers import Layer
from lngd.optimizer.layer_state import LayerState

VERSION = 2


def save(header: dict[str, Any], states: dict[str, LayerState], generator: torch.Generator) -> dict[str, Any]:
    """Plain containers, numbers and tensors only: it loads with `weights_only=True`."""
    layers = {
        name: {
            "kind": type(s.block).__name__,
            "dims": _dims(s),
            "updates": s.block.updates,
            "block": s.block.tensors(),
            "state": dict(s.state),
        }
        for name, s in states.items()
    }
    return {"version": VERSION, **header, "generator": generator.get_state(), "layers": layers}


def validated(state_dict: dict[str, Any], header: dict[str, Any], states: dict[str, LayerState]) -> dict[str, Any]:
    """The checkpoint's own part, if it fits this optimizer.

    Raises:
        ValueError: it does not; the message names the first difference.
    """
    saved = state_dict.get("lngd")
    if saved is None or not {"state", "param_groups"} <= set(state_dict):
        raise ValueError("this is no checkpoint of lngd: it needs the entries 'state', 'param_groups' and 'lngd'")
    if saved["version"] != VERSION:
        raise ValueError(f"the checkpoint has format {saved['version']}, this version of lngd reads format {VERSION}")
    _compare_parameters(saved["parameters"], header["parameters"])
    expected = set(states) - set(saved["demoted"])
    different = sorted(expected ^ set(saved["layers"]))
    if different:
        where = "checkpoint" if different[0] in saved["layers"] else "optimizer"
        raise ValueError(f"layer '{different[0]}' has curvature only in the {where}")
    _compare_blocks(saved["layers"], states)
    for name in ("fisher", "mean_over"):
        if saved[name] != header[name]:
            raise ValueError(f"the checkpoint was made with {name}={saved[name]}, this optimizer has {header[name]}")
    totals, mine = [sum(pair) for pair in paired(saved["groups"])], [sum(pair) for pair in paired(header["groups"])]
    if totals != mine:
        raise ValueError(f"the checkpoint's parameter groups hold {totals} parameters, this optimizer's {mine}")
    return saved


def paired(sizes: list[int]) -> list[tuple[int, ...]]:
    """Each group's two halves: a layer may have moved from one to the other."""
    return [tuple(sizes[i : i + 2]) for i in range(0, len(sizes), 2)]


def restore(saved: dict[str, Any], states: dict[str, LayerState], generator: torch.Generator) -> None:
    """Puts the checkpoint in place, on each layer's device, in the dtype of its statistics or a better one it was saved in."""
    for name, entry in saved["layers"].items():
        layer = states[name].layer
        for tensor in entry["block"].values():  # a layer that had to be kept in float64 stays so
            if tensor.is_floating_point():
                layer.least_dtype = torch.promote_types(layer.least_dtype, tensor.dtype)
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
