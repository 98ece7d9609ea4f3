"""What the kernel of a convolution covers, written out or not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True)
class Patches:
    """The activations `[*group, n, s, c·k (+ 1)]` of a convolution: c channels a group under k places of the kernel.

    Attributes:
        x: the padded input `[n, groups · c, *space]`.
        bias: whether a constant 1 follows each row.
    """

    x: Float[Tensor, "n channels ..."]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    bias: bool

    def __len__(self) -> int:
        return len(self.x)

    def only(self, chosen: slice) -> "Patches":
        """Of some samples."""
        return replace(self, x=self.x[chosen])

    def rows(self) -> Float[Tensor, "*group n s i"]:
        """Written out, k times the input; without the constant."""
        return rows_of_patches(windows(self.x, self.kernel, self.stride, self.dilation), self.groups)

    def kernel_rows(self) -> Float[Tensor, "*group n s c k"]:
        """Written out, a row for each channel."""
        return self.rows().unflatten(-1, (-1, prod(self.kernel)))

    def pixels(self) -> Float[Tensor, "*group np c"]:
        """The padded input, a row for each pixel."""
        rows = self.x.unflatten(1, (self.groups, -1)).flatten(3).permute(1, 0, 3, 2).flatten(1, 2)
        return rows if self.groups > 1 else rows[0]

    def seen_by(self, weights: Float[Tensor, "*group n s"]) -> Float[Tensor, "*group np"]:
        """For each pixel the sum of the weights of all positions whose kernel covers it."""
        space, pixels = len(self.kernel), self.x.shape[2:]
        maps = weights.reshape(-1, 1, *self._positions())
        ones = maps.new_ones(1, 1, *self.kernel)
        spread = TRANSPOSED[space](maps, ones, stride=self.stride, dilation=self.dilation)
        missing = [edge for axis in reversed(range(space)) for edge in (0, pixels[axis] - spread.shape[2 + axis])]
        return F.pad(spread, missing).reshape(*weights.shape[:-2], -1)

    def squared_norms(self) -> Float[Tensor, "*group n s"]:
        """‖a‖² of each row, the constant included."""
        space, n = len(self.kernel), len(self)
        energies = self.x.square().unflatten(1, (self.groups, -1)).sum(2).movedim(1, 0).reshape(-1, 1, *self.x.shape[2:])
        ones = energies.new_ones(1, 1, *self.kernel)
        norms = CONVOLUTIONS[space](energies, ones, stride=self.stride, dilation=self.dilation).reshape(self.groups, n, -1)
        return (norms if self.groups > 1 else norms[0]) + float(self.bias)

    def _positions(self) -> tuple[int, ...]:
        covered = (gap * (size - 1) + 1 for size, gap in zip(self.kernel, self.dilation, strict=True))
        sizes = zip(self.x.shape[2:], covered, self.stride, strict=True)
        return tuple((pixels - width) // step + 1 for pixels, width, step in sizes)


def windows(x: Float[Tensor, "n c ..."], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """What the kernel covers at every pixel, `[n, c, *pixels, *kernel]`; a view."""
    for axis, (size, step, gap) in enumerate(zip(kernel, stride, dilation, strict=True), start=2):
        x = x.unfold(axis, gap * (size - 1) + 1, step)[..., ::gap]
    return x


def rows_of_patches(patches: Tensor, groups: int) -> Float[Tensor, "*group n s c"]:
    """`[n, c, *pixels, *kernel]` as rows, the kernel's places of one channel side by side."""
    space = (patches.dim() - 2) // 2
    patches = patches.unflatten(1, (groups, -1))
    pixels, kernel = (range(3 + start, 3 + start + space) for start in (0, space))
    rows = patches.permute(1, 0, *pixels, 2, *kernel).flatten(2 + space).flatten(2, 1 + space)
    return rows if groups > 1 else rows[0]
