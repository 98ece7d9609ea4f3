"""Which of what backward passes have brought belongs to the gradients that the step will use.

What a pass brings to a layer is a guess until the weight's own hook says, in the same pass, that it has accumulated into `.grad`.
From then on it belongs to that gradient, and goes when the gradient is dropped, by whomever and however.
"""

import weakref
from collections.abc import Iterable, Mapping

from torch import Tensor

from lngd.capture.graph import Guess, RateSample
from lngd.layers import Layer
from lngd.linalg import HOST
from lngd.torch_private import NO_PASS

PASSES = 4
"""So many backward passes are remembered that have not accumulated: one that will may run around them."""


class Ledger:
    """Of some layers, by name. The hooks write and clear what is kept themselves: a call for each would be felt in small steps.

    Args:
        layers: replaced when others are watched.
    """

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        self.layers = layers
        self.sharded = set[str]()
        """Of which a process holds some rows."""
        self.guessed: dict[str, dict[int, list[Guess]]] = {}
        """Of each layer, what passes have brought which have not accumulated yet, by a pass's number."""
        self.owners: dict[str, tuple[weakref.ref[Tensor], int]] = {}
        """Of each layer, the gradient that the last pass accumulated into, and its version then."""
        self._zero = set[str]()
        """At a measuring step, on the host, those whose gradient was zero as it came."""
        self.kept = self.guessed, self.owners, self._zero
        """All of it: cleared when the gradients are used, or all dropped."""
        self.last_pass = NO_PASS
        """That has brought the last gradient."""

    def __contains__(self, name: str) -> bool:
        """Whether a backward pass has accumulated into a layer's weight."""
        return name in self.owners

    def forget(self, name: str) -> None:
        """A layer is watched no longer, or has another weight."""
        self.guessed.pop(name, None)
        self.owners.pop(name, None)
        self._zero.discard(name)

    def note_zero(self, name: str) -> None:
        """A pass has ended, in which a weight's gradient came as zero."""
        if name in self.owners and self._is_zero(name):
            self._zero.add(name)

    def take_dropped(self, samples: Mapping[str, Iterable[RateSample]]) -> list[str]:
        """Layers whose gradients are None or zero now, forgotten; `samples` are those of the rate.

        Gradients that were zero as they came, of dead layers, are dropped if any other is.
        """
        gone = list(filter(self._is_gone, self.owners))
        if not gone or all(self._is_untouched(name) and self._came_as_zero(name, samples.get(name, ())) for name in gone):
            return []
        for name in gone:
            del self.owners[name]
            self._zero.discard(name)
        return gone

    def _is_gone(self, name: str) -> bool:
        """Whether a gradient that was accumulated is None or zero now. Scaling and clipping make none of it.

        Its version says that nobody has written to it. On the host a look does: `.data` and NumPy change no version.
        """
        grad = self.layers[name].weight.grad
        if grad is None:
            return True
        if name in self.sharded:  # a look at some rows tells nothing of the others
            return False
        if grad.device.type not in HOST and self._is_untouched(name):
            return False
        return not grad.any() and self._is_zero(name)

    def _is_zero(self, name: str) -> bool:
        """Whether no parameter of a layer has a gradient other than zero."""
        return not any(p.grad is not None and p.grad.any() for p in self.layers[name].parameters)

    def _is_untouched(self, name: str) -> bool:
        """Whether a gradient is the tensor that was accumulated, of the same version."""
        (known, version), grad = self.owners[name], self.layers[name].weight.grad
        return grad is not None and grad is known() and grad._version == version

    def _came_as_zero(self, name: str, samples: Iterable[RateSample]) -> bool:
        """Whether the gradient of a layer was zero as it was accumulated; what was not noted, its samples tell."""
        known, bias = list(samples), self.layers[name].bias is not None
        return name in self._zero or (bool(known) and not any(s.g.any() and (bias or s.x.any()) for s in known))
