"""What becomes of every parameter: curvature, fallback (AdamW) or frozen, with the reason."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, TypeAlias

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lngd.curvature import CurvatureBlock
from lngd.layers import Layer, adapter_of, why_unsupported

Kind: TypeAlias = Literal["curvature", "fallback", "frozen"]


@dataclass(frozen=True)
class Outcome:
    """One parameter's fate."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    reason: str
    layer: str = ""


@dataclass(frozen=True)
class Summary:
    """Every parameter of a model with its outcome; printed, a table."""

    outcomes: tuple[Outcome, ...]
    state_bytes: int
    """Bytes of all statistics and inverses."""

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self.outcomes)

    def count(self, kind: Kind) -> int:
        """How many numbers have this outcome."""
        return sum(torch.Size(o.shape).numel() for o in self.outcomes if o.kind == kind)

    def __str__(self) -> str:
        rows = [("parameter", "shape", "outcome", "reason")]
        rows += [(o.name, "×".join(map(str, o.shape)) or "scalar", o.kind, o.reason) for o in self.outcomes]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows]
        kinds: tuple[Kind, ...] = ("curvature", "fallback", "frozen")
        totals = ", ".join(f"{self.count(kind):,} {kind}" for kind in kinds)
        return "\n".join([*lines, f"{totals}; {self.state_bytes / 2**20:.1f} MiB of curvature"])


@dataclass
class Plan:
    """The outcome of every parameter and the layers that have curvature."""

    outcomes: dict[str, Outcome]
    layers: dict[str, Layer]
    seen: set[int] = field(default_factory=set)

    def fall_back(self, layer: str, reason: str) -> list[nn.Parameter]:
        """Takes a layer's curvature away; returns its parameters."""
        for name, outcome in self.outcomes.items():
            if outcome.layer == layer:
                self.outcomes[name] = replace(outcome, kind="fallback", reason=reason, layer="")
        return self.layers.pop(layer).parameters


def unwrapped(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The module inside DDP and torch.compile, and the one whose forward is the model's: what torch.compile returned, if any.

    Raises:
        ValueError: several processes would each measure curvature on their own data and their weights drift apart.
    """
    layers = [model]
    while (inner := _inside(layers[-1])) is not None:
        layers.append(inner)
    return layers[-1], next((layer for layer in layers if hasattr(layer, "_orig_mod")), layers[-1])


def _inside(model: nn.Module) -> nn.Module | None:
    """What a wrapper wraps."""
    if isinstance(model, nn.DataParallel):
        raise ValueError("torch.nn.DataParallel is not supported: its replicas would measure the same samples again")
    if isinstance(model, DistributedDataParallel):
        if model.process_group.size() > 1:
            raise ValueError("DDP over several processes is not supported yet: each would keep curvature of its own")
        return model.module
    return getattr(model, "_orig_mod", None)


@dataclass(frozen=True)
class Limit:
    """The largest dense factor. `block`: makes a layer's block."""

    block: Callable[[Layer], CurvatureBlock]
    max_factor_dim: int

    def exceeded(self, layer: Layer) -> str | None:
        """The reason to fall back, if there is one."""
        largest = max(self.block(layer).dims(layer.inputs, layer.outputs, one_hot=layer.one_hot), default=0)
        if largest <= self.max_factor_dim:
            return None
        side = "outputs" if layer.one_hot or largest != layer.inputs else "inputs"
        return f"{largest} {side} are more than max_factor_dim={self.max_factor_dim}"


def plan_model(
    model: nn.Module, trained: Iterable[nn.Parameter], limit: Limit, choices: Mapping[int, bool] = MappingProxyType({})
) -> Plan:
    """Decides the outcome of every parameter.

    Args:
        model: the model.
        trained: the parameters to train; a parameter left out is frozen.
        limit: a layer with a larger factor falls back.
        choices: by a parameter's id, whether its group wants curvature, if it says so.
    """
    chosen = {id(p) for p in trained if p.requires_grad}
    users = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    plan = Plan({}, {})
    for name, module in model.named_modules():
        _plan_module(plan, name, module, chosen=chosen, choices=choices, users=users, limit=limit)
    sequence_first = {id(linear) for module in model.modules() for linear in _sequence_first(module)}
    for layer in plan.layers.values():
        layer.batch_dim = int(id(layer.module) in sequence_first)
    return plan


def _sequence_first(module: nn.Module) -> tuple[nn.Module, ...]:
    """Linear layers whose inputs have their samples in the second dimension, as far as the module around them says so."""
    if not isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer) or module.self_attn.batch_first:
        return ()
    return module.linear1, module.linear2


def _plan_module(
    plan: Plan, name: str, module: nn.Module, *, chosen: set[int], choices: Mapping[int, bool], users: Counter[int], limit: Limit
) -> None:
    trainable = {k: p for k, p in module._parameters.items() if p is not None and id(p) in chosen}
    layer = _layer_of(module, trainable, choices)
    reason = layer if isinstance(layer, str) else _why_not(layer, users, limit)
    if reason is None and isinstance(layer, Layer):
        plan.layers[name] = layer
    for key, p in module._parameters.items():
        full = f"{name}.{key}" if name else key
        if p is not None and id(p) not in plan.seen:
            plan.seen.add(id(p))
            own = "its group says curvature=False" if choices.get(id(p)) is False else reason
            plan.outcomes[full] = _outcome(full, p, name if own is None else "", id(p) in chosen, own)


def _outcome(full: str, p: nn.Parameter, layer: str, chosen: bool, reason: str | None) -> Outcome:
    shape = tuple(p.shape)
    if not chosen:
        return Outcome(full, shape, "frozen", "left out of params" if p.requires_grad else "requires_grad=False")
    if reason is not None:
        return Outcome(full, shape, "fallback", reason)
    return Outcome(full, shape, "curvature", "", layer)


def _layer_of(module: nn.Module, trainable: dict[str, nn.Parameter], choices: Mapping[int, bool]) -> Layer | str:
    """A module as a layer, or why it is none."""
    adapter, reason = adapter_of(module), why_unsupported(module)
    if reason is not None or adapter is None:
        return reason or ""
    weight, bias = trainable.get(adapter.weight_name), trainable.get(adapter.bias_name)
    if weight is None:
        return "its weight is not trained as a plain parameter"
    if choices.get(id(weight)) is None and adapter.on_request:
        return adapter.on_request
    if choices.get(id(weight)) is False:
        return "its weight's group says curvature=False"
    return adapter(module, with_bias=bias is not None and choices.get(id(bias)) is not False)


def _why_not(layer: Layer, users: Counter[int], limit: Limit) -> str | None:
    """Why a layer has no curvature; None if it has."""
    if any(users[id(p)] > 1 for p in layer.parameters):
        return "shared with another module"
    if not layer.weight.is_floating_point():
        return f"{layer.weight.dtype} is no real floating-point dtype"
    return limit.exceeded(layer)
