"""One class per Fisher type: when g of a layer's output is known, and where from.

A source is told when a layer's output is there, when the next layer's input arrives, and when the model's forward has ended; it
delivers each g, shaped like the layer's output, as soon as it has it.
"""

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from lngd.capture.graph import OpenActivation, when_gradient_arrives
from lngd.capture.predictions import predictions_of
from lngd.fisher import FisherType, Likelihood, Noise, draw, sampled_gradient

Calls: TypeAlias = list[tuple[Tensor, Tensor]]
"""Calls of a layer in one forward: its input x, and g shaped like its output."""
OnSample: TypeAlias = Callable[[str, Calls, int, FisherType], None]
"""Receives a layer's name, its calls, whose gradients add up to one sample's, the forward_id, and where g came from."""


REENTRANT = "use_reentrant"
"""What torch's error says where reentrant activation checkpointing lies on the way."""
AT_ITS_OUTPUT = "sampled at its own output: reentrant checkpointing lies behind it; use_reentrant=False samples it in full"
FROM_THE_DATA = "labels of the data instead of drawn ones: reentrant checkpointing; use_reentrant=False draws them"


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


class LayerwiseSource(Source):
    """Noise on a layer's input is pulled back to every pre-activation it was made from, whatever lies between (LNGD sec. 3.1).

    Reentrant checkpointing can't be differentiated on the spot: the last layer before it and the last one inside it receive noise
    on their own output.
    """

    fisher = FisherType.LAYERWISE

    def __init__(self, deliver: OnSample, *, noise: Noise, generator: torch.Generator) -> None:
        super().__init__(deliver)
        self.noise, self.generator = noise, generator

    def arriving(self, x: Tensor) -> None:
        """Closes the pre-activations that x was made from: g = Jᵩᵀ ε."""
        if not self.open or x.grad_fn is None:
            return
        opened, self.open = self.open, []
        epsilon = self._epsilon(x)
        for pre, g in zip(opened, self.pull_each(x, epsilon, opened, self._at_its_output), strict=True):
            if g is None:
                self.open.append(pre)
            else:
                self.give(pre, g)

    def finished(self, output: Any) -> None:
        """What is still open receives g = ε: its own output is what the next layer would get."""
        for pre in self.open:
            if pre.rerun:
                self.notes[pre.name] = AT_ITS_OUTPUT
            self.give(pre, self._epsilon(pre.like))
        self.open.clear()

    def part_finished(self) -> None:
        """What is open belongs to the micro-batch before."""
        self.finished(None)

    def _at_its_output(self, pre: OpenActivation) -> Tensor:
        self.notes[pre.name] = AT_ITS_OUTPUT
        return self._epsilon(pre.like)

    def _epsilon(self, like: Tensor) -> Tensor:
        return draw(self.noise, self.generator, shape=like.shape, dtype=like.dtype, device=like.device)


class SampledSource(Source):
    """Labels are drawn from the model's output, and their gradient is pulled back through the whole model (LNGD eq. 1).

    Behind reentrant checkpointing no pass of our own reaches a layer: the user's own backward, with the labels of the data, does.
    """

    fisher = FisherType.SAMPLED

    def __init__(self, deliver: OnSample, *, likelihood: Likelihood, generator: torch.Generator) -> None:
        super().__init__(deliver)
        self.likelihood: Likelihood = likelihood
        self.generator = generator
        self.labels = EmpiricalSource(deliver)

    def opened(self, pre: OpenActivation) -> None:
        """To be pulled back to at the end, unless that can't be."""
        if pre.rerun:
            self._wait_for_labels(pre)
        else:
            super().opened(pre)

    def finished(self, output: Any) -> None:
        """One backward pass of our own; layers that the output does not depend on are noted."""
        opened, self.open = self.open, []
        if output is None:
            return self.labels.finished(None)
        if not opened:
            return None
        predictions = predictions_of(output)
        grads = sampled_gradient(self.likelihood, predictions, self.generator).to(predictions.dtype)
        return self._deliver_all(opened, self.pull_each(predictions, grads, opened, self._wait_for_labels))

    def discard(self) -> None:
        """A step has ended."""
        super().discard()
        self.labels.discard()

    def _wait_for_labels(self, pre: OpenActivation) -> None:
        self.notes[pre.name] = FROM_THE_DATA
        self.labels.opened(pre)

    def _deliver_all(self, opened: list[OpenActivation], pulled: Sequence[Tensor | None]) -> None:
        found: defaultdict[str, Calls] = defaultdict(list)
        for pre, g in zip(opened, pulled, strict=True):
            if g is not None:
                found[pre.name].append((pre.x, pre.as_output(g.detach())))
            elif pre.name not in self.notes:
                self.unreached.add(pre.name)
        for name, calls in found.items():
            self.deliver(name, calls, opened[0].forward_id, self.fisher)


class EmpiricalSource(Source):
    """The user's own backward brings g; what several backward passes bring adds up until the step."""

    fisher = FisherType.EMPIRICAL

    def __init__(self, deliver: OnSample) -> None:
        super().__init__(deliver)
        self.received: dict[tuple[str, int], dict[int, tuple[Tensor, Tensor]]] = {}
        self.calls = 0

    def opened(self, pre: OpenActivation) -> None:
        """Waits for the gradient of this call."""
        self.calls += 1
        owner, key, call, x, as_output = weakref.ref(self), (pre.name, pre.forward_id), self.calls, pre.x, pre.as_output

        def receive(grad: Tensor) -> None:
            source = owner()
            if source is not None and not source.pulling:
                g, calls = as_output(grad), source.received.setdefault(key, {})
                calls[call] = (x, calls[call][1] + g if call in calls else g)

        when_gradient_arrives(pre.edge, receive)

    def finished(self, output: Any) -> None:
        """At the step, delivers what has arrived."""
        if output is None:
            received, self.received = self.received, {}
            for (name, forward_id), calls in received.items():
                self.deliver(name, [*calls.values()], forward_id, self.fisher)

    def discard(self) -> None:
        """A step has ended."""
        super().discard()
        self.received.clear()


def source_of(
    fisher: FisherType, deliver: OnSample, *, noise: Noise, likelihood: Likelihood, generator: torch.Generator
) -> Source:
    """The source of a Fisher type."""
    if fisher is FisherType.LAYERWISE:
        return LayerwiseSource(deliver, noise=noise, generator=generator)
    if fisher is FisherType.SAMPLED:
        return SampledSource(deliver, likelihood=likelihood, generator=generator)
    return EmpiricalSource(deliver)
