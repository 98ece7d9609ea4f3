"""The hooks: they stream `x` and `g` of every layer to whoever asks, and change nothing the user computes.

Two streams. *Layer-wise samples*, at measuring steps: when a layer's input x arrives, noise on x is pulled back to every
pre-activation that is still open, `Jᵩᵀ ε` by `autograd.grad`, whatever lies between them (LNGD sec. 3.1). *Rate samples*, at
every step: inputs and back-propagated gradients of a few samples, for the learning rate (LNGD eqs. 12–13).

Conventions. Only forwards of a module in training mode with gradients enabled count. A pre-activation is held as an edge of the
autograd graph, not as a tensor, so that an in-place activation after it changes nothing. All forwards between two steps belong
to one measurement; `forward_id` tells the calls of one forward (the same samples) from micro-batches (new samples).
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from lngd.fisher import Noise, draw
from lngd.layers import Layer

OnSample: TypeAlias = Callable[[str, Tensor, Tensor, int], None]
"""Receives a layer's name, its input x, g shaped like its output, and the forward_id."""


@dataclass
class OpenActivation:
    """A pre-activation whose next layer has not been met yet."""

    name: str
    x: Tensor
    edge: GradientEdge
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    forward_id: int


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
        on_sample: called during the forward with each layer-wise sample.
        noise, generator: where ε comes from.
        rate_samples: how many samples of a batch are kept for the rate; None for all, 0 for none.
    """

    model: nn.Module
    layers: dict[str, Layer]
    on_sample: OnSample
    noise: Noise
    generator: torch.Generator
    rate_samples: int | None
    measuring: bool = True
    called: set[str] = field(default_factory=set)
    rates: dict[str, list[RateSample]] = field(default_factory=dict)
    forward_id: int = 0
    _open: list[OpenActivation] = field(default_factory=list)
    _handles: list[Any] = field(default_factory=list)
    _pulling: bool = False

    def attach(self) -> None:
        """Puts the hooks on the model and its layers."""
        self._handles.append(self.model.register_forward_pre_hook(Hook(self, "begin_forward")))
        self._handles.append(self.model.register_forward_hook(Hook(self, "end_forward")))
        for name, layer in self.layers.items():
            before, after = Hook(self, "before_layer", name), Hook(self, "after_layer", name)
            self._handles.append(layer.module.register_forward_pre_hook(before, with_kwargs=True))
            self._handles.append(layer.module.register_forward_hook(after, with_kwargs=True))

    def close(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.reset()

    def reset(self) -> None:
        """Forgets what was captured since the last step."""
        self.rates.clear()
        self._open.clear()

    def begin_forward(self, _module: nn.Module, _args: tuple) -> None:
        """A new forward of the model: what an interrupted one left open will never be closed."""
        self.forward_id += 1
        self._open.clear()

    def end_forward(self, *_hook_arguments: object) -> None:
        """What is still open at the model's output receives g = ε: its own output is what the next layer would get."""
        for pre in self._open:
            self._deliver(pre, self._epsilon(pre))
        self._open.clear()

    def before_layer(self, name: str, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """The next layer's input has arrived: close the pre-activations it was made from."""
        if not self._watches(name, module):
            return
        x = layer_input(args, kwargs)
        self.layers[name].check_batch(x, name)
        if self.measuring and self._open and x.grad_fn is not None:
            self._close(x)

    def after_layer(self, name: str, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> Tensor:
        """Opens this layer's pre-activation and waits for its gradient. Returns the output, or a clone that stands for it."""
        if not (self._watches(name, module) and output.requires_grad):
            return output
        self.called.add(name)
        x = layer_input(args, kwargs).detach()
        output, edge = pre_activation(output)
        if self.measuring:
            made = OpenActivation(name, x, edge, output.shape, output.dtype, output.device, self.forward_id)
            self._open.append(made)
        if self.rate_samples != 0 and len(x):
            self._await_gradient(name, x, edge, output.shape)
        return output

    def _watches(self, name: str, module: nn.Module) -> bool:
        return module.training and torch.is_grad_enabled() and name in self.layers and not self._pulling

    def _close(self, x: Tensor) -> None:
        opened, self._open = self._open, []
        for pre, g in zip(opened, self._pull_back(x, [pre.edge for pre in opened]), strict=True):
            if g is None:
                self._open.append(pre)
            else:
                self._deliver(pre, g)

    def _pull_back(self, x: Tensor, edges: list[GradientEdge]) -> tuple[Tensor | None, ...]:
        """Jᵩᵀ ε; where activation checkpointing runs a forward again for it, the hooks look away."""
        self._pulling = True
        try:
            return torch.autograd.grad(x, edges, self._epsilon(x), retain_graph=True, allow_unused=True)
        finally:
            self._pulling = False

    def _epsilon(self, like: Tensor | OpenActivation) -> Tensor:
        return draw(self.noise, self.generator, shape=like.shape, dtype=like.dtype, device=like.device)

    def _deliver(self, pre: OpenActivation, g: Tensor) -> None:
        self.on_sample(pre.name, pre.x, g.detach().reshape(pre.shape), pre.forward_id)

    def _await_gradient(self, name: str, x: Tensor, edge: GradientEdge, shape: torch.Size) -> None:
        chosen = spread(len(x), self.rate_samples)
        x, batch, forward_id, capture = sub_batch(x, chosen), len(x), self.forward_id, weakref.ref(self)
        output_nr = edge.output_nr  # the closure must not hold the edge: node → hook → edge → node would never be freed

        def keep(grads: tuple[Tensor | None, ...]) -> None:
            owner, grad = capture(), grads[output_nr]
            if owner is not None and grad is not None:
                g = sub_batch(grad.detach().reshape(shape), chosen)
                owner.rates.setdefault(name, []).append(RateSample(x, g, batch, forward_id))

        edge.node.register_prehook(keep)


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


def layer_input(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The tensor a layer was called with, by position or as `input=`."""
    return args[0] if args else kwargs["input"]


def pre_activation(output: Tensor) -> tuple[Tensor, GradientEdge]:
    """A layer's output and the edge of the graph where its gradient arrives.

    A view, as nn.Linear returns for inputs of three and more dimensions, has no lasting edge of its own: an in-place activation
    rewrites the history of its base. The base's edge lasts, so that is the one taken; if the base is laid out otherwise, a clone
    stands for the output (test_in_place_activations_give_the_same_numbers).
    """
    if not output._is_view():
        return output, get_gradient_edge(output)
    base = output._base
    if base is not None and base.numel() == output.numel() and base.is_contiguous() and output.is_contiguous():
        return output, get_gradient_edge(base)
    output = output.clone()
    return output, get_gradient_edge(output)


def spread(n: int, wanted: int | None) -> slice:
    """At most `wanted` of n samples at even distances, so that a batch sorted by class is still sampled fairly."""
    return slice(None) if wanted is None or wanted >= n else slice(None, None, -(-n // wanted))


def sub_batch(x: Tensor, chosen: slice) -> Tensor:
    """The chosen samples; a copy unless it is all of them, so that the rest of the batch can be freed."""
    return x if chosen == slice(None) else x[chosen].clone()
