"""Buffers that a forward changes, running averages above all, see each batch as often as without us.

A backward pass of ours through activation checkpointing runs a part of the model once more.
"""

import torch
from torch import Tensor, nn

from lngd.capture.attachment import Attachment
from lngd.sampling import pulling


class UntouchedBuffers:
    """Hooks on every module with buffers; they act only while a backward pass of ours runs."""

    def __init__(self) -> None:
        self._hooks: dict[nn.Module, Attachment] = {}
        self._kept: dict[nn.Module, dict[str, Tensor]] = {}

    def attach(self, model: nn.Module) -> None:
        """Puts the hooks on, where there are none yet, and takes them off modules that the model has no more."""
        eager = (module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule))  # which takes no hooks
        modules = [module for module in eager if next(module.buffers(recurse=False), None) is not None]
        for module in self._hooks.keys() - set(modules):
            self._hooks.pop(module).remove()
        for module in modules:
            if module not in self._hooks:
                self._hooks[module] = hooks = Attachment(self, module)
                hooks.before("keep")
                hooks.after("restore", always_call=True)  # recomputation stops early, by an exception

    def remove(self) -> None:
        """Takes them off."""
        for hooks in self._hooks.values():
            hooks.remove()
        self._hooks.clear()

    def keep(self, module: nn.Module, _args: tuple) -> None:
        """Copies a module's buffers before its forward."""
        if not torch.compiler.is_compiling() and pulling():
            self._kept[module] = {name: b.clone() for name, b in module.named_buffers(recurse=False)}

    def restore(self, module: nn.Module, _args: tuple, _output: object) -> None:
        """Puts them back after it."""
        if torch.compiler.is_compiling():
            return
        for name, kept in self._kept.pop(module, {}).items():
            module.get_buffer(name).copy_(kept)
