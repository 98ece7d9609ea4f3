"""torch.compile: what an ordinary step can see of a compiled model without breaking its graph.

Measuring steps run the model uncompiled, since layer-wise sampling differentiates between two layers. In between only the
samples of the learning rate are wanted. Their inputs are copied inside the graph; a leaf tensor of zeros is added to the same
samples of a layer's output, and what the backward pass leaves in its `.grad` is g. No hook, no graph break, no guard on anything
that changes.
"""

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from lngd.capture.graph import RateSample, spread


@dataclass
class CompiledRates:
    """The zero leaves of the layers that one forward calls once, and what the running forward copied."""

    rate_samples: int | None
    leaves: dict[str, Tensor] = field(default_factory=dict)
    copied: dict[str, tuple[Tensor, torch.Size, int]] = field(default_factory=dict)
    """Inputs, shape of the samples' outputs, and batch size, by layer; written inside the graph."""
    prepared: bool = False
    """Whether a forward has run uncompiled; until then nobody knows how large the leaves have to be."""
    ran: bool = False
    """Whether a compiled graph has run since the last step."""
    _forwards: int = 0

    def prepare(self, name: str, output: Tensor) -> None:
        """A leaf with room for the samples of such an output; called where a layer runs uncompiled."""
        needed = (self.rate_samples or len(output)) * output[0].numel()
        if name not in self.leaves or self.leaves[name].numel() < needed:
            self.leaves[name] = torch.zeros(needed, device=output.device, requires_grad=True)

    def trace(self, name: str, x: Tensor, output: Tensor) -> Tensor:
        """The output with zeros added; runs inside the compiled graph."""
        leaf = self.leaves.get(name)
        chosen = spread(len(output), self.rate_samples)
        part = output[chosen]
        if leaf is None or part.numel() > leaf.numel() or len(output) == 0:
            return output
        self.copied[name] = (x.detach()[chosen].clone(), part.shape, len(output))
        probed = part + leaf[: part.numel()].view(part.shape).to(output.dtype)
        return torch.slice_scatter(output, probed, 0, chosen.start, chosen.stop, chosen.step or 1)

    def keep_those_called_once(self, calls: Mapping[str, int]) -> None:
        """At the end of a forward: the gradients of several calls would add up in one leaf."""
        self.prepared = True
        for name in [name for name in self.leaves if calls[name] > 1]:
            del self.leaves[name]

    def begin(self) -> None:
        """A forward begins."""
        self._forwards += 1

    def collect(self, forward_id: int) -> dict[str, RateSample]:
        """The samples of the last forward, if its backward pass has run; several forwards before one can't be told apart."""
        found = {}
        for name, (x, shape, batch) in self.copied.items():
            grad = self.leaves[name].grad
            if grad is not None and self._forwards == 1:
                found[name] = RateSample(x, grad[: shape.numel()].view(shape), batch, forward_id)
        self.discard()
        return found

    def refuse_hidden_forwards(self) -> None:
        """Raises RuntimeError if a compiled graph ran: called at the end of a measuring step that measured nothing."""
        if self.ran:
            raise RuntimeError(
                "the model was compiled without the optimizer knowing, so its curvature can't be measured: "
                "build the optimizer from what torch.compile(model) returned, not before it and not with model.compile()"
            )

    def discard(self) -> None:
        """Forgets the last forward."""
        for leaf in self.leaves.values():
            leaf.grad = None
        self.copied.clear()
        self._forwards, self.ran = 0, False


def has_compiled_parts(model: nn.Module) -> bool:
    """Whether torch.compile has been at a model or a module of it."""
    if "torch._dynamo" not in sys.modules:
        return False
    return any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in model.modules())


class Uncompiled:
    """While it is entered, compiled functions run as written.

    Several optimizers may watch one model, and the first to come is the first to leave: one setting serves them all, until the
    last has left. Without a compiled model around nothing has to be imported for that.
    """

    _inside: ClassVar[int] = 0
    _setting: ClassVar[AbstractContextManager | None] = None

    def __init__(self) -> None:
        self._entered = 0

    def enter(self) -> None:
        """A forward that has to run as written begins."""
        if "torch._dynamo" not in sys.modules:
            return
        if not Uncompiled._inside:
            Uncompiled._setting = torch.compiler.set_stance("force_eager")
            Uncompiled._setting.__enter__()
        Uncompiled._inside += 1
        self._entered += 1

    def leave(self) -> None:
        """It has ended or failed; or its optimizer is gone."""
        Uncompiled._inside -= self._entered
        if self._entered and not Uncompiled._inside and Uncompiled._setting is not None:
            Uncompiled._setting.__exit__(None, None, None)
        self._entered = 0
