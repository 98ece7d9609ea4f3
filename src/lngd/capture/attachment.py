"""Hooks on modules that hold no one: neither a copy of the model nor the end of the optimizer leaves a live one behind."""

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from lngd.torch_private import never_compiled


class Hook:
    """Calls a method of an object that may be gone. A copy or a pickle of the model carries hooks that do nothing."""

    def __init__(self, owner: Any, method: str = "", *bound: Any) -> None:
        self.owner = weakref.ref(owner) if owner is not None else None
        self.method, self.bound = method, bound

    def __call__(self, *args: Any) -> Any:
        owner = self.owner() if self.owner is not None else None
        return None if owner is None else getattr(owner, self.method)(*self.bound, *args)

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

    def accumulated(self, parameter: nn.Parameter, method: str, *bound: Any) -> None:
        """`owner.method(*bound, parameter)` after a gradient has accumulated into a parameter."""
        self._hooks.enter_context(parameter.register_post_accumulate_grad_hook(GradientHook(self._owner(), method, *bound)))

    def remove(self) -> None:
        """Takes the hooks off."""
        self._finalize()

    def _keep(self, register: Callable[..., RemovableHandle], method: str, *bound: Any, **options: bool) -> None:
        self._hooks.enter_context(register(Hook(self._owner(), method, *bound), **options))
