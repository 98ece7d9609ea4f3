"""What becomes of every parameter: curvature, AdamW or frozen, with the reason; and when that has to be decided anew.

The user's groups stay as they are given, one for one. Which of their parameters have curvature follows from the model as it is:
a module that is unfrozen, replaced or added later changes the plan, as soon as the next step sees it.
"""

import difflib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lngd.capture import named_modules
from lngd.curvature import CurvatureBlock
from lngd.layers import AttentionInput, Found, Layer, LinearLayer, adapter_of, why_unsupported
from lngd.layers.kinds import registered_adapter
from lngd.optimizer.shards import refuse_others
from lngd.ranges import ALLOWED, check
from lngd.torch_private import is_shard
from lngd.warned import warn

Kind: TypeAlias = Literal["curvature", "fallback", "frozen"]
Group: TypeAlias = dict[str, Any]

GROUP_OPTIONS = (
    "lr",
    "momentum",
    "weight_decay",
    "damping",
    "decay",
    "adamw_lr_ratio",
    "adamw_betas",
    "adamw_eps",
    "curvature",
)
"""What a group may set and a scheduler may move; each is read at every step."""
OTHERS_OWN = ("params", "param_names")
"""What else a group holds. Any other name is carried along, as torch does: schedulers and libraries keep theirs there."""
WHOLE_OPTIMIZERS = ("fisher", "step_size", "schedule", "factors", "learning_rate", "fallback_lr", *ALLOWED)
"""What belongs to the optimizer and not to a group, or to none."""


TABLE = "added to activations, as an embedding of places is"
LEFT_OUT = "left out of params"
FSDP1 = "FullyShardedDataParallel"
"""The name of its class; torch.distributed.fsdp is not imported."""


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
    """The outcome of every parameter and the layers that have curvature, by name."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    layers: dict[str, Layer] = field(default_factory=dict)
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)
    """All of the model's, each under its first name."""
    candidates: set[str] = field(default_factory=set)
    """Names of those of which a use outside a module would make a layer."""

    def undecided(self) -> set[str]:
        """Names of matrices that have no curvature, unless a forward shows how they are used."""
        return {name for name in self.candidates if self.outcomes[name].kind == "fallback"}

    def chosen(self) -> set[int]:
        """Ids of those of which AdamW is a choice and not a lack of curvature."""
        return {id(self.parameters[name]) for name, outcome in self.outcomes.items() if is_a_choice(outcome)}

    def has_nothing_behind_its_layers(self) -> bool:
        """Whether all matrices of the model are its layers' or its embeddings': then the loss reads the last layer's outputs."""
        return all(
            o.kind == "curvature" or o.reason == TABLE or "curvature=True" in o.reason
            for o in self.outcomes.values()
            if len(o.shape) > 1
        )


def unwrapped(model: object) -> tuple[nn.Module, nn.Module]:
    """The module inside DDP and torch.compile, and the one whose forward is the model's: what torch.compile returned, if any.

    Raises:
        TypeError: it is no module.
        ValueError: DataParallel wraps it.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"the first argument has to be the model, not {_described(model)}: its layers are watched, so give the "
            "model itself, and params= with parameters or groups of it if not all are to be trained"
        )
    layers: list[nn.Module] = [model]
    while (inner := _inside(layers[-1])) is not None:
        layers.append(inner)
    return layers[-1], next((layer for layer in layers if hasattr(layer, "_orig_mod")), layers[-1])


def _described(given: object) -> str:
    if isinstance(given, list | tuple) and given and isinstance(given[0], dict):
        return "parameter groups"
    if isinstance(given, Tensor):
        return "a tensor"
    return "its parameters" if isinstance(given, Iterable) else f"{given!r}"


def _inside(model: nn.Module) -> nn.Module | None:
    """What a wrapper wraps."""
    if isinstance(model, nn.DataParallel):
        raise ValueError("torch.nn.DataParallel is not supported: its replicas would measure the same samples again")
    if isinstance(model, DistributedDataParallel):
        return model.module
    return getattr(model, "_orig_mod", None)


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters under their first names, in torch's order; unlike the method of that name it can't be overridden."""
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for prefix, module in named_modules(model):
        for key, p in module._parameters.items():
            if p is not None and id(p) not in seen:
                seen.add(id(p))
                found[f"{prefix}.{key}" if prefix else key] = p
    return found


def refuse_shards(model: nn.Module) -> None:
    """Raises ValueError if a process has a part of a parameter that is none of its rows.

    What a forward has gathered just now tells nothing: FSDP2's modules are let through.
    """
    if any(kind.__name__ == FSDP1 for module in model.modules() for kind in type(module).__mro__):
        raise ValueError(f"{FSDP1} (FSDP1) is not supported; fully_shard (FSDP2) and DistributedDataParallel work")
    for prefix, module in named_modules(model):
        for key, p in module._parameters.items():
            if p is not None and is_shard(p):
                refuse_others(f"{prefix}.{key}" if prefix else key, p)


def user_groups(model: nn.Module, params: Any) -> list[Group]:
    """The user's groups with named parameters, as torch.optim.Optimizer takes them.

    Raises:
        TypeError: `params` are neither parameters nor groups.
        ValueError: a parameter is not the model's or stands in two groups, an option is misspelt or out of range, or there is
            nothing to train.
    """
    own = named_parameters(model)  # once: some modules (PEFT's round attention) renew a parameter whenever they are listed
    known = {id(p): name for name, p in own.items()}
    if params is not None and (isinstance(params, int | float | str) or not isinstance(params, Iterable)):
        raise TypeError(
            f"params={params!r} is neither parameters nor groups of them; the learning rate is a keyword: lr={params!r}"
        )
    given: list[Any] = [*own.items()] if params is None else _listed(params)
    groups = [dict(group) for group in given] if given and isinstance(given[0], dict) else [{"params": given}]
    seen: set[int] = set()
    for group in groups:
        complete_group(group, known, seen)
    if not any(p.requires_grad for group in groups for _, p in group["params"]):
        raise ValueError("nothing to train: the model has no parameter with requires_grad=True among the given ones")
    return groups


def complete_group(group: Group, known: Mapping[int, str], seen: set[int]) -> None:
    """Names a group's parameters and checks its options.

    Args:
        group: changed in place.
        known: the names of the model's parameters, by id.
        seen: ids of those in other groups; this group's are added.

    Raises:
        ValueError: a parameter is not the model's or stands in two groups, or an option is misspelt or out of range.
    """
    if "params" not in group:
        raise ValueError("a parameter group needs the entry 'params'")
    for name in group:
        if name in GROUP_OPTIONS or name in OTHERS_OWN:
            continue
        meant = [f"adamw_{name}"] if name in ("betas", "eps") else difflib.get_close_matches(name, GROUP_OPTIONS, cutoff=0.7)
        if meant or name in WHOLE_OPTIMIZERS:
            hint = f", did you mean '{meant[0]}'? there are:" if meant else "; there are:"
            raise ValueError(f"'{name}' is no option of a parameter group{hint} {', '.join(GROUP_OPTIONS)}")
    check({name: value for name, value in group.items() if name in GROUP_OPTIONS})
    group["params"] = [_named(entry, known, seen) for entry in _listed(group["params"])]
    group["param_names"] = [name for name, _ in group["params"]]  # an empty group has them too, or torch refuses the next one


def _listed(params: Any) -> list[Any]:
    return [params] if isinstance(params, Tensor) else list(params)


def _named(entry: Any, known: Mapping[int, str], seen: set[int]) -> tuple[str, nn.Parameter]:
    p = entry[1] if isinstance(entry, tuple) else entry  # named_parameters() is welcome too
    if id(p) not in known:
        what = f"a parameter of shape {tuple(p.shape)}" if isinstance(p, Tensor) else repr(p)
        raise ValueError(f"params hold {what} that is not one of the model's own")
    if id(p) in seen:
        raise ValueError(f"parameter '{known[id(p)]}' stands twice in params")
    seen.add(id(p))
    return known[id(p)], p


@dataclass(frozen=True)
class Planner:
    """Decides the outcome of every parameter.

    Args:
        block: makes a layer's block.
        max_dim: a layer whose block would have a larger dense factor falls back.
        batch_dim_of: where the samples are in what a linear layer gets, by its name and module.
    """

    block: Callable[[Layer], CurvatureBlock]
    max_dim: int
    batch_dim_of: Callable[[str, nn.Module], int]

    def plan(
        self,
        model: nn.Module,
        groups: Iterable[Group],
        fallen: Mapping[str, tuple[nn.Module, str]],
        found: Mapping[str, Found],
    ) -> Plan:
        """For the model as it is now.

        Args:
            model: the model.
            groups: a parameter in none of them is frozen.
            fallen: modules that lost their curvature while training, by name, and why.
            found: parameters of which uses outside a module are known, by name.
        """
        choices = {id(p): group["curvature"] for group in groups for p in group["params"]}
        users = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
        plan, seen = Plan(parameters=named_parameters(model)), set[int]()
        of_found = dict[int, tuple[str, Layer | str]]()
        for name, use in found.items():
            own, reason = fallen.get(name, (None, ""))
            layer = reason if own is use.module else self._found_layer(use, choices, users)
            of_found |= {id(p): (name, layer) for p in (use.weight, use.bias) if p is not None}
            if isinstance(layer, Layer):
                layer.found = True
                plan.layers[name] = layer
        for name, shared in self._shared_layers(model, choices, users, fallen):
            of_found |= {id(p): (name, shared) for p in shared.parameters}
            plan.layers[name] = shared
        for name, module in named_modules(model):
            own, reason = fallen.get(name, (None, ""))
            adapter = registered_adapter(module)
            weight = None if adapter is None else module._parameters.get(adapter.weight_name)
            layer = reason if own is module else self._layer_of(module, choices, users)
            layer_name, layer = of_found.get(id(weight), (name, layer))
            if isinstance(layer, Layer):
                plan.layers[layer_name] = layer
            for key, p in module._parameters.items():
                if p is not None and id(p) not in seen:
                    seen.add(id(p))
                    full = f"{name}.{key}" if name else key
                    by_name, of_use = of_found.get(id(p), (layer_name, layer))
                    plan.outcomes[full] = _outcome(full, p, choices, of_use, by_name)
                    called = weight is not p or (isinstance(layer, Layer) and not isinstance(layer, AttentionInput))
                    if called and id(p) not in of_found and _may_be_used(plan.outcomes[full], p, users):
                        plan.candidates.add(full)
        sequence_first = {id(linear) for module in model.modules() for linear in _sequence_first(module)}
        for name, each in plan.layers.items():
            asked = self.batch_dim_of(name, each.module) if each.folds else 0
            each.batch_dim = asked or int(id(each.module) in sequence_first)
        return plan

    def _shared_layers(
        self,
        model: nn.Module,
        choices: Mapping[int, bool | None],
        users: Counter[int],
        fallen: Mapping[str, tuple[nn.Module, str]],
    ) -> Iterator[tuple[str, Layer]]:
        """Weights that several linear modules have, each a layer by the name of the first; an embedding among them on request.

        The embedding's share of the gradient goes along the curvature of the others.
        """
        owners = defaultdict[int, list[tuple[str, nn.Module]]](list)
        for name, module in named_modules(model):
            for p in module._parameters.values():
                if p is not None and users[id(p)] > 1:
                    owners[id(p)].append((name, module))
        for shared, modules in owners.items():
            linear = [(name, module) for name, module in modules if _is_linear_of(module, shared)]
            rest = [module for _, module in modules if not _is_linear_of(module, shared)]
            tied = all(isinstance(module, nn.Embedding) for module in rest) and (not rest or choices.get(shared) is True)
            if not linear or not tied or len({registered_adapter(module) for _, module in linear}) > 1:
                continue
            (name, first), *others = linear
            adapter = registered_adapter(first)
            assert adapter is not None
            if fallen.get(name, (None, ""))[0] is first:
                continue
            bias = first._parameters.get(adapter.bias_name)
            alone = users[id(bias)] == len(linear)  # each has it, or there is one
            layer = adapter(first, with_bias=alone and _is_trained(bias, choices))
            layer.also = tuple(module for _, module in others)
            if _why_not_trained(layer.weight, choices) is None and self._why_not(layer) is None:
                yield name, layer

    def _found_layer(self, found: Found, choices: Mapping[int, bool | None], users: Counter[int]) -> Layer | str:
        """A weight that is used without a module as a layer, or why it is none."""
        if (reason := _why_not_trained(found.weight, choices)) is not None:
            return reason
        if found.form.table:
            return TABLE
        layer = found.adapter(found.module, with_bias=_is_trained(found.bias, choices))
        return _why_shared(layer, users) or self._why_not(layer) or layer

    def _layer_of(self, module: nn.Module, choices: Mapping[int, bool | None], users: Counter[int]) -> Layer | str:
        """A module as a layer, or why it is none."""
        adapter, reason = adapter_of(module), why_unsupported(module)
        if reason is not None or adapter is None:
            return reason or ""
        weight, bias = module._parameters.get(adapter.weight_name), module._parameters.get(adapter.bias_name)
        if (reason := _why_not_trained(weight, choices)) is not None or weight is None:
            return reason or ""
        if choices[id(weight)] is None and adapter.on_request:
            return adapter.on_request
        layer = adapter(module, with_bias=_is_trained(bias, choices))
        return _why_shared(layer, users) or self._why_not(layer) or layer

    def _why_not(self, layer: Layer) -> str | None:
        """Why a layer has no curvature; None if it has."""
        if not layer.weight.is_floating_point():
            return f"{layer.weight.dtype} is no real floating-point dtype"
        largest = max(self.block(layer).dims(layer.inputs, layer.outputs, one_hot=layer.one_hot), default=0)
        if largest <= self.max_dim:
            return None
        side = "outputs" if layer.one_hot or largest != layer.inputs else "inputs"
        return f"{largest} {side} are more than factors.max_dim={self.max_dim}"


def _outcome(full: str, p: nn.Parameter, choices: Mapping[int, bool | None], layer: Layer | str, name: str) -> Outcome:
    shape = tuple(p.shape)
    if not p.requires_grad:
        return Outcome(full, shape, "frozen", "requires_grad=False")
    if id(p) not in choices:
        return Outcome(full, shape, "frozen", LEFT_OUT)
    if choices[id(p)] is False:
        return Outcome(full, shape, "fallback", "its group says curvature=False")
    if isinstance(layer, str):
        return Outcome(full, shape, "fallback", layer)
    if not any(p is own for own in layer.parameters):
        return Outcome(full, shape, "fallback", f"no part of the matrix of '{name}'")
    return Outcome(full, shape, "curvature", "", name)


def _is_linear_of(module: nn.Module, weight: int) -> bool:
    """Whether a parameter, by its id, is the weight of a linear module."""
    adapter = registered_adapter(module)
    linear = adapter is not None and issubclass(adapter, LinearLayer) and why_unsupported(module) is None
    return linear and adapter is not None and id(module._parameters.get(adapter.weight_name)) == weight


def _is_trained(bias: nn.Parameter | None, choices: Mapping[int, bool | None]) -> bool:
    """Whether there is a bias that belongs to a layer's matrix."""
    return bias is not None and bias.requires_grad and choices.get(id(bias), False) is not False


def _why_shared(layer: Layer, users: Counter[int]) -> str | None:
    """Why a layer has no curvature, if others have its parameters, too."""
    return "shared with a module of another kind" if any(users[id(p)] > 1 for p in layer.parameters) else None


def _why_not_trained(weight: nn.Parameter | None, choices: Mapping[int, bool | None]) -> str | None:
    """Why a weight makes no layer, whatever it is multiplied with; None if it may."""
    if weight is None or not weight.requires_grad or id(weight) not in choices:
        return "its weight is not trained as a plain parameter"
    return "its weight's group says curvature=False" if choices[id(weight)] is False else None


def _may_be_used(outcome: Outcome, p: nn.Parameter, users: Counter[int]) -> bool:
    """Whether a use outside a module would make a layer of a parameter: of a matrix that is trained, and no one's choice."""
    matrix = p.dim() > 1 and p.is_floating_point() and p.numel() > 0 and users[id(p)] == 1
    return matrix and outcome.kind != "frozen" and not is_a_choice(outcome)


def _sequence_first(module: nn.Module) -> tuple[nn.Module, ...]:
    """Linear layers whose inputs have their samples in the second dimension, as far as the module around them says so."""
    if not isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer) or module.self_attn.batch_first:
        return ()
    return module.linear1, module.linear2


def take_replaced(
    before: Mapping[str, nn.Parameter], now: Mapping[str, nn.Parameter], groups: Sequence[Group]
) -> list[nn.Parameter]:
    """Puts parameters that have taken another's place in the model into its place in the groups; what is to be forgotten."""
    held = {id(p) for group in groups for p in group["params"]}
    new = {id(before[name]): p for name, p in now.items() if name in before and before[name] is not p and id(p) not in held}
    gone: list[nn.Parameter] = []
    for group in groups:
        gone += [p for p in group["params"] if id(p) in new]
        group["params"] = [new.get(id(p), p) for p in group["params"]]
    return gone


def refuse_strangers(now: Mapping[str, nn.Parameter], groups: Sequence[Group], left_out: set[str], *, whole: bool) -> None:
    """A parameter that came into the model later, or was unfrozen, and is in no group.

    Args:
        now: the model's parameters.
        groups: the optimizer's.
        left_out: names of those that nobody expects it to train; one that is warned of is added.
        whole: whether the optimizer was to train the whole model; if not, another optimizer may train it.

    Raises:
        RuntimeError: there is one, and the optimizer was to train the whole model.
    """
    held = {id(p) for group in groups for p in group["params"]}
    strange = [name for name, p in now.items() if p.requires_grad and id(p) not in held and name not in left_out]
    if not strange:
        return
    said = (
        f"parameter '{strange[0]}' came into the model, or was unfrozen, after the optimizer was built, which does not train it"
    )
    if whole:
        raise RuntimeError(f"{said}: call optimizer.add_param_group({{'params': …}}) with it")
    left_out.update(strange)
    warn(f"{said}; optimizer.add_param_group({{'params': …}}) adds it")


def lost_curvature(before: Iterable[str], plan: Plan) -> Iterator[tuple[str, str]]:
    """Layers that had curvature and are trained by AdamW now, with the reason, unless their group asked for that."""
    for name in before:
        own = [o for full, o in plan.outcomes.items() if full.rpartition(".")[0] == name and o.kind == "fallback"]
        if name not in plan.layers and own and not is_a_choice(own[0]):
            yield name, own[0].reason


def warn_of_missing_curvature(plan: Plan) -> None:
    """Once, where less than half of what could have curvature has it: a user expects more of a natural-gradient optimizer."""
    matrices = [o for o in plan.outcomes.values() if len(o.shape) > 1 and o.kind != "frozen" and not is_a_choice(o)]
    sizes = {kind: sum(torch.Size(o.shape).numel() for o in matrices if o.kind == kind) for kind in ("curvature", "fallback")}
    if not matrices or sizes["curvature"] >= sizes["fallback"]:
        return
    lost: Counter[str] = Counter()
    for outcome in matrices:
        if outcome.kind == "fallback":
            lost[outcome.reason] += torch.Size(outcome.shape).numel()
    share = sizes["curvature"] / sum(sizes.values())
    reasons = "; ".join(f"{reason} ({count:,} entries)" for reason, count in lost.most_common(3))
    warn(
        f"only {share:.0%} of the entries of the model's matrices get curvature, AdamW trains the others: {reasons}. "
        "lngd.register_layer(ModuleClass, adapter) gives a module class curvature, print(optimizer.summary()) has each parameter",
    )


def is_a_choice(outcome: Outcome) -> bool:
    """Whether AdamW is what the user or the documentation wants for it."""
    return "curvature=" in outcome.reason or outcome.reason == TABLE
