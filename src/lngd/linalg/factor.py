"""A factor's three forms, and what can be done with each without knowing which it is."""

from collections.abc import Iterator
from math import ceil

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lngd.linalg.damping import Damping
from lngd.types import InputFactor

Shape = tuple[int, ...]


LARGEST_BLOCK = 512
"""Rows of a block of a factor that is too large to be kept whole: the work grows with their square, what they say does not."""

NARROW = 256
"""Columns up to which it does not matter whether they are a multiple of LANES."""
LANES = 16
"""Numbers that a processor multiplies at once: by a matrix of 205 rows a product takes as long as by one of 256."""


def factor_shape(dim: int, largest: int) -> Shape:
    """Of a factor over `dim` inputs, per group: dense up to `largest`; of a larger one the fewest blocks, all of one size, of at
    most `largest` and LARGEST_BLOCK, and of a multiple of LANES unless they are small."""
    if dim <= largest:
        return dim, dim
    most = min(largest, LARGEST_BLOCK)
    count = ceil(dim / most)
    block = ceil(dim / count)
    if block > 4 * LANES:
        block = min(most, ceil(block / LANES) * LANES)
    return count, block, block


def is_diagonal(factor: InputFactor) -> bool:
    """Whether a factor is stored as its diagonal."""
    return factor.dim() == 1


def in_blocks(factor: InputFactor, dim: int) -> bool:
    """Whether a factor over `dim` inputs is block-diagonal."""
    return not is_diagonal(factor) and factor.shape[-1] < dim


def cut(x: Float[Tensor, "*group n i"], shape: Shape) -> Float[Tensor, "*group k n b"]:
    """The columns of a matrix in blocks as `factor_shape` has them, padded with zeros."""
    count, block = shape[-3:-1]
    if padding := count * block - x.shape[-1]:
        x = F.pad(x, (0, padding))
    return x.unflatten(-1, (count, block)).movedim(-2, -3)


def joined_columns(pieces: Float[Tensor, "*group k n b"], dim: int) -> Float[Tensor, "*group n i"]:
    """The inverse of `cut`."""
    return pieces.movedim(-3, -2).flatten(-2)[..., :dim]


def diagonal_of(factor: InputFactor) -> Tensor:
    """Its diagonal `[*group, i]`, however it is stored; that of blocks is `[*group, k, b]`."""
    return factor if is_diagonal(factor) else factor.diagonal(dim1=-2, dim2=-1)


def mean_eigenvalue(factor: InputFactor, dim: int) -> Float[Tensor, "*group"]:
    """tr(F)/dim F."""
    diagonal = diagonal_of(factor)
    return diagonal.flatten(-2).sum(-1) / dim if in_blocks(factor, dim) else diagonal.mean(-1)


def times(matrix: Float[Tensor, "*group o i"], factor: InputFactor) -> Float[Tensor, "*group o i"]:
    """matrix · F."""
    if is_diagonal(factor):
        return matrix * factor
    dim = matrix.shape[-1]
    if not in_blocks(factor, dim):
        return matrix @ factor
    if matrix.device.type != "cpu":
        return times_in_one_batch(matrix, factor)
    result = matrix.new_empty(matrix.shape)
    for here, block in _blocks(factor, dim):
        torch.matmul(matrix[..., here], block, out=result[..., here])
    return result


def times_left(factor: InputFactor, matrix: Float[Tensor, "*group o c"]) -> Float[Tensor, "*group o c"]:
    """F · matrix."""
    if is_diagonal(factor):
        return factor.unsqueeze(-1) * matrix
    dim = matrix.shape[-2]
    if not in_blocks(factor, dim):
        return factor @ matrix
    if matrix.device.type != "cpu":
        return times_in_one_batch(matrix.mT, factor.mT).mT
    result = matrix.new_empty(matrix.shape)
    for here, block in _blocks(factor, dim):
        torch.matmul(block, matrix[..., here, :], out=result[..., here, :])
    return result


def product(left: Float[Tensor, "*group o k"], right: Float[Tensor, "*group k i"]) -> Float[Tensor, "*group o i"]:
    """Left · right; with columns of zeros up to a multiple of LANES, without which a large one takes a quarter longer."""
    columns = right.shape[-1]
    lacking = -columns % LANES if columns > NARROW and left.device.type == "cpu" else 0
    return (left @ F.pad(right, (0, lacking)))[..., :columns] if lacking else left @ right


def times_in_one_batch(matrix: Float[Tensor, "*group o i"], factor: InputFactor) -> Float[Tensor, "*group o i"]:
    """matrix · F of an F in blocks, in as few launches as there are: all blocks of a batch, filled up with zeros."""
    return joined_columns(cut(matrix, factor.shape) @ factor, matrix.shape[-1])


def _blocks(factor: InputFactor, dim: int) -> Iterator[tuple[slice, Float[Tensor, "*group b b"]]]:
    """Where each block stands, and the block without its padding: a CPU multiplies them one by one sooner than in one batch,
    whose operands have to be cut and put together again."""
    width = factor.shape[-1]
    for k, start in enumerate(range(0, dim, width)):
        size = min(width, dim - start)
        yield slice(start, start + size), factor[..., k, :size, :size]


def transposed(factor: InputFactor) -> InputFactor:
    """Fᵀ."""
    return factor if is_diagonal(factor) else factor.mT


def shifted(factor: InputFactor, shift: Float[Tensor, "*group"], dim: int) -> InputFactor:
    """F + shift · I; what is no input, in the padding of a block, gets 1, so that it makes nothing singular."""
    if is_diagonal(factor):
        return factor + shift
    moved, blocks = factor.clone(), in_blocks(factor, dim)
    diagonal = moved.diagonal(dim1=-2, dim2=-1)
    diagonal.add_(shift[..., None, None] if blocks else shift.unsqueeze(-1))
    if blocks and (padding := factor.shape[-3] * factor.shape[-1] - dim):
        diagonal[..., -1, -padding:].fill_(1.0)
    return moved


def damped(factor: InputFactor, damping: Damping, dim: int) -> InputFactor:
    """F + λI, λ relative to the mean eigenvalue of the whole."""
    return shifted(factor, damping.of_mean(mean_eigenvalue(factor, dim)), dim)


def damped_diagonal(factor: Float[Tensor, "*group o"], damping: Damping) -> Float[Tensor, "*group o"]:
    """Ψ + λ, as a diagonal."""
    return factor + damping.of_mean(factor.mean(-1)).unsqueeze(-1)


def assembled(factor: InputFactor, dim: int) -> Float[Tensor, "*group i i"]:
    """Written out."""
    if is_diagonal(factor):
        return factor.diag()
    if not in_blocks(factor, dim):
        return factor
    count, block = factor.shape[-3:-1]
    whole = factor.new_zeros(*factor.shape[:-3], count, block, count, block)
    for k in range(count):
        whole[..., k, :, k, :] = factor[..., k, :, :]
    return whole.flatten(-4, -3).flatten(-2)[..., :dim, :dim]


def kronecker(left: Float[Tensor, "*group o o"], right: Float[Tensor, "*group i i"]) -> Float[Tensor, "*group oi oi"]:
    """left ⊗ right, the matrix that takes a row-major G to left G rightᵀ; one product a group."""
    product = left[..., :, None, :, None] * right[..., None, :, None, :]  # [o, i, o, i]
    return product.flatten(-4, -3).flatten(-2)
