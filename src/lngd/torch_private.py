"""The private names of torch that the library can't do without, each in a function that says which public name is missing.

What each has to mean is a test in tests/test_torch_private.py, so that a new release of torch which changes one fails there.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

C = TypeVar("C", bound=Callable)
LEFT_OPERANDS = {"AddmmBackward0": "_saved_mat1", "MmBackward0": "_saved_self"}
"""Nodes of a matrix product, and under which name they keep what stands left of the weight."""
INPUTS = {**LEFT_OPERANDS, "ConvolutionBackward0": "_saved_input"}
"""Nodes of a layer, and under which name they keep its input."""
RESHAPES = {"ViewBackward0", "UnsafeViewBackward0"}
"""What may stand behind such a node and change no entry."""


running_pass: Callable[[], int] = torch._C._current_graph_task_id
"""The number of the backward pass of which this thread runs a node, NO_PASS if it runs none. No public name says so; torch's own
checkpointing asks this one."""
NO_PASS = -1


graph_is_kept: Callable[[], bool] = torch._C._autograd._get_current_graph_task_keep_graph
"""Whether the running backward pass leaves its graph for another one (`retain_graph`, `create_graph`). No public name says so to
a hook; what torch.compile makes of a backward pass asks this one."""


inside_transform: Callable[[], bool] = torch._C._are_functorch_transforms_active
"""Whether torch.func (grad, vmap, jvp) is transforming what runs. torch.func has no public question for it."""

is_tracing: Callable[[], bool] = torch._C._is_tracing
"""Whether torch.jit.trace records what runs. torch.jit.is_tracing asks this one, after another question, in Python."""


records_operations: Callable[[], object] = partial(torch._C._get_dispatch_mode, torch._C._TorchDispatchModeKey.PROXY)
"""What records the operations that run, as of make_fx and of AOTAutograd; None where nothing does. No public name says so."""


saves_elsewhere: Callable[[], object] = partial(torch._C._autograd._top_saved_tensors_default_hooks, True)
"""Who keeps what a backward pass will need, as activation checkpointing does, which computes it once more; None if nobody does.
torch.autograd.graph.saved_tensors_hooks puts one there; no public name says that there is one."""

is_alias: Callable[[Tensor, Tensor], bool] = torch._C._is_alias_of  # type: ignore[attr-defined]  # torch's stubs lack it
"""Whether two tensors lie in the same memory. Tensors that stand for others, as in a compiler, have no memory to compare."""


is_batched: Callable[[Tensor], bool] = torch._C._functorch.is_legacy_batchedtensor
"""Whether it stands for many tensors, as a gradient does in `torch.autograd.grad(..., is_grads_batched=True)`: not all operations
take one. There is no public question for it."""

forward_hooks: Callable[[nn.Module], "OrderedDict[int, Callable]"] = attrgetter("_forward_hooks")
"""A module's own hooks, in the order in which they run. torch puts a hook first as it is registered, not later."""
GLOBAL_FORWARD_HOOKS = cast("OrderedDict[int, Callable]", torch.nn.modules.module._global_forward_hooks)
"""The hooks of all modules, which run before a module's own. There is no public way to see whether there are any."""


def remove_global_hook(key: int) -> None:
    """Takes a hook of all modules off, with its mark that it wants keywords, which torch's own handle forgets."""
    GLOBAL_FORWARD_HOOKS.pop(key, None)
    torch.nn.modules.module._global_forward_hooks_with_kwargs.pop(key, None)


view_base: Callable[[Tensor], Tensor | None] = attrgetter("_base")
"""The tensor that autograd takes a tensor for a view of; None if it is none. There is no public name for it."""


def saved_indices(node: Node) -> Tensor | None:
    """By which indices a node picked entries of the first dimension; None if it did anything else.

    The attribute is described in torch's notes on autograd, and private by its name.
    """
    if node.name() != "IndexBackward0":
        return None
    first, *others = node._saved_indices  # type: ignore[attr-defined]
    return None if first is None or first.dim() != 1 or first.dtype == torch.bool or any(t is not None for t in others) else first


def mark(key: str, value: object = None) -> None:
    """Sets a mark on this thread and on every backward pass that starts from it; None takes it off.

    Autograd runs a pass over a GPU's tensors in a thread of its own, to which it hands torch's thread-local state, as it does for
    autocast and the grad mode, but neither `threading.local` nor `contextvars`. No public name puts anything there.
    """
    if value is not None:
        torch._C._stash_obj_in_tls(key, value)
    elif hasattr(torch._C, "_remove_obj_from_tls"):
        torch._C._remove_obj_from_tls(key)
    else:  # torch 2.12 and before
        torch._C._stash_obj_in_tls(key, None)


def _is_marked(key: str) -> bool:
    return torch._C._is_key_in_tls(key) and torch._C._get_obj_in_tls(key) is not None


marked: Callable[[str], bool] = torch._C._is_key_in_tls if hasattr(torch._C, "_remove_obj_from_tls") else _is_marked
"""Whether `mark` has set a mark on this thread, or on the one that started the backward pass which it runs."""


def left_operand(product: Node) -> Tensor:
    """What a node of a matrix product multiplied with the weight, with its history.

    The attributes are described in torch's notes on autograd, and private by their names. Non-reentrant checkpointing
    computes the operand anew.
    """
    return getattr(product, LEFT_OPERANDS[product.name()])


def saved_input(node: Node | None) -> Tensor | None:
    """The input of a layer as its node keeps it for the backward pass, be it cast by autocast; None where it keeps none.

    Torch refuses a backward pass after somebody has written to it. The attributes are described in torch's notes on autograd, and
    private by their names.
    """
    if node is not None and node.name() in RESHAPES:
        node = node.next_functions[0][0]
    attribute = None if node is None else INPUTS.get(node.name())
    return None if attribute is None or saves_elsewhere() else getattr(node, attribute)


def compiled_in_place(module: nn.Module) -> bool:
    """Whether `module.compile()` was called. There is no public question for it."""
    return module._compiled_call_impl is not None


def is_compiled(function: object) -> bool:
    """Whether torch.compile, or torch.compiler.disable, returned this function. There is no public question for it."""
    return hasattr(function, "_torchdynamo_orig_callable")


def has_been_traced(parameter: Tensor) -> bool:
    """Whether torch.compile has made a graph with this parameter in it, be it forgotten by now.

    No public name says what was compiled before. The mark tells Inductor that the parameter stays where it is in memory.
    """
    return hasattr(parameter, "_dynamo_static_input_type")


leave_compiled_call: Callable[[None], object] = torch._C._dynamo.eval_frame.set_eval_frame
"""Called with None, runs the rest of the surrounding compiled call as written; returns None only where there is no such call.

No public name reaches so far: torch.compiler.set_stance refuses to be called there, and torch.compiler.disable holds only for
what it wraps. The compiled call's own end restores what was before it, whether it returns or raises.
"""


def never_compiled_alone(function: C) -> C:
    """The function is traced where a graph calls it, and runs as Python does where none does.

    torch.compile would make a graph of each such call; when it gives up on that, at its recompile limit, it takes back at the
    function's end what `leave_compiled_call` did inside. Public marks keep a function out of graphs, too.
    """
    dynamo = torch._C._dynamo.eval_frame
    dynamo.set_code_exec_strategy(
        function.__code__, dynamo._FrameExecStrategy(dynamo._FrameAction.SKIP, dynamo._FrameAction.DEFAULT)
    )
    return function


def when_backward_ends(call: Callable[[], None]) -> None:
    """Calls back at the end of the backward pass that is running, unless it fails. FSDP asks for it by the same private name."""
    torch.autograd.Variable._execution_engine.queue_callback(call)


def never_compiled(function: C) -> C:
    """The function as Python runs it, whoever calls it; so torch.optim marks its own methods.

    torch.compiler.disable does the same, but it imports the compiler at once.
    """
    return cast("C", torch._compile._disable_dynamo(function))


# Operations on lists of tensors: one call, and on a GPU a few kernels, for all of them. torch's optimizers and clip_grad_norm_
# are made of them; the only public names are those of the optimizers. They take tensors of no dimension for numbers, too.
foreach_norm: Callable[..., tuple[Tensor, ...]] = torch._foreach_norm
foreach_mul: Callable[..., tuple[Tensor, ...]] = torch._foreach_mul
foreach_add: Callable[..., tuple[Tensor, ...]] = torch._foreach_add
foreach_div: Callable[..., tuple[Tensor, ...]] = torch._foreach_div
foreach_sqrt: Callable[..., tuple[Tensor, ...]] = torch._foreach_sqrt
foreach_lerp: Callable[..., tuple[Tensor, ...]] = torch._foreach_lerp
foreach_mul_: Callable[..., None] = torch._foreach_mul_
foreach_add_: Callable[..., None] = torch._foreach_add_
foreach_lerp_: Callable[..., None] = torch._foreach_lerp_
foreach_addcmul_: Callable[..., None] = torch._foreach_addcmul_


def is_distributed() -> bool:
    """Whether torch.distributed has a process group, without which nothing is sharded."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def is_shard(t: Tensor) -> bool:
    """Whether a process holds a part of a tensor: then a look at its entries tells nothing of the others'."""
    return hasattr(t, "device_mesh")


def is_sharded_module(module: nn.Module) -> bool:
    """Whether fully_shard was called on it. torch.distributed is not imported for it."""
    return any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__)


def active_wrapper() -> nn.parallel.DistributedDataParallel | None:
    """The DistributedDataParallel in whose forward this is. The compiler asks by the same private name."""
    return nn.parallel.DistributedDataParallel._get_active_ddp_module()


def joining(joinable: Any) -> object | None:
    """What stands for the Join that surrounds it, another object for each; None if there is none.

    No public name tells it to one that is not the first of those that join. It stays when the context has ended.
    """
    return joinable._join_config if joinable._join_config.enable else None


def leave_join(joinable: Any) -> None:
    """The Join has ended, which torch tells its members by no name."""
    joinable._join_config = joinable._join_config._replace(enable=False)


def all_gather_flat(found: Tensor, mine: Tensor, *, group: Any) -> None:
    """A flat tensor of each process, in their order; the function got another name in torch 2.13."""
    distributed = torch.distributed
    getattr(distributed, "all_gather_single", distributed.all_gather_into_tensor)(found, mine, group=group)
