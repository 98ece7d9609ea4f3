"""Where a layer's output stands in the autograd graph, and how to be called when its gradient arrives there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge


@dataclass
class OpenActivation:
    """A layer's call: its input x, batch first, and the place of its pre-activation in the graph."""

    name: str
    x: Tensor
    edge: GradientEdge
    like: Tensor
    """An expanded scalar with the shape, dtype and device of the gradient that arrives at the edge."""
    as_output: Callable[[Tensor], Tensor]
    """From that gradient to g, batch first."""
    forward_id: int
    rerun: bool = False
    """Whether activation checkpointing ran this call inside a backward pass."""


@dataclass
class RateSample:
    """A few samples of one call of a layer: input, gradient with respect to the output, and the batch they came from."""

    x: Tensor
    g: Tensor
    batch: int
    forward_id: int


def layer_input(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The tensor a layer was called with, by position or as `input=`."""
    return args[0] if args else kwargs["input"]


def stand_in(t: Tensor, *shape: int) -> Tensor:
    """A tensor of t's dtype and device and of any shape that takes no memory."""
    return t.detach().new_zeros(()).expand(shape)


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


def when_gradient_arrives(edge: GradientEdge, receive: Callable[[Tensor], None]) -> None:
    """Calls `receive` with the gradient at each backward pass that brings one.

    What `receive` holds must not hold the edge: node → hook → edge → node would never be freed.
    """
    output_nr = edge.output_nr

    def hook(grads: tuple[Tensor | None, ...]) -> None:
        grad = grads[output_nr]
        if grad is not None:
            receive(grad.detach())

    edge.node.register_prehook(hook)


def inside_backward() -> bool:
    """Whether autograd is running a backward pass; torch's own checkpointing asks the same private question."""
    return torch._C._current_graph_task_id() != -1


def inside_transform() -> bool:
    """Whether torch.func is transforming what runs: such a forward is a function's, not a training step's."""
    return torch._C._are_functorch_transforms_active()


def spread(n: int, wanted: int | None) -> slice:
    """At most `wanted` of n samples at even distances, so that a batch sorted by class is still sampled fairly."""
    return slice(None) if not wanted or wanted >= n else slice(None, None, -(-n // wanted))


def sub_batch(x: Tensor, chosen: slice) -> Tensor:
    """The chosen samples; a copy unless it is all of them, so that the rest of the batch can be freed."""
    return x if chosen == slice(None) else x[chosen].clone()
