"""Second moments of rows: what a Fisher factor is made of."""

import torch
from jaxtyping import Float
from torch import Tensor

from lngd.linalg.factor import cut, factor_shape
from lngd.types import InputFactor, OneHot, Rows

SMALL, PANELS = 256, 4
"""A matrix of second moments is computed in so many panels, if it is not small."""


def squared_norms(rows: Rows) -> Float[Tensor, "*group n"]:
    """‖x‖² of each row x."""
    if isinstance(rows, OneHot):
        return (rows.places < rows.size).to(rows.dtype)
    return rows.norm(dim=-1).square()  # one pass over what may be the largest tensor, no copy of it


def sum_by_input(rows: OneHot, values: Float[Tensor, "n ..."]) -> Float[Tensor, "i ..."]:
    """For each input the sum of the values of the rows that are it."""
    sums = values.new_zeros(rows.size + 1, *values.shape[1:])  # the last for rows that are zero
    return sums.index_add_(0, rows.places, values)[:-1]


def second_moments(rows: Rows, weights: Float[Tensor, "*group n"] | None = None, *, largest: int | None = None) -> InputFactor:
    """Σ w x xᵀ over rows x; without weights Σ x xᵀ. Of one-hot rows the diagonal, which is all of it.

    Only panels on the diagonal and right of it are multiplied: with four of them 10/16 of the work, and never more than a quarter
    of the rows copied for their weights.

    Args:
        rows: `[*group, n, i]`.
        weights: w.
        largest: above so many inputs only diagonal blocks are kept, `factor_shape`.
    """
    if isinstance(rows, OneHot):
        return sum_by_input(rows, squared_norms(rows) if weights is None else weights)
    shape = factor_shape(rows.shape[-1], largest or rows.shape[-1])
    if len(shape) == 2:
        return symmetric_product(rows, rows, weights)
    count, block = shape[:2]
    last = (count - 1) * block
    for_blocks = None if weights is None else weights.unsqueeze(-2)
    if count * block == rows.shape[-1]:
        pieces = cut(rows, shape)
        return symmetric_product(pieces, pieces, for_blocks)
    rest = rows.shape[-1] - last  # of the last block; the rows are not copied to be filled up
    moments = rows.new_zeros(*rows.shape[:-2], *shape)
    pieces = cut(rows[..., :last], (count - 1, block, block))
    moments[..., :-1, :, :] = symmetric_product(pieces, pieces, for_blocks)
    moments[..., -1, :rest, :rest] = symmetric_product(rows[..., last:], rows[..., last:], weights)
    return moments


def symmetric_product(
    left: Float[Tensor, "*group n i"], right: Float[Tensor, "*group n i"], weights: Float[Tensor, "*#group n"] | None = None
) -> Float[Tensor, "*group i i"]:
    """Leftᵀ · diag(weights) · right, of which it is known that it is symmetric: the panels on the diagonal and right of it are
    multiplied, with four of them 10/16 of the work, and mirrored."""
    i = left.shape[-1]
    if i < SMALL:
        return (left if weights is None else left * weights.unsqueeze(-1)).mT @ right
    width = -(-i // PANELS)
    product = left.new_empty(*left.shape[:-2], i, i)
    weighted = None if weights is None else left.new_empty(*left.shape[:-1], width)  # one piece of memory for all panels
    for start in range(0, i, width):
        here, behind = slice(start, start + width), slice(start + width, None)
        part = left[..., here]
        if weighted is not None and weights is not None:
            part = torch.mul(part, weights.unsqueeze(-1), out=weighted[..., : part.shape[-1]])
        torch.matmul(part.mT, right[..., start:], out=product[..., here, start:])
        product[..., behind, here] = product[..., here, behind].mT
    return product
