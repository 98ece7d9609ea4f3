"""The shape vocabulary: n samples, s positions (pixels or tokens), i inputs, o outputs.

A layer with a bias counts a constant 1 among its inputs, in the last place. A grouped convolution puts one more
dimension, its groups, in front of every shape below: `*group` stands for that dimension or for nothing.
The shapes are checked in the tests (jaxtyping with beartype) and cost nothing at run time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, overload

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


@dataclass(frozen=True)
class OneHot:
    """Activations `[n, s, i]` whose rows hold a single 1, kept as its place: what an embedding multiplies, for any vocabulary.

    A row whose place is `size` itself is zero: it belongs to no input. Every factor over such inputs is diagonal and kept so.
    The few methods are those of a tensor, so that formulas read alike for both.
    """

    places: Int[Tensor, "..."]
    size: int
    dtype: torch.dtype
    """Of the factors made from it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the tensor it stands for."""
        return (*self.places.shape, self.size)

    def flatten(self, start: int, end: int) -> "OneHot":
        """With dimensions before the last, counted from the end, as one."""
        return replace(self, places=self.places.flatten(start + 1, end + 1))

    def dense(self) -> Float[Tensor, "... i"]:
        """The tensor it stands for; for small inputs."""
        return (self.places.unsqueeze(-1) == torch.arange(self.size, device=self.places.device)).to(self.dtype)


Activations: TypeAlias = Float[Tensor, "*group n s i"] | OneHot
"""What enters a layer, `a`."""

Rows: TypeAlias = Float[Tensor, "*group n i"] | OneHot
"""Activations of all samples and positions, one a row."""

Gradients = Float[Tensor, "*group n s o"]
"""Gradients with respect to a layer's pre-activation, `g`, one per sample and position, summed over nothing."""

GradientMatrix = Float[Tensor, "*group o i"]
"""A gradient or a direction as the matrix that multiplies the activations."""

GradientMatrices: TypeAlias = list[Float[Tensor, "..."]]
"""One of each of some layers, of any shapes."""

InputFactor: TypeAlias = Float[Tensor, "... _ _"] | Float[Tensor, " _"]
"""A Fisher factor over the inputs, such as Φ: dense `[*group, i, i]`, its diagonal blocks `[*group, k, b, b]`, or of one-hot
inputs, which never come in groups, its diagonal `[i]`."""

OutputFactor: TypeAlias = Float[Tensor, "... _ _"]
"""A Fisher factor over the outputs, dense `[*group, o, o]` or its diagonal blocks."""

OutputDiagonal = Float[Tensor, "*group o"]
"""A diagonal Fisher factor over the outputs, such as Ψ."""

Dense = Float[Tensor, "*group oi oi"]
"""A whole Fisher block, row-major, output side first: it acts on `gradient.flatten(-2)`."""

Scalar = Float[Tensor, ""]
Flag = Bool[Tensor, ""]
"""A truth value that stays on the device, so that a step never waits for it."""

Vector = Float[Tensor, " layers"]
"""A number of each of some layers, or of a parameter of each."""

Flags = Bool[Tensor, " layers"]
"""A flag of each."""

AnyTensor = Shaped[Tensor, "..."]


def written_out(a: Tensor | OneHot) -> Tensor:
    """As a tensor, however it is kept."""
    return a.dense() if isinstance(a, OneHot) else a


@overload
def joined(rows: Sequence[Tensor]) -> Tensor:
    """Of tensors, a tensor."""


@overload
def joined(rows: Sequence[Tensor | OneHot]) -> Tensor | OneHot:
    """Of either, one of the same kind."""


def joined(rows: Sequence[Tensor | OneHot]) -> Tensor | OneHot:
    """Several calls' rows as positions of one; one call's are not copied."""
    first = rows[0]
    if len(rows) == 1:
        return first
    if isinstance(first, OneHot):
        return replace(first, places=torch.cat([a.places for a in rows if isinstance(a, OneHot)], dim=-1))
    return torch.cat([a for a in rows if isinstance(a, Tensor)], dim=-2)
