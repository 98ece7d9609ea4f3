"""THOR's block: K-FAC within blocks of its factors, and the trace rule."""

import math
from math import ceil

import pytest
import torch
from torch import Tensor

from lngd.curvature import KFACBlock, THORBlock
from lngd.curvature.thor import REFRESH_ABOVE, SETTLE_BELOW
from lngd.linalg import Damping

DOUBLE = torch.float64
DAMPING = Damping(0.1, (1e-5, math.inf))
SPLITS = [1, 2, 3, 4, 5, 6, 100]


def data(*group: int, n: int = 20, s: int = 2, i: int = 5, o: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(*group, n, s, i, dtype=DOUBLE), torch.randn(*group, n, s, o, dtype=DOUBLE)


def measured(block: KFACBlock | THORBlock, a: Tensor, g: Tensor) -> KFACBlock | THORBlock:
    block.update(block.measure(a, g), 0.95)
    return block


def mask(size: int, split: int) -> Tensor:
    """One within the fewest diagonal blocks of one size that is at most `split`, zero outside."""
    index = torch.arange(size) // ceil(size / ceil(size / split))
    return (index[:, None] == index[None, :]).to(DOUBLE)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("group", [(), (3,)])
def test_it_is_kfac_without_what_lies_outside_the_blocks(group, split):
    a, g = data(*group)
    thor, kfac = measured(THORBlock(split), a, g), measured(KFACBlock(), a, g)
    inside = torch.kron(mask(3, split), mask(5, split))
    torch.testing.assert_close(thor.dense(), kfac.dense() * inside)
    torch.testing.assert_close(thor.dense(DAMPING), kfac.dense(DAMPING) * inside)


@pytest.mark.parametrize("split", [5, 6, 100])
@pytest.mark.parametrize("group", [(), (3,)])
def test_unsplit_it_is_kfac(group, split):
    a, g = data(*group)
    thor, kfac = measured(THORBlock(split), a, g), measured(KFACBlock(), a, g)
    gradient = torch.randn(*group, 3, 5, dtype=DOUBLE)
    thor.refresh(DAMPING)
    kfac.refresh(DAMPING)
    torch.testing.assert_close(thor.precondition(gradient), kfac.precondition(gradient))


@pytest.mark.parametrize("damping", [DAMPING, Damping(0.0), Damping(0.0, (1e-12, math.inf))])
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("group", [(), (3,)])
def test_precondition_inverts_the_dense_block(group, split, damping):
    block, gradient = measured(THORBlock(split), *data(*group)), torch.randn(*group, 3, 5, dtype=DOUBLE)
    block.refresh(damping)
    solved = torch.linalg.solve(block.dense(damping), gradient.flatten(-2))
    torch.testing.assert_close(block.precondition(gradient).flatten(-2), solved)


@pytest.mark.parametrize("split", SPLITS)
def test_no_factor_is_larger_than_the_split(split):
    block = measured(THORBlock(split), *data())
    assert max(block.dims(5, 3)) <= split
    for factor, size in ((block.A, 5), (block.B, 3)):
        pieces = ceil(size / split)
        assert factor.shape == (*[pieces] * (pieces > 1), ceil(size / pieces), ceil(size / pieces))


def scaled(block: THORBlock, a: Tensor, g: Tensor, change: float) -> None:
    """Replaces the statistics by such whose trace is 1 + `change` times that of (a, g)."""
    block.update(block.measure(a, g * math.sqrt(1 + change)), 0.0)


def inverses(block: THORBlock) -> tuple[Tensor, Tensor]:
    return block.A_inverse.clone(), block.B_inverse.clone()


def renewed(block: THORBlock, damping: Damping = DAMPING) -> bool:
    """Refreshes; whether that changed the inverses."""
    before = inverses(block)
    block.refresh(damping)
    same = [torch.equal(one, two) for one, two in zip(before, inverses(block), strict=True)]
    return not all(same)


@pytest.mark.parametrize("group", [(), (3,)])
@pytest.mark.parametrize("split", [2, 100])
def test_the_trace_rule(group, split):
    a, g = data(*group)
    block = measured(THORBlock(split), a, g)
    block.refresh(DAMPING)
    scaled(block, a, g, 2 * REFRESH_ABOVE)
    assert renewed(block), "the trace has moved"
    for change in (0.5 * REFRESH_ABOVE, -0.5 * REFRESH_ABOVE, 0.9 * REFRESH_ABOVE):
        scaled(block, a, (1 + 2 * REFRESH_ABOVE) ** 0.5 * g, change)
        assert not renewed(block), "the trace has hardly moved"
    scaled(block, a, g, 0.5)
    assert renewed(block), "measured against the last refresh, not the last measurement"
    scaled(block, a, 1.5**0.5 * g, 0.5 * SETTLE_BELOW)
    assert not renewed(block), "the trace stands still"
    scaled(block, a, g, 100.0)
    assert not renewed(block), "settled for good"


def test_small_changes_add_up_to_a_refresh():
    a, g = data()
    block = measured(THORBlock(2), a, g)
    block.refresh(DAMPING)
    found = []
    for k in range(1, 5):
        scaled(block, a, g, 0.4 * k * REFRESH_ABOVE)
        found.append(renewed(block))
    assert found == [False, False, True, False]


def test_the_trace_is_that_of_the_damped_fisher_matrix():
    """A λ that does not move with F makes the relative change smaller."""
    a, g = data()
    trace = measured(THORBlock(100), a, g).dense().trace().item()
    heavy = Damping(0.0, (100 * trace / 15, math.inf))
    block = measured(THORBlock(100), a, g)
    block.refresh(heavy)
    scaled(block, a, g, 50 * REFRESH_ABOVE)
    assert not renewed(block, heavy)
    scaled(block, a, g, 300 * REFRESH_ABOVE)
    assert renewed(block, heavy)


def test_groups_are_judged_together():
    a, g = data(2)
    block = measured(THORBlock(2), a, g)
    block.refresh(DAMPING)
    traces = measured(THORBlock(2), a, g).dense().diagonal(dim1=-2, dim2=-1).sum(-1)
    share = (traces[0] / traces.sum()).item()
    for factor, expected in ((0.9, False), (1.1, True)):
        grown = torch.stack([g[0] * math.sqrt(1 + factor * REFRESH_ABOVE / share), g[1]])
        block.update(block.measure(a, grown), 0.0)
        assert renewed(block) is expected


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("group", [(), (3,)])
def test_a_checkpoint_carries_the_rule_over(group, settled):
    a, g = data(*group)
    block, other = measured(THORBlock(2), a, g), measured(THORBlock(2), *data(*group))
    block.refresh(DAMPING)
    scaled(block, a, g, 0.5 * (SETTLE_BELOW if settled else REFRESH_ABOVE))
    block.refresh(DAMPING)
    other.load(block.updates, {name: t.clone() for name, t in block.tensors().items()})
    for each in (block, other):
        scaled(each, a, g, 1.0)
        assert renewed(each) is not settled
    assert all(torch.equal(one, two) for one, two in zip(inverses(block), inverses(other), strict=True))


def test_a_refresh_without_a_new_measurement_settles_nothing():
    """The trace stands still because nobody looked at it."""
    a, g = data()
    block = measured(THORBlock(2), a, g)
    block.refresh(DAMPING)
    block.refresh(DAMPING)
    scaled(block, a, g, 1.0)
    assert renewed(block)
