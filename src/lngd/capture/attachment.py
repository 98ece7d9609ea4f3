"""Hooks on modules that hold no one: neither a copy of the model nor the end of the optimizer leaves a live one behind."""

import weakref
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle


class Hook:
    """Calls a method of an object that may be gone. A copy or a pickle of the model carries hooks that do nothing."""

    def __init__(self, owner: Any, method: str = "", *bound: Any) -> None:
        self.owner = weakref.ref(owner) if owner is not None else None
        self.method, self.bound = method, bound

    def __call__(self, *args: Any) -> Any:
        owner = self.owner() if self.owner is not None else None
        return None if owner is None else getattr(owner, self.method)(*self.bound, *args)

    def __reduce__(self) -> tuple[type["Hook"], tuple[None]]:
        return Hook, (None,)


class Attachment:
    """All hooks of one object; they go with it."""

    def __init__(self, owner: Any) -> None:
        self.handles: list[RemovableHandle] = []
        self._owner = weakref.ref(owner)
        self._finalize = weakref.finalize(owner, remove_all, self.handles)
        self._finalize.atexit = False

    def before(self, module: nn.Module, method: str, *bound: Any, with_kwargs: bool = False) -> None:
        """`owner.method(*bound, module, args)` before a module's forward."""
        self._keep(module.register_forward_pre_hook, method, *bound, with_kwargs=with_kwargs)

    def after(self, module: nn.Module, method: str, *bound: Any, **options: bool) -> None:
        """`owner.method(*bound, module, args, output)` after it."""
        self._keep(module.register_forward_hook, method, *bound, **options)

    def remove(self) -> None:
        """Takes the hooks off."""
        self._finalize()

    def _keep(self, register: Callable[..., RemovableHandle], method: str, *bound: Any, **options: bool) -> None:
        self.handles.append(register(Hook(self._owner(), method, *bound), **options))


def remove_all(handles: list[RemovableHandle]) -> None:
    """Takes hooks off their modules."""
    for handle in handles:
        handle.remove()
    handles.clear()
