"""How a checkpoint is held against the optimizer that is to load it, before anything is touched."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lngd.layers import Form, Found
from lngd.optimizer.adamw import AVERAGES
from lngd.optimizer.curved_layer import Layout, State, fits_layout
from lngd.optimizer.parameters import GROUP_OPTIONS, Group

FORMAT = 9
"""Counts up when a checkpoint of before can't be read any more. 1 to 4 had an entry `lngd` beside torch's two; 5 did not say
which weights were found in use, 6 not how a layer's direction lay to its gradients, 7 not
how a whole direction's curvature compares with its rows', and 8 had factors in blocks of other sizes."""
PROGRESS: dict[str, type] = {
    "version": str,
    "method": str,
    "fisher": str,
    "mean_over": str,
    "steps": int,
    "skipped": int,
    "measuring": int,
    "portions": int,
    "overflows": int,
    "found": str,
    "fallen": str,
    "generator": Tensor,
    "loss_scale": float,
    "since_growth": int,
}
"""What stands in each group as `progress`, beside its format."""
NO_CHECKPOINT = "this is no checkpoint of lngd: it needs the entries 'state' and 'param_groups', each group with its 'progress'"


def numbered(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """With numbers for keys of `state`: torch's distributed checkpointing writes them as text.

    Raises:
        ValueError: it has no `state` or no `param_groups`.
    """
    if "lngd" in state_dict:
        raise ValueError(
            f"the checkpoint has format {state_dict['lngd'].get('version')} of lngd, not released; this version reads "
            f"format {FORMAT}: finish that run with the version that wrote it, or load the model's weights alone"
        )
    if not {"state", "param_groups"} <= set(state_dict):
        raise ValueError(NO_CHECKPOINT)
    state = {int(key) if str(key).isdecimal() else key: entry for key, entry in state_dict["state"].items()}
    return {**state_dict, "state": state}


def fallen(progress: Mapping[str, Any]) -> dict[str, str]:
    """Layers that fell back while training, by name, and why; a line each there, since files lose empty containers."""
    return dict(line.partition("\t")[::2] for line in progress["fallen"].splitlines())


def found_in_use(progress: Mapping[str, Any], parameters: Mapping[str, nn.Parameter]) -> dict[str, Found]:
    """Weights that were found in use outside any module, by name: a line each, with what their bias is called and their form."""
    found = {}
    for line in progress["found"].splitlines():
        name, bias, form = line.split("\t")
        if name in parameters:
            found[name] = Found(parameters[name], Form.of_text(form), bias, parameters.get(bias))
    return found


def as_lines(found: Mapping[str, Found]) -> str:
    """The inverse of `found_in_use`."""
    return "\n".join(f"{name}\t{each.bias_name}\t{each.form.as_text()}" for name, each in found.items())


def validate(
    given: Mapping[str, Any],
    groups: Sequence[Group],
    progress: Mapping[str, Any],
    layouts: Mapping[nn.Parameter, tuple[str, Layout]],
) -> None:
    """Raises ValueError with the first difference between a checkpoint and an optimizer.

    Args:
        given: the checkpoint, `numbered`.
        groups: the optimizer's.
        progress: the optimizer's.
        layouts: of each parameter with curvature, its layer and what its state holds.
    """
    saved = given["param_groups"]
    _compare_progress(saved, progress)
    sizes, own = [len(group["params"]) for group in saved], [len(group["params"]) for group in groups]
    if sizes != own:
        raise ValueError(f"the checkpoint's parameter groups hold {sizes} parameters, this optimizer's {own}")
    trained: list[tuple[str, nn.Parameter, State]] = []
    fell_back = fallen(saved[0]["progress"])
    for theirs, mine in zip(saved, groups, strict=True):
        choices = theirs["curvature"], mine["curvature"]
        if choices[0] is not choices[1]:
            raise ValueError("a group has curvature={} in the checkpoint, curvature={} here".format(*choices))
        names = mine.get("param_names", [str(number) for number in theirs["params"]])
        for name, their_name in zip(names, theirs.get("param_names", names), strict=True):
            if name != their_name:
                raise ValueError(f"the checkpoint has parameter '{their_name}' where the model has '{name}'")
        for number, name, p in zip(theirs["params"], names, mine["params"], strict=True):
            state = given["state"].get(number)
            if p.requires_grad and not isinstance(state, Mapping):
                raise ValueError(f"the checkpoint has no state of parameter '{name}', which is trained here; was it frozen?")
            if p.requires_grad:
                trained.append((name, p, state))
    for name, p, state in trained:
        layer, wanted = layouts.get(p, ("", None))
        _compare_state(name, p, state, None if layer in fell_back else wanted)


def _compare_progress(saved: Sequence[Any], own: Mapping[str, Any]) -> None:
    for index, group in enumerate(saved):
        if not isinstance(group, Mapping) or not isinstance(group.get("progress"), Mapping):
            raise ValueError(NO_CHECKPOINT)
        for name in ("params", *GROUP_OPTIONS):
            if name not in group:
                raise ValueError(f"the checkpoint is damaged: parameter group {index} has no '{name}'")
        progress = group["progress"]
        if progress.get("format") != FORMAT:
            raise ValueError(
                f"the checkpoint has format {progress.get('format')}, written by lngd {progress.get('version')}; "
                f"this is lngd {own['version']}, which reads format {FORMAT}"
            )
        for name, kind in PROGRESS.items():
            if not isinstance(progress.get(name), kind):
                raise ValueError(f"the checkpoint is damaged: its progress has no '{name}' of type {kind.__name__}")
        for name in ("method", "fisher", "mean_over"):
            if progress[name] != own[name]:
                raise ValueError(f"the checkpoint was made with {name}={progress[name]}, this optimizer has {own[name]}")


def _compare_state(name: str, p: nn.Parameter, state: State, wanted: Layout | None) -> None:
    if wanted is None:  # AdamW's
        wanted = {"step": ((), p.dtype), **dict.fromkeys(AVERAGES, (tuple(p.shape), p.dtype))}
    missing, strange = [key for key in wanted if key not in state], [key for key in state if key not in wanted]
    if missing and not strange:
        raise ValueError(f"the checkpoint is damaged: the state of parameter '{name}' has no '{missing[0]}'")
    if missing or strange:
        raise ValueError(
            f"parameter '{name}' has {', '.join(sorted(map(str, state)))} in the checkpoint, {', '.join(sorted(wanted))} here: "
            "curvature in the one and AdamW in the other, or other options"
        )
    if not fits_layout(dict(state), wanted):
        misfits = [key for key in wanted if not fits_layout({key: state[key]}, {key: wanted[key]})]
        wrong = max(misfits, key=lambda key: (wanted[key] or [None])[0] == tuple(p.shape))  # first what has the parameter's shape
        found = list(state[wrong].shape) if isinstance(state[wrong], Tensor) else type(state[wrong]).__name__
        place = wanted[wrong]
        here = "a whole number" if place is None else list(place[0])
        raise ValueError(
            f"'{wrong}' of parameter '{name}' is {found} in the checkpoint, {here} here: check the model and factors.max_dim"
        )
