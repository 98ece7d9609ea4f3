"""The contract of a source of Fisher samples, and the backward passes of our own that sources make.

A source is told when a layer's output is there, when the next layer's input arrives, and when the model's forward has ended; it
delivers each g, shaped like the layer's output, as soon as it has it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from lngd.capture.graph import OpenActivation
from lngd.fisher import FisherType

Calls: TypeAlias = list[tuple[Tensor, Tensor]]
"""Calls of a layer in one forward: its input x, and g shaped like its output."""
OnSample: TypeAlias = Callable[[str, Calls, int, FisherType], None]
"""Receives a layer's name, its calls, whose gradients add up to one sample's, the forward_id, and where g came from."""


REENTRANT = "use_reentrant"
"""What torch's error says where reentrant activation checkpointing lies on the way."""


class Source:
    """What the sources share: the pre-activations of the running forward that have no g yet."""

    pulling: ClassVar[bool] = False
    """Whether a backward pass of ours is running, whichever optimizer's: all hooks on the graph look away."""

    fisher: ClassVar[FisherType]

    def __init__(self, deliver: OnSample) -> None:
        self.deliver = deliver
        self.open: list[OpenActivation] = []
        self.notes: dict[str, str] = {}
        """Layers that are sampled in another way than the Fisher type's own, with the reason."""
        self.unreached: set[str] = set()
        """Layers from which the source could not get a g so far."""

    def opened(self, pre: OpenActivation) -> None:
        """A layer's output is there."""
        self.open.append(pre)

    def arriving(self, x: Tensor) -> None:
        """The input of a layer is there."""

    def finished(self, output: Any) -> None:
        """The model's forward has ended, with this output; with None if it was left without ending."""

    def part_finished(self) -> None:
        """A new micro-batch begins where the model's own forward does not say so."""
        self.forget()

    def forget(self) -> None:
        """What is open will never be closed."""
        self.open.clear()

    def discard(self) -> None:
        """A step has ended: nothing from before it counts any more."""
        self.forget()

    def pull_back(self, outputs: Tensor, grads: Tensor, edges: Sequence[GradientEdge]) -> tuple[Tensor | None, ...]:
        """Jᵀ·grads at each edge; the graph and the `.grad` of every parameter stay as they are.

        Hooks that a user has put on tensors inside the graph, `retain_grad` among them, do see this pass.
        """
        with self.alone():
            return torch.autograd.grad(outputs, edges, grads, retain_graph=True, allow_unused=True)

    @staticmethod
    @contextmanager
    def alone() -> Iterator[None]:
        """What runs inside, a checkpointed forward among it, is no forward or backward of the user."""
        Source.pulling = True
        try:
            yield
        finally:
            Source.pulling = False

    def pull_each(
        self,
        outputs: Tensor,
        grads: Tensor,
        opened: list[OpenActivation],
        instead: Callable[[OpenActivation], Tensor | None],
    ) -> Sequence[Tensor | None]:
        """`pull_back`, and `instead` for those that only a reentrant checkpoint leads to."""

        def alone(pre: OpenActivation) -> Tensor | None:
            found = self._pull_or_refuse(outputs, grads, [pre])
            return instead(pre) if found is None else found[0]

        together = self._pull_or_refuse(outputs, grads, opened)
        return [alone(pre) for pre in opened] if together is None else together

    def _pull_or_refuse(self, outputs: Tensor, grads: Tensor, opened: list[OpenActivation]) -> Sequence[Tensor | None] | None:
        try:
            return self.pull_back(outputs, grads, [pre.edge for pre in opened])
        except RuntimeError as error:
            if REENTRANT not in str(error):
                raise
            return None

    def give(self, pre: OpenActivation, g: Tensor) -> None:
        """Delivers one call's g, as it arrives at the edge; it has nothing to do with that of another call."""
        self.deliver(pre.name, [(pre.x, pre.as_output(g.detach()))], pre.forward_id, self.fisher)
