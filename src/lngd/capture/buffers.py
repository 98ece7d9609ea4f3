"""Buffers that a forward changes, running averages above all, see each batch as often as without us.

A backward pass of ours through activation checkpointing runs a part of the model once more.
"""

import torch
from torch import Tensor, nn

from lngd.capture.attachment import Attachment
from lngd.capture.source import Source


class UntouchedBuffers:
    """Hooks on every module with buffers; they act only while a backward pass of ours runs."""

    def __init__(self) -> None:
        self._hooks = Attachment(self)
        self._kept: dict[nn.Module, dict[str, Tensor]] = {}

    def attach(self, model: nn.Module) -> None:
        """Puts the hooks on."""
        for module in model.modules():
            if any(buffer is not None for buffer in module._buffers.values()):
                self._hooks.before(module, "keep")
                self._hooks.after(module, "restore", always_call=True)  # recomputation stops early, by an exception

    def remove(self) -> None:
        """Takes them off."""
        self._hooks.remove()

    def keep(self, module: nn.Module, _args: tuple) -> None:
        """Copies a module's buffers before its forward."""
        if not torch.compiler.is_compiling() and Source.pulling:
            self._kept[module] = {name: b.clone() for name, b in module._buffers.items() if b is not None}

    def restore(self, module: nn.Module, _args: tuple, _output: object) -> None:
        """Puts them back after it."""
        if torch.compiler.is_compiling():
            return
        for name, kept in self._kept.pop(module, {}).items():
            module.get_buffer(name).copy_(kept)
