"""The hooks: they stream `x` and `g` of every layer to whoever asks, and change nothing the user computes.

Two streams. *Fisher samples*, at measuring steps: x and g as the Fisher type's source finds them (`sources.py`). *Rate samples*,
at every step: inputs and back-propagated gradients of a few samples, for the learning rate (LNGD eqs. 12–13).

Conventions. Only forwards of a module in training mode with gradients enabled count. A pre-activation is held as an edge of the
autograd graph, not as a tensor, so that an in-place activation after it changes nothing. All forwards between two steps belong
to one measurement; `forward_id` tells the calls of one forward (the same samples) from micro-batches (new samples).
"""

import weakref
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lngd.capture.attachment import Attachment
from lngd.capture.buffers import UntouchedBuffers
from lngd.capture.compiled import CompiledRates, Uncompiled, has_compiled_parts
from lngd.capture.graph import (
    OpenActivation,
    RateSample,
    inside_backward,
    inside_transform,
    layer_input,
    pre_activation,
    spread,
    stand_in,
    sub_batch,
    when_gradient_arrives,
)
from lngd.capture.source import Source
from lngd.layers import AttentionInput, Layer

NOT_IN_THE_OUTPUT = "the model's output, from which labels are drawn, does not depend on it"


@dataclass
class LayerCapture:
    """Hooks on a model's layers.

    Args:
        model: its forward marks where a forward begins and ends; what torch.compile made of a model counts as the model.
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
    refused: dict[str, str] = field(default_factory=dict)
    """Layers that were called in a way that has no curvature, with the reason."""
    forward_id: int = 0
    waiting: bool = False
    """Whether a layer was called, at a measuring step, since the last step."""
    _backward_ran: bool = False
    _called_now: Counter[str] = field(default_factory=Counter)
    _uncompiled: Uncompiled = field(default_factory=Uncompiled)
    _has_compiled_parts: bool = False

    def __post_init__(self) -> None:
        self._compiled = CompiledRates(self.rate_samples)
        self._hooks, self._buffers = Attachment(self), UntouchedBuffers()

    def attach(self) -> None:
        """Puts the hooks on the model and its layers."""
        hooks = self._hooks
        hooks.before(self.model, "begin_forward")
        self.attach_to_layers()
        self._buffers.attach(self.model)
        hooks.after(self.model, "end_forward")  # last: the model may be a layer itself
        hooks.after(self.model, "leave_forward", always_call=True)

    def attach_to_layers(self) -> None:
        """Puts the hooks on the layers."""
        for name, layer in self.layers.items():
            if not isinstance(layer, AttentionInput):
                self._hooks.before(layer.module, "before_layer", name, with_kwargs=True)
                self._hooks.after(layer.module, "after_layer", name, with_kwargs=True)

    def watch(self, layers: dict[str, Layer]) -> None:
        """TEMPORARY."""
        self._hooks.remove()
        self._hooks = Attachment(self)
        self.layers = layers
        self.attach()

    def close(self) -> None:
        """Removes the hooks; so does the end of the object's life."""
        self._hooks.remove()
        self._buffers.remove()
        self._uncompiled.leave()
        self.reset()

    def reset(self) -> None:
        """Forgets what was captured since the last step."""
        self.rates.clear()
        self._called_now.clear()
        self._backward_ran = self.waiting = False
        self.source.discard()
        self._compiled.discard()

    def memory(self) -> dict[str, Any]:
        """What a copy has to know of the past."""
        return {"measuring": self.measuring, "called": set(self.called), "refused": dict(self.refused)}

    def recall(self, memory: dict[str, Any]) -> None:
        """Takes what `memory` gave."""
        vars(self).update(memory)

    def begin_forward(self, _module: nn.Module, _args: tuple) -> None:
        """A new forward of the model: what an interrupted one left open will never be closed."""
        if torch.compiler.is_compiling() or self.source.pulling or inside_transform():
            return
        self.gather()
        self._next_forward()
        self._compiled.begin()
        self.source.forget()
        if self.measuring or not self._compiled.prepared:
            self._has_compiled_parts = has_compiled_parts(self.model)
            self._uncompiled.enter()

    def end_forward(self, _module: nn.Module, _args: tuple, output: Any) -> None:
        """The model's forward has ended."""
        if not (torch.compiler.is_compiling() or self.source.pulling or inside_transform()):
            self.source.finished(output)
            self._compiled.keep_those_called_once(self._called_now)

    def leave_forward(self, _module: nn.Module, _args: tuple, _output: Any) -> None:
        """The model's forward has ended or failed."""
        if not torch.compiler.is_compiling():
            self._uncompiled.leave()

    def before_layer(self, name: str, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """A layer's input has arrived."""
        if torch.compiler.is_compiling() or not self._watches(name, module):
            return
        x = layer_input(args, kwargs)
        self.layers[name].check_batch(x, name)
        self._arriving(x)

    def _arriving(self, *inputs: Tensor) -> None:
        if self._backward_ran and not inside_backward():  # parts of a model are called, not the model: a new micro-batch
            self._next_forward()
            self.source.part_finished()
        for x in inputs if self.measuring else ():
            self.source.arriving(x)

    def after_layer(self, name: str, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> Tensor:
        """Opens this layer's pre-activation and waits for its gradient. Returns the output, or a clone that stands for it."""
        if torch.compiler.is_compiling():
            return self._trace_layer(name, module, layer_input(args, kwargs), output)
        if not (self._watches(name, module) and output.requires_grad):
            return output
        layer, x = self.layers[name], layer_input(args, kwargs).detach()
        if reason := layer.refuses_call(args, kwargs):
            self.refused[name] = reason
            return output
        if not self._wanted(name, len(x)):
            return output
        output, edge = pre_activation(output)
        shape = output.shape
        made = OpenActivation(
            name,
            layer.batch_first(x),
            edge,
            stand_in(output, *shape),
            lambda g: layer.batch_first(g.reshape(shape)),
            self.forward_id,
            inside_backward(),
        )
        self.opened(made)
        return output

    def _wanted(self, name: str, batch: int) -> bool:
        """Whether anybody wants the gradient of a call, which is counted."""
        if not inside_backward():
            self._called_now[name] += 1
        self.called.add(name)
        return self.measuring or (self.rate_samples != 0 and batch > 0)

    def opened(self, made: OpenActivation) -> None:
        """A call whose gradient is wanted."""
        if self.measuring:
            self.source.opened(made)
            self.waiting |= len(made.x) > 0
        if self._has_compiled_parts and self.rate_samples != 0 and len(made.x):
            self._compiled.prepare(made.name, made.as_output(made.like))
        self._await_gradient(made)

    def gather(self) -> dict[str, list[RateSample]]:
        """All samples of the rate since the last step, those of a compiled forward among them."""
        for name, sample in self._compiled.collect(self.forward_id).items():
            self.rates.setdefault(name, []).append(sample)
        return self.rates

    def refuse_hidden_forwards(self) -> None:
        """Raises RuntimeError if a measuring forward ran where the hooks could not keep it uncompiled."""
        if self.measuring and not self.waiting:
            self._compiled.refuse_hidden_forwards()

    def why_unseen(self, name: str) -> str | None:
        """Why a layer that has a gradient can't be measured, if nothing was seen of it."""
        if name in self.refused:
            return self.refused[name]
        if name in self.called:
            return NOT_IN_THE_OUTPUT if name in self.source.unreached else None
        if not self.called and not self.forward_id:
            return None  # no forward at all: gradients were set by hand, as torch's distributed checkpointing does
        if not self.layers[name].module.training:
            return "it was trained in evaluation mode; call model.train() before the first step"
        return "its weight is used without calling the module"

    def _next_forward(self) -> None:
        self.forward_id += 1
        self._backward_ran = False
        self._called_now.clear()

    def _watches(self, name: str, module: nn.Module) -> bool:
        """Not where activation checkpointing runs a forward again, for a backward pass of our own or of the user."""
        if not (module.training and torch.is_grad_enabled() and name in self.layers):
            return False
        if self.source.pulling or inside_transform():
            return False
        return not (name in self._called_now and inside_backward())

    def _await_gradient(self, made: OpenActivation) -> None:
        """For the rate, and to learn that a backward pass ran."""
        name, as_output, batch, forward_id, owner = made.name, made.as_output, len(made.x), made.forward_id, weakref.ref(self)
        chosen = spread(batch, self.rate_samples)
        samples = sub_batch(made.x, chosen) if self.rate_samples != 0 and batch else None

        def keep(g: Tensor) -> None:
            capture = owner()
            if capture is None or capture.source.pulling:
                return
            capture._backward_ran = True
            if samples is not None:
                sample = RateSample(samples, sub_batch(as_output(g), chosen), batch, forward_id)
                capture.rates.setdefault(name, []).append(sample)

        when_gradient_arrives(made.edge, keep)

    def _trace_layer(self, name: str, module: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """Inside a graph that torch.compile makes; a layer that is called several times has no leaf of its own."""
        self._compiled.ran = True
        if self.rate_samples == 0 or not (module.training and torch.is_grad_enabled() and output.requires_grad):
            return output
        layer = self.layers[name]
        return layer.batch_first(self._compiled.trace(name, layer.batch_first(x), layer.batch_first(output)))
