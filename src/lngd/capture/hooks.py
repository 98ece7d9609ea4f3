"""The hooks: they stream `x` and `g` of every layer to whoever asks, and change nothing the user computes.

Two streams. *Fisher samples*, at measuring steps: x and g as the Fisher type's source finds them (`sources.py`). *Rate samples*,
at every step: inputs and back-propagated gradients of a few samples, for the learning rate (LNGD eqs. 12–13).

Conventions. Only forwards of a module in training mode with gradients enabled count. A pre-activation is held as an edge of the
autograd graph, not as a tensor, so that an in-place activation after it changes nothing. All forwards between two steps belong
to one measurement; `forward_id` tells the calls of one forward (the same samples) from micro-batches (new samples).
"""

import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from lngd.capture.graph import (
    OpenActivation,
    inside_backward,
    layer_input,
    pre_activation,
    spread,
    sub_batch,
    when_gradient_arrives,
)
from lngd.capture.sources import Source
from lngd.layers import Layer


@dataclass
class RateSample:
    """A few samples of one call of a layer: input, gradient with respect to the output, and the batch they came from."""

    x: Tensor
    g: Tensor
    batch: int
    forward_id: int


@dataclass
class Capture:
    """Hooks on a model's layers.

    Args:
        model: its forward marks where a forward begins and ends.
        layers: by name.
        source: where the Fisher samples come from.
        rate_samples: how many samples of a batch are kept for the rate; None for all, 0 for none.
    """

    model: nn.Module
    layers: dict[str, Layer]
    source: Source
    rate_samples: int | None
    measuring: bool = True
    called: set[str] = field(default_factory=set)
    rates: dict[str, list[RateSample]] = field(default_factory=dict)
    forward_id: int = 0
    waiting: bool = False
    """Whether a layer was called, at a measuring step, since the last step."""
    _backward_ran: bool = False
    _called_now: set[str] = field(default_factory=set)
    _handles: list[Any] = field(default_factory=list)

    def attach(self) -> None:
        """Puts the hooks on the model and its layers."""
        self._handles.append(self.model.register_forward_pre_hook(Hook(self, "begin_forward")))
        for name, layer in self.layers.items():
            before, after = Hook(self, "before_layer", name), Hook(self, "after_layer", name)
            self._handles.append(layer.module.register_forward_pre_hook(before, with_kwargs=True))
            self._handles.append(layer.module.register_forward_hook(after, with_kwargs=True))
        self._handles.append(self.model.register_forward_hook(Hook(self, "end_forward")))  # last: the model may be a layer itself

    def close(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.reset()

    def reset(self) -> None:
        """Forgets what was captured since the last step."""
        self.rates.clear()
        self._called_now.clear()
        self._backward_ran = self.waiting = False
        self.source.discard()

    def begin_forward(self, _module: nn.Module, _args: tuple) -> None:
        """A new forward of the model: what an interrupted one left open will never be closed."""
        if not self.source.pulling:
            self._next_forward()
            self.source.forget()

    def end_forward(self, _module: nn.Module, _args: tuple, output: Any) -> None:
        """The model's forward has ended."""
        if not self.source.pulling:
            self.source.finished(output)

    def before_layer(self, name: str, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """A layer's input has arrived."""
        if not self._watches(name, module):
            return
        x = layer_input(args, kwargs)
        self.layers[name].check_batch(x, name)
        if self._backward_ran and not inside_backward():  # parts of a model are called, not the model: a new micro-batch
            self._next_forward()
            self.source.part_finished()
        if self.measuring:
            self.source.arriving(x)

    def after_layer(self, name: str, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> Tensor:
        """Opens this layer's pre-activation and waits for its gradient. Returns the output, or a clone that stands for it."""
        if not (self._watches(name, module) and output.requires_grad):
            return output
        self.called.add(name)
        self._called_now.add(name)
        x = layer_input(args, kwargs).detach()
        kept = self.rate_samples != 0 and len(x) > 0
        if not (kept or self.measuring):
            return output
        output, edge = pre_activation(output)
        if self.measuring:
            made = OpenActivation(name, x, edge, output.shape, output.dtype, output.device, self.forward_id)
            self.source.opened(made)
            self.waiting |= len(x) > 0
        self._await_gradient(name, x, edge, output.shape, kept=kept)
        return output

    def why_unseen(self, name: str) -> str | None:
        """Why a layer that has a gradient can't be measured, if nothing was seen of it."""
        if name in self.called:
            return (
                "the model's output, from which labels are drawn, does not depend on it"
                if name in self.source.unreached
                else None
            )
        if not self.layers[name].module.training:
            return "it was trained in evaluation mode; call model.train() before the first step"
        return "its weight is used without calling the module"

    def _next_forward(self) -> None:
        self.forward_id += 1
        self._backward_ran = False
        self._called_now.clear()

    def _watches(self, name: str, module: nn.Module) -> bool:
        """Not where activation checkpointing runs a forward again, for a backward pass of our own or of the user."""
        if not (module.training and torch.is_grad_enabled() and name in self.layers) or self.source.pulling:
            return False
        return not (name in self._called_now and inside_backward())

    def _await_gradient(self, name: str, x: Tensor, edge: GradientEdge, shape: torch.Size, *, kept: bool) -> None:
        chosen = spread(len(x), self.rate_samples)
        batch, forward_id, owner = len(x), self.forward_id, weakref.ref(self)
        samples = sub_batch(x, chosen) if kept else None

        def keep(g: Tensor) -> None:
            capture = owner()
            if capture is None or capture.source.pulling:
                return
            capture._backward_ran = True
            if samples is not None:
                sample = RateSample(samples, sub_batch(g, chosen), batch, forward_id)
                capture.rates.setdefault(name, []).append(sample)

        when_gradient_arrives(edge, shape, keep)


class Hook:
    """Calls a method of a capture that may be gone. A copy or a pickle of the model carries hooks that do nothing."""

    def __init__(self, owner: Capture | None, method: str = "", *bound: str) -> None:
        self.owner = weakref.ref(owner) if owner is not None else None
        self.method, self.bound = method, bound

    def __call__(self, *args: Any) -> Any:
        owner = self.owner() if self.owner is not None else None
        return None if owner is None else getattr(owner, self.method)(*self.bound, *args)

    def __reduce__(self) -> tuple[type["Hook"], tuple[None]]:
        return Hook, (None,)
