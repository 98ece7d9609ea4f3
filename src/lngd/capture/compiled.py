"""torch.compile: which forwards run as written and which in graphs.

Layer-wise sampling differentiates between two layers, which no graph can hold. So a measuring forward keeps out of compiled code,
in one of two ways. Where the model's own hook runs before any compiled code does, `Uncompiled` lasts until the forward's end: so
it is with what torch.compile(model) returned and with compiled blocks. Where the model lies inside a compiled call, since it was
compiled after the optimizer was built, in place, or with its loss, the graph ends before the model, whose forward is a graph of
its own; at a measuring step the rest of the call runs as written. Neither needs a compilation when measuring begins or ends.
"""

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cache
from threading import RLock, get_ident
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from lngd.torch_private import compiled_in_place, has_been_traced, inside_transform, is_compiled, when_backward_ends

T = TypeVar("T")
WHY_A_GRAPH_ENDS = (
    "LNGD watches the model from outside of any graph, which torch.compile(..., fullgraph=True) forbids: "
    "build the optimizer from what torch.compile(model, fullgraph=True) returned, or leave fullgraph out"
)
UNCHECKED_GUARDS = (
    "a step that measures curvature and one that does not run different code, and torch.compile took one for the other: "
    "let it check its guards, without guard_filter_fn"
)


@cache
def outside_graphs(function: Callable[..., T], *, recursive: bool = True) -> Callable[..., T]:
    """The function as Python runs it: where torch.compile comes upon it, the graph ends. `recursive`: what it calls, too.

    Made when first wanted, since torch.compiler.disable imports the compiler.
    """
    return torch.compiler.disable(function, recursive=recursive, reason=WHY_A_GRAPH_ENDS)


def traced_for_another_purpose() -> bool:
    """Whether a graph is made for torch.export, or inside torch.func: what it calls is no part of a training step."""
    return torch.compiler.is_exporting() or inside_transform()


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """As the model's own method, under the names from before torch.compile: what it returned has what it was given inside."""
    for name, module in model.named_modules():
        yield ".".join(part for part in name.split(".") if part != "_orig_mod"), module


def has_compiled_parts(model: nn.Module, *, itself: bool = True) -> bool:
    """Whether torch.compile has been at a module of a model; `itself`: the model counts, too."""
    modules = (m for m in model.modules() if itself or m is not model)
    return any(hasattr(m, "_orig_mod") or compiled_in_place(m) or is_compiled(m.forward) for m in modules)


def forget_graphs_without_hooks(model: nn.Module) -> None:
    """Lets torch.compile begin anew if it has been at this model before: it does not notice hooks that are added later.

    Nothing in torch forgets the graphs of one model, so all compiled functions are compiled once more when they next run.
    """
    if any(has_been_traced(p) for p in model.parameters()):
        torch.compiler.reset()


class Uncompiled:
    """While it is entered, compiled functions run as written.

    Several optimizers may watch one model, and the first to come is the first to leave: one setting serves them all, until the
    last has left. Without a compiled model around nothing has to be imported for that. What was interrupted leaves when its
    optimizer sees another forward, or dies, or when the thread makes a new one: a traceback can keep the old one for long.
    """

    _inside: ClassVar[dict[object, int]] = {}
    """The thread in which each one was entered."""
    _setting: ClassVar[AbstractContextManager | None] = None
    _one_thread_at_a_time: ClassVar[AbstractContextManager] = RLock()
    """Of two that came first at once, the second would take the first one's setting for the user's, and restore it for good."""

    def __init__(self) -> None:
        for interrupted in [key for key, thread in list(Uncompiled._inside.items()) if thread == get_ident()]:
            Uncompiled._leave(interrupted)
        self.entered, self._key = False, object()
        weakref.finalize(self, Uncompiled._leave, self._key).atexit = False

    def enter(self) -> None:
        """A forward that has to run as written begins."""
        if "torch._dynamo" not in sys.modules:
            return
        with Uncompiled._one_thread_at_a_time:
            Uncompiled._inside[self._key] = get_ident()
            if Uncompiled._setting is None:
                Uncompiled._setting = torch.compiler.set_stance("force_eager")
        self.entered = True

    def leave(self) -> None:
        """It has ended or failed; the end of the object's life, after an interrupt, does the same."""
        self.entered = False
        Uncompiled._leave(self._key)

    @classmethod
    def _leave(cls, key: object) -> None:
        with cls._one_thread_at_a_time:
            if cls._inside.pop(key, None) is not None and not cls._inside and cls._setting is not None:
                setting, cls._setting = cls._setting, None
                outside_graphs(_restore)(setting)

    def enter_for_the_backward_pass_of(self, output: Any) -> None:
        """Checkpointed blocks run once more in it, and have to save the same tensors again."""
        owner = weakref.ref(self)

        def backward_begins(_gradients: tuple[Tensor | None, ...]) -> None:
            uncompiled = owner()
            if uncompiled is not None and not uncompiled.entered:
                uncompiled.enter()
                when_backward_ends(uncompiled.leave)

        for t in tensors_in(output):
            if t.grad_fn is not None:
                get_gradient_edge(t).node.register_prehook(backward_begins)


def _restore(setting: AbstractContextManager) -> None:
    """It can't be done in a compiled call, where the garbage collector may come upon it."""
    setting.__exit__(None, None, None)


def tensors_in(output: Any) -> Iterator[Tensor]:
    """Those of a model's output, through tuples, lists and mappings."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | tuple | list):
        for entry in output.values() if isinstance(output, Mapping) else output:
            yield from tensors_in(entry)
