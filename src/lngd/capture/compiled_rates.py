"""The samples of the learning rate that a compiled forward leaves, without a hook on the graph and without breaking it.

Inputs are copied inside the graph, and a leaf of zeros is added to the same samples of a layer's output: what a backward pass
brings to the leaf is g.
"""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lngd.capture.compiled import UNCHECKED_GUARDS, traced_for_another_purpose
from lngd.capture.graph import RateSample, spread
from lngd.torch_private import never_compiled

MOST = 4
"""So many forwards before a backward pass leave samples, and calls of a layer in a forward. A graph is made for each forward."""


@dataclass(eq=False)
class Leaf:
    """Zeros that are added to the samples of a layer's output in one of the calls of one of the waiting forwards.

    The attributes that graphs write belong to no dictionary: dynamo would guard all that is in it.
    """

    zeros: Tensor
    copied: tuple[Tensor, torch.Size, int] | None = None
    """Inputs, shape of the samples' outputs, and batch size; written in the graph."""


@dataclass(eq=False)
class Count:
    """Of a layer's calls in the running forward; written in the graph."""

    calls: int = 0


@dataclass
class CompiledRates:
    """The samples of the rate from compiled forwards.

    Forwards are numbered as long as no backward pass has come to them, and so are a layer's calls in a forward. Each such place
    has a leaf of its own, so that what arrives there is paired with the right inputs.

    Attributes:
        found: whether compiled code is known to run layers of the model, so that leaves are made.
        present: the same, from the next forward on; None: nobody has looked. Graphs are guarded by it, and end until it is so.
        begun: whether a forward has begun, other than in a backward pass, since the last step.
        forward: the number of the running one.
        leaves: by `_place`.
    """

    rate_samples: int | None
    found: bool = False
    present: bool | None = None
    begun: bool = False
    forward: int = 0
    leaves: dict[str, Leaf] = field(default_factory=dict)
    _counts: dict[str, Count] = field(default_factory=dict)
    _waiting: int = 0
    """Numbers that are taken."""
    _done: set[int] = field(default_factory=set)
    _ids: dict[int, int] = field(default_factory=dict)
    """The forward_id of each number."""
    _lost: bool = False
    """Whether there were more than `MOST` since the last step."""
    _arrived: dict[str, list[RateSample]] = field(default_factory=dict)
    _without_forward: int = 0
    # Graphs write the following.
    _ran: bool = False
    _too_often: dict[str, bool] = field(default_factory=dict)
    """Layers that are called more than `MOST` times in a forward."""
    _wanted: dict[str, tuple[str, int, int, int, torch.device]] = field(default_factory=dict)
    """Leaves that are missing or too small: layer, forward, call, size and device."""

    def __post_init__(self) -> None:
        torch.compiler.assume_constant_result(traced_for_another_purpose)  # a graph has the answer in it, not the question

    def watch(self, layers: Iterable[str]) -> None:
        """All that will ever be traced."""
        for layer in layers:
            self._counts.setdefault(layer, Count())

    def begin(self, forward_id: int) -> None:
        """A training forward begins; one that activation checkpointing repeats is none."""
        self.present = self.found
        self.forward = min(self._waiting, MOST)
        self._lost |= self.forward == MOST
        self._waiting += 1
        self._done.discard(self.forward)
        self._ids[self.forward] = forward_id

    def count_calls_anew(self) -> None:
        """A forward, or a repetition, begins or ends."""
        for count in self._counts.values():
            count.calls = 0

    def backward_came(self, forward_id: int) -> None:
        """A gradient of a forward has arrived. Numbers are free again from the last that waits on."""
        self._done.update(number for number, known in self._ids.items() if known == forward_id)
        while self._waiting and self._waiting - 1 in self._done:
            self._waiting -= 1

    def prepare(self, layer: str, output: Tensor, call: int) -> None:
        """Makes room for the samples of such an output; called where a layer runs as written."""
        if call >= MOST:
            self._too_often[layer] = True
            return
        size = (self.rate_samples or len(output)) * output[0].numel()
        for forward in range(min(self.forward + 1, MOST)):  # the earlier ones may have run before any compiled code was found
            self._make_room(layer, forward, call, size, output.device)

    def trace(self, layer: str, x: Tensor, output: Tensor) -> Tensor:
        """The output with zeros added; runs inside the compiled graph."""
        self._ran = True
        count = self._counts[layer]
        call = count.calls
        count.calls = call + 1
        if call >= MOST:
            self._too_often[layer] = True
        if layer in self._too_often or self.forward == MOST or len(output) == 0:
            return output
        place, chosen = _place(layer, self.forward, call), spread(len(output), self.rate_samples)
        leaf, part = self.leaves.get(place), output[chosen]
        if leaf is None or part.numel() > leaf.zeros.numel():
            self._wanted[place] = (layer, self.forward, call, part.numel(), output.device)
            return output
        leaf.copied = (x.detach()[chosen].clone(), part.shape, len(output))
        probed = part + leaf.zeros[: part.numel()].view(part.shape).to(output.dtype)
        return torch.slice_scatter(output, probed, 0, chosen.start, chosen.stop, chosen.step or 1)

    def collect(self) -> dict[str, list[RateSample]]:
        """The samples since the last step of those layers of which no call is missing."""
        found, self._arrived = self._arrived, {}
        incomplete = {layer for layer, *_ in self._wanted.values()} | self._too_often.keys()
        return {} if self._lost else {layer: samples for layer, samples in found.items() if layer not in incomplete}

    def refuse_hidden_forwards(self) -> None:
        """Raises RuntimeError if a compiled graph ran: called at the end of a measuring step that measured nothing."""
        if self._ran:
            raise RuntimeError(UNCHECKED_GUARDS)

    def forget_arrived(self) -> None:
        """Forgets what backward passes have brought since the last step."""
        self._arrived.clear()

    def discard(self) -> None:
        """A step has ended. A leaf that was missing or too small is made anew, which costs a compilation."""
        for wanted in self._wanted.values():
            self._make_room(*wanted)
        for leaf in self.leaves.values():
            leaf.copied = None
        for kept in (self._wanted, self._arrived, self._done, self._ids):
            kept.clear()
        self.present = self.found or self.present
        self.begun = self._lost = self._ran = False
        self._waiting = 0
        self.count_calls_anew()

    def _make_room(self, layer: str, forward: int, call: int, size: int, device: torch.device) -> None:
        place, owner = _place(layer, forward, call), weakref.ref(self)
        if place in self.leaves and self.leaves[place].zeros.numel() >= size:
            return

        @never_compiled
        def receive(zeros: Tensor) -> None:
            gradient, zeros.grad = zeros.grad, None
            rates = owner()
            if rates is not None and gradient is not None:
                rates._receive(layer, forward, rates.leaves[place], gradient)

        self.leaves[place] = Leaf(torch.zeros(size, device=device, requires_grad=True))
        self.leaves[place].zeros.register_post_accumulate_grad_hook(receive)

    def _receive(self, layer: str, forward: int, leaf: Leaf, gradient: Tensor) -> None:
        """A backward pass has come to a leaf. All is copied: a CUDA graph writes the next forward's to the same memory."""
        if leaf.copied is None:
            return
        x, shape, batch = leaf.copied
        self._without_forward -= 1
        forward_id = self._ids.get(forward, self._without_forward)  # where parts are called, each call counts for itself
        self.backward_came(forward_id)
        self._counts[layer].calls = 0
        g = gradient[: shape.numel()].view(shape)
        self._arrived.setdefault(layer, []).append(RateSample(x.clone(), g.clone(), batch, forward_id))


def _place(layer: str, forward: int, call: int) -> str:
    return f"{layer} {forward} {call}"
