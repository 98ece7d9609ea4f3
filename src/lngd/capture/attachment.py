"""Hooks on modules that hold no one: neither a copy of the model nor the end of the optimizer leaves a live one behind.

A hook that wants a layer's own output has to run before any that changes it, whoever was there first: `first`. It is put back to
the front of its module's, and where there are hooks of all modules, which torch runs earlier still, one of them runs it.
"""

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.hooks import RemovableHandle

from lngd.torch_private import GLOBAL_FORWARD_HOOKS, forward_hooks, never_compiled, never_compiled_alone, remove_global_hook


class Hook:
    """Calls a method of an object that may be gone. A copy or a pickle of the model carries hooks that do nothing."""

    def __init__(self, owner: Any, method: str = "", *bound: Any) -> None:
        self.owner = weakref.ref(owner) if owner is not None else None
        self.method, self.bound = method, bound
        self.first, self.ran = 0, False
        """Its place among those that have to run before all other hooks on the output, 0 for none; whether it has done so in this
        call."""

    @never_compiled_alone
    def __call__(self, *args: Any) -> Any:
        owner = self.owner() if self.owner is not None else None
        if owner is None or self.ran:
            self.ran = False
            return None
        return getattr(owner, self.method)(*self.bound, *args)

    @property
    def __name__(self) -> str:
        """TorchScript asks for it, to compile the hook."""
        raise RuntimeError("torch.jit.script can't compile a module that an optimizer watches: call optimizer.close() before")

    def __reduce__(self) -> tuple[type["Hook"], tuple[None]]:
        return Hook, (None,)


class GradientHook(Hook):
    """On a parameter whose gradient accumulates, which may be in a compiled call: `owner.method(*bound, parameter)`."""

    @never_compiled
    def __call__(self, *args: Any) -> Any:
        return super().__call__(*args)


class Attachment:
    """An object's hooks on one module; they go with the object."""

    def __init__(self, owner: Any, module: nn.Module) -> None:
        self.module = module
        self._hooks = ExitStack()
        self._owner = weakref.ref(owner)
        self._finalize = weakref.finalize(owner, self._hooks.close)
        self._finalize.atexit = False

    def before(self, method: str, *bound: Any, **options: bool) -> None:
        """`owner.method(*bound, module, args)` before the module's forward."""
        self._keep(self.module.register_forward_pre_hook, method, *bound, **options)

    def after(self, method: str, *bound: Any, **options: bool) -> None:
        """`owner.method(*bound, module, args, output)` after it."""
        self._keep(self.module.register_forward_hook, method, *bound, **options)

    def first_after(self, method: str, *bound: Any, place: int = 1) -> None:
        """`owner.method(*bound, module, args, kwargs, output)` after it, before all other hooks if `come_first` is called."""
        self._keep(self.module.register_forward_hook, method, *bound, with_kwargs=True).first = place
        put_first(self.module)

    def accumulated(self, parameter: nn.Parameter, method: str, *bound: Any) -> None:
        """`owner.method(*bound, parameter)` after a gradient has accumulated into a parameter."""
        self._hooks.enter_context(parameter.register_post_accumulate_grad_hook(GradientHook(self._owner(), method, *bound)))

    def remove(self) -> None:
        """Takes the hooks off."""
        self._finalize()

    def _keep(self, register: Callable[..., RemovableHandle], method: str, *bound: Any, **options: bool) -> Hook:
        hook = Hook(self._owner(), method, *bound)
        self._hooks.enter_context(register(hook, **options))
        return hook


def put_first(module: nn.Module) -> None:
    """Puts our hooks before all others of the module that see its output."""
    hooks = forward_hooks(module)
    ours = [(hook.first, key) for key, hook in hooks.items() if isinstance(hook, Hook) and hook.first]
    for _, key in sorted(ours, reverse=True):
        hooks.move_to_end(key, last=False)


def come_first(module: nn.Module) -> None:
    """The same, and before those of all modules in the call that has begun."""
    put_first(module)
    if GLOBAL_FORWARD_HOOKS and not torch.compiler.is_compiling():
        RunFirst(module)


class RunFirst:
    """A hook of all modules, for one call of one of them: it runs ours before the other ones, and goes."""

    def __init__(self, module: nn.Module) -> None:
        self.module = weakref.ref(module)
        for key in [key for key, hook in GLOBAL_FORWARD_HOOKS.items() if isinstance(hook, RunFirst) and hook.is_for(module)]:
            remove_global_hook(key)  # of a call that failed
        self.key = register_module_forward_hook(self, with_kwargs=True).id
        GLOBAL_FORWARD_HOOKS.move_to_end(self.key, last=False)

    def is_for(self, module: nn.Module) -> bool:
        """Whether it waits for the output of this module."""
        return self.module() is module

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        if not self.is_for(module):
            return None
        remove_global_hook(self.key)
        for hook in [hook for hook in forward_hooks(module).values() if isinstance(hook, Hook) and hook.first]:
            changed = hook(module, args, kwargs, output)
            hook.ran, output = True, output if changed is None else changed
        return output
