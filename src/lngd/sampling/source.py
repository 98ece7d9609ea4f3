"""The contract of a way of sampling: it finds g of each call of a layer, and hands on only what the loss depends on.

A source is told when a layer's output is there, when the next layer's input arrives, when the model's forward has ended, and when
the gradient of the user's own backward pass has arrived at a call. A call counts once both are there, its g and that gradient:
what a model computes beside its loss, such as the norm of a weight by way of an identity matrix, is no data. Calls of a layer in
one forward are the same samples, so they are handed on together, as soon as the last of them has seen its gradient.
"""

import weakref
from abc import ABC
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from lngd.sampling.draws import Draws
from lngd.sampling.fisher_type import FisherType
from lngd.sampling.pieces import Borders

Calls: TypeAlias = list[tuple[Tensor, Tensor]]
"""Calls of a layer on the same samples in one forward: of a sub-batch, the input x, and g shaped like the layer's output."""
OnSample: TypeAlias = Callable[[str, Calls, int, int, FisherType], Callable[[], None]]
"""Measures a layer's name, calls whose gradients add up to one sample's, the samples of their whole batch, the forward_id, and
where g came from. What it returns makes that count."""
Key: TypeAlias = tuple[str, int]
"""A layer's name and a forward_id."""


@dataclass(eq=False, slots=True, weakref_slot=True)
class Call:
    """A layer's call at a measuring step. The graph holds it and no one else, until its gradient has arrived."""

    name: str
    forward_id: int
    batch: int
    """Samples of the whole batch."""
    x: Tensor
    """The chosen samples of the input."""
    chosen: slice
    as_output: Callable[[Tensor], Tensor]
    """From the gradient at the call's edge to one that is shaped like the layer's output, batch first."""
    shape: torch.Size
    """That of the gradient."""
    dtype: torch.dtype
    raw: bool = False
    """Whether the input is rows of data, which nothing that is trained has made."""
    lent: bool = False
    """Whether autograd keeps `x`, which it lets go as the gradient arrives."""
    rerun: bool = False
    """Whether activation checkpointing ran this call inside a backward pass, as a part of its forward."""
    g: Tensor | None = None
    """Of the chosen samples, as soon as it is known."""
    era: int = -1
    """The source's, when the gradient of the user's own backward pass arrived."""
    final: bool = False
    """Whether no other backward pass will bring a gradient."""
    count: Callable[[], None] | None = None
    """Of a call that was measured as soon as its g was known: adds what was found. Then it holds neither x nor g."""

    @property
    def key(self) -> Key:
        """With which calls it is handed on."""
        return self.name, self.forward_id

    @property
    def known(self) -> bool:
        """Whether g is, or was."""
        return self.g is not None or self.count is not None

    def taken(self, gradient: Tensor) -> Tensor:
        """The chosen samples of a gradient at the call's edge, as g."""
        return self.as_output(gradient.detach())[self.chosen]

    def let_go(self) -> None:
        """It was measured, and holds nothing more."""
        self.x, self.g, self.lent = self.x.new_empty(0), None, False

    def keep(self) -> None:
        """It waits longer than autograd keeps its input."""
        if self.lent:
            self.x, self.lent = self.x.clone(), False


class Source(ABC):
    """What the sources share: the pre-activations of the running forward that have no g yet, and the calls that wait."""

    fisher: ClassVar[FisherType]
    pulls_in_mid_forward: ClassVar[bool] = False

    def __init__(self, deliver: OnSample, draws: Draws | None = None) -> None:
        self.deliver, self.draws = deliver, draws
        self.open: list[tuple[Call, GradientEdge]] = []
        """Edges are held here and by no call: the graph would hold itself."""
        self.notes: dict[str, str] = {}
        """Layers that are sampled in another way than the Fisher type's own, with the reason."""
        self.unreached: set[str] = set()
        """Layers from which the source could not get a g so far."""
        self.borders = Borders()
        """Of sharded modules, which tensors have crossed since the forward began."""
        self.waiting = False
        """Whether a gradient has arrived, since the last step, at a call that had no g."""
        self._called: dict[Key, list[weakref.ref[Call]]] = {}
        self._arrived: dict[Key, list[Call]] = {}
        self._era = 0
        """How often what had arrived was forgotten: gradients from before count no more."""

    def begins(self, forward_id: int) -> None:
        """A forward begins. What an interrupted one left open will never be closed."""
        self.forget()
        self.borders = Borders()
        if self.draws is not None:
            self.draws.begin(forward_id)

    def opened(self, call: Call, edge: GradientEdge) -> None:
        """A layer's output is there."""
        if self.draws is not None:
            self.draws.open()
        self._called.setdefault(call.key, []).append(weakref.ref(call))
        self.open.append((call, edge))

    def arriving(self, x: Tensor) -> None:  # noqa: B027  most have no use for it
        """The input of a layer is there."""

    def leaving(self, outputs: Sequence[Tensor]) -> None:  # noqa: B027
        """A sharded module is about to end, with these outputs; then its weights go."""

    def finished(self, output: Any) -> None:
        """The model's forward has ended, with this output; with None: the step has come, and what has arrived is handed on."""
        if output is None:
            for key in sorted(self._arrived, key=lambda key: key[1]):
                self._hand_on(key)

    def drawn(self) -> None:
        """What the running forward draws has been drawn."""
        if self.draws is not None:
            self.draws.finish()

    def part_finished(self) -> None:
        """A new micro-batch begins where the model's own forward does not say so."""
        self.forget()
        self.borders = Borders()

    def kept(self, call: Call, gradient: Tensor) -> Tensor | None:
        """Of a gradient that has arrived at the call, what g is made of; None where it is not."""
        return None

    def arrived(self, call: Call, gradient: Tensor | None) -> None:
        """The user's own backward pass has come to this call and counts: the loss depends on it. It counts once."""
        if call.era == self._era or not self.awaits(call):
            return
        call.era = self._era
        if self.draws is not None:
            self.draws.count(call.forward_id)
        self.waiting |= not call.known
        self._arrived.setdefault(call.key, []).append(call)
        self._hand_on_if_complete(call.key)
        if call.key in self._arrived:
            call.keep()

    def give(self, call: Call, gradient: Tensor) -> None:
        """The source has found g, as it arrives at the call's edge."""
        call.g = call.taken(gradient)
        if call.era != self._era:
            self.waits(call)
        self._hand_on_if_complete(call.key)

    def waits(self, call: Call) -> None:
        """It has g, and the gradient of the user's own backward pass is still to come."""
        if call.g is not None:
            call.g = call.g.clone()

    def forget(self) -> None:
        """What is open will never be closed."""
        self.open.clear()
        self._called = {key: alive for key, refs in self._called.items() if (alive := [ref for ref in refs if ref() is not None])}

    def forget_arrived(self) -> None:
        """The user has dropped the gradients so far; a graph that was kept may bring others to the same calls."""
        self._arrived.clear()
        self._era += 1
        self.waiting = False
        if self.draws is not None:
            self.draws.drop()

    def forget_arrived_of(self, name: str) -> None:
        """The user has dropped the gradient of one layer."""
        for key in [key for key in self._arrived if key[0] == name]:
            for call in self._arrived.pop(key):
                call.era = -1

    def forget_layers(self, names: Iterable[str]) -> None:
        """These layers are not watched any more."""
        gone = set(names)
        self.open = [(call, edge) for call, edge in self.open if call.name not in gone]
        for calls in (self._called, self._arrived):
            for key in [key for key in calls if key[0] in gone]:
                del calls[key]

    def discard(self) -> None:
        """A step has ended: nothing from before it counts any more."""
        self.open.clear()
        self.borders = Borders()
        self._called.clear()
        if self.draws is not None:
            self.draws.end()
        self.forget_arrived()

    def awaits(self, call: Call) -> bool:
        """Whether it was opened here since the last step."""
        return weakref.ref(call) in self._called.get(call.key, ())

    def drop(self, call: Call) -> None:
        """This call will have no g."""
        self._called[call.key].remove(weakref.ref(call))

    def together(self, calls: list[Call]) -> Iterable[list[Call]]:
        """Which calls of one forward add up to one sample's gradient: those on as many samples."""
        by_batch: defaultdict[int, list[Call]] = defaultdict(list)
        for call in calls:
            by_batch[call.batch].append(call)
        return by_batch.values()

    def _hand_on_if_complete(self, key: Key) -> None:
        if key not in self._arrived:
            return
        alive = [call for ref in self._called[key] if (call := ref()) is not None]
        if all(map(self.complete, alive)):
            self._hand_on(key)

    def complete(self, call: Call) -> bool:
        """Whether it has all that it waits for."""
        return call.era == self._era and call.known

    def _hand_on(self, key: Key) -> None:
        arrived = self._arrived.pop(key)
        in_order = [call for ref in self._called[key] if (call := ref()) in arrived and call is not None]
        for alike in self.together([call for call in in_order if call.known]):
            count = alike[0].count or self.measured(alike)
            count()

    def measured(self, calls: Sequence[Call]) -> Callable[[], None]:
        """Calls that add up are measured; what is returned makes that count."""
        found = [(call.x, call.g) for call in calls if call.g is not None]
        return self.deliver(calls[0].name, found, calls[0].batch, calls[0].forward_id, self.fisher)
