"""Where a layer's output stands in the autograd graph, and what happens when its gradient arrives there."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from lngd.sampling import Call
from lngd.torch_private import graph_is_kept, is_alias, saved_input, view_base

WHOLE = slice(None)


@dataclass(slots=True)
class OpenActivation:
    """A layer's call: its input, and the place of its pre-activation in the graph."""

    name: str
    module: nn.Module
    """The layer's."""
    x: Tensor
    """Of the whole batch, batch first, without history."""
    edge: GradientEdge
    as_output: Callable[[Tensor], Tensor]
    """From the gradient that arrives at the edge to g, batch first."""
    shape: torch.Size
    """That of the gradient."""
    dtype: torch.dtype
    as_input: Callable[[Tensor], Tensor] | None = None
    """From some samples of `x` to the layer's input, if that is another."""
    positions: int | None = None
    """Of a sample; None: as many as its entries make rows of the layer's outputs."""
    raw: bool = False
    """Whether `x` is rows of data, which nothing that is trained has made."""
    batch: int | None = None
    """The samples of which `x` is rows, if it has not one a row."""
    lent: bool = False
    """Whether `x` is what autograd keeps for the backward pass, which nobody may write to until then."""

    def samples(self, chosen: slice) -> Tensor:
        """Some samples of the layer's input: lent until the backward pass has come, or a copy.

        Of a copy the rest of the batch can be freed, and the user may write to the buffer again.
        """
        x = self.x[chosen] if self.lent else self.x[chosen].clone()
        return x if self.as_input is None else self.as_input(x)


@dataclass(slots=True)
class RateSample:
    """A few samples of one call of a layer: input, gradient with respect to the output, and the batch they came from."""

    x: Tensor
    g: Tensor
    batch: int
    forward_id: int


def joined_samples(samples: Sequence[RateSample]) -> list[RateSample]:
    """Of calls whose rows are samples: those of one forward as one."""
    joined = []
    for forward_id in dict.fromkeys(sample.forward_id for sample in samples):
        own = [sample for sample in samples if sample.forward_id == forward_id]
        x, g = torch.cat([sample.x for sample in own]), torch.cat([sample.g for sample in own])
        joined.append(RateSample(x, g, sum(sample.batch for sample in own), forward_id))
    return joined


@dataclass(slots=True)
class Guess:
    """What a backward pass has brought to a call. It counts once the pass has accumulated into the layer's weight."""

    sample: RateSample | None
    call: Call | None
    gradient: Tensor | None
    """Of the call's chosen samples, if g is made of it."""
    last: bool = False
    """Whether the pass came to this call, whose outputs are rows, before any other."""


@dataclass(slots=True)
class Arrival:
    """What waits for the gradient at a call's edge; each of the user's backward passes that brings one finds it there.

    The graph holds it, so it must hold no edge (node → hook → edge → node would never be freed), and no module, which may hold
    its output (test_a_model_that_keeps_its_output_is_freed).
    """

    name: str
    module: weakref.ref[nn.Module]
    output_nr: int
    as_output: Callable[[Tensor], Tensor]
    batch: int
    forward_id: int
    chosen: slice
    """The rate's samples."""
    x: Tensor | None
    """The input of those; None if the rate wants none."""
    lent: bool
    """Whether autograd keeps `x`."""
    call: Call | None = None
    """At a measuring step, what the curvature wants."""

    def take(self) -> tuple[Tensor | None, Call | None]:
        """The rate's input and the curvature's call, which are let go unless the graph is kept for another backward pass."""
        x, call = self.x, self.call
        if x is not None and self.lent:
            x = x.clone()
        if not graph_is_kept():
            self.x = self.call = None
            if call is not None:
                call.final = True
        return x, call


def layer_input(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The tensor a layer was called with: the first argument, `input=`, or whatever the module calls it."""
    return args[0] if args else kwargs.get("input", next(iter(kwargs.values())))


def shaped(shape: torch.Size, gradient: Tensor) -> Tensor:
    """A gradient shaped like a module's output, from one of as many entries."""
    return gradient if gradient.shape == shape else gradient.reshape(shape)


def folded(fold: Callable[[Tensor], Tensor], shape: torch.Size, gradient: Tensor) -> Tensor:
    """The same with its samples in the first dimension."""
    return fold(shaped(shape, gradient))


def borrowed(edge: GradientEdge, x: Tensor, module: nn.Module | None = None) -> tuple[Tensor, bool]:
    """A layer's input without history, and whether autograd keeps it until the gradient arrives at the edge: it costs no memory.

    Autocast makes a copy, in half the memory. Of torch's own modules it is known that it is one of their input.
    """
    saved, kept = saved_input(edge.node), False
    if saved is not None and saved.numel() == x.numel():
        same = is_alias(saved, x)
        kept = same or (saved.dtype != x.dtype and type(module).__module__.startswith("torch.nn.modules."))
        x = saved.reshape(x.shape) if kept and not same else x
    return x.detach() if x.requires_grad else x, kept


def pre_activation(output: Tensor) -> tuple[Tensor, GradientEdge]:
    """A layer's output and the edge of the graph where its gradient arrives.

    A view, as nn.Linear returns for inputs of three and more dimensions, has no lasting edge of its own: an in-place activation
    rewrites the history of its base. The base's edge lasts, so that is the one taken; if the base is laid out otherwise, a clone
    stands for the output (test_in_place_activations_give_the_same_numbers).
    """
    base = view_base(output)
    if base is None:
        return output, get_gradient_edge(output)
    if base.numel() == output.numel() and base.is_contiguous() and output.is_contiguous():
        return output, get_gradient_edge(base)
    output = output.clone()
    return output, get_gradient_edge(output)


def spread(n: int, wanted: int | None) -> slice:
    """At most `wanted` of n samples at even distances, so that a batch sorted by class is still sampled fairly."""
    return WHOLE if not wanted or wanted >= n else slice(None, None, -(-n // wanted))
