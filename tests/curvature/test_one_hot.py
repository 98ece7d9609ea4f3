"""Blocks of one-hot inputs: what the same block makes of the rows written out, in diagonals instead of matrices."""

import math

import pytest
import torch
from torch import Tensor

from curvature.blocks import BLOCKS, every_block
from lngd.curvature import CurvatureBlock
from lngd.linalg import Damping, NotPositiveDefiniteError
from lngd.types import OneHot
from reference import sample_gradients, statistics

DOUBLE = torch.float64
SIZE, OUTPUTS = 7, 3
every_position = pytest.mark.parametrize("positions", [1, 4, 20])
DAMPINGS = [Damping(0.3), Damping(1.0, (1e-5, 1e-2)), Damping(0.0, (0.5, math.inf)), Damping(10.0, (1e-5, math.inf))]


def data(positions: int, n: int = 6, *, unseen: bool = True) -> tuple[OneHot, Tensor]:
    """Inputs that come twice in a sample, one that never comes, and places without an input (`SIZE`)."""
    places = torch.randint(1 if unseen else 0, SIZE + 1, (n, positions))
    return OneHot(places, SIZE, DOUBLE), torch.randn(n, positions, OUTPUTS, dtype=DOUBLE)


def written_out(a: OneHot) -> Tensor:
    """By a loop."""
    rows = torch.zeros(*a.places.shape, SIZE, dtype=DOUBLE)
    for n, row in enumerate(a.places.tolist()):
        for s, place in enumerate(row):
            if place < SIZE:
                rows[n, s, place] = 1
    return rows


def trained(kind: str, batches: list[tuple[OneHot, Tensor]], damping: Damping, *, dense: bool) -> CurvatureBlock:
    """Refreshed after the first batch, then measured on the others."""
    block = BLOCKS[kind]()
    for a, g in batches:
        block.update(block.measure(written_out(a) if dense else a, g), 0.9)
        if not block.ready:
            block.refresh(damping)
    return block


@every_position
@every_block
def test_statistics_are_the_diagonals_of_loops_over_samples_and_positions(kind, positions):
    a, g = data(positions)
    block = BLOCKS[kind]()
    block.update(block.measure(a, g), 0.9)
    expected = statistics(kind.split()[0], written_out(a), g)
    for name, value in expected.items():
        found = getattr(block, name)
        if name in ("phi", "A"):
            assert found.shape == (SIZE,)
            torch.testing.assert_close(torch.diag(found), value)
        elif kind != "THOR in pieces":
            torch.testing.assert_close(found.reshape(value.shape), value)


@pytest.mark.parametrize("damping", DAMPINGS)
@every_position
@every_block
def test_dense_blocks_and_directions_are_those_of_the_rows_written_out(kind, positions, damping):
    batches = [data(positions), data(positions), data(positions)]
    one_hot, dense = (trained(kind, batches, damping, dense=dense) for dense in (False, True))
    for each in (0.0, damping):
        torch.testing.assert_close(one_hot.dense(each), dense.dense(each))
    gradient = torch.randn(OUTPUTS, SIZE, dtype=DOUBLE)
    torch.testing.assert_close(one_hot.precondition(gradient), dense.precondition(gradient))


@pytest.mark.parametrize("damping", DAMPINGS)
@every_block
def test_precondition_inverts_the_damped_dense_block(kind, damping):
    batch = data(4)
    block = trained(kind, [batch], damping, dense=False)
    block.update(block.measure(*batch), 0.9)  # EKFAC's own eigenvalues
    gradient = torch.randn(OUTPUTS, SIZE, dtype=DOUBLE)
    solved = torch.linalg.solve(block.dense(damping), gradient.flatten())
    torch.testing.assert_close(block.precondition(gradient).flatten(), solved)


@every_position
def test_ekfacs_scales_are_the_squares_of_every_samples_gradient(positions):
    a, g = data(positions)
    block = trained("EKFAC", [(a, g), (a, g)], DAMPINGS[0], dense=False)
    gradients = torch.stack(sample_gradients(written_out(a), g))
    torch.testing.assert_close(block.scales, (block.B_basis.mT @ gradients).square().mean(0))


@every_block
def test_shapes_are_those_of_the_tensors_and_nothing_of_the_inputs_is_factorised(kind):
    block = trained(kind, [data(4)], DAMPINGS[0], dense=False)
    shapes = block.shapes(SIZE, OUTPUTS, one_hot=True)
    assert {name: tuple(t.shape) for name, t in block.tensors().items()} == shapes
    outputs = {"LNGD": (), "THOR in pieces": (2,)}.get(kind, (OUTPUTS,))
    assert block.dims(SIZE, OUTPUTS, one_hot=True) == outputs


@every_block
def test_a_large_vocabulary_needs_no_square_of_it(kind):
    size = 10**6
    places, g = torch.randint(0, size, (4, 8)), torch.randn(4, 8, 2)
    block = BLOCKS[kind]()
    for _ in range(2):
        block.update(block.measure(OneHot(places, size, torch.float32), g), 0.9)
        block.refresh(DAMPINGS[0])
    direction = block.precondition(torch.randn(2, size))
    assert direction.isfinite().all()
    assert direction.dtype == torch.float32


@pytest.mark.parametrize("kind", [kind for kind in BLOCKS if kind != "NGPlus"])
def test_an_input_that_never_came_needs_damping(kind):
    a, g = data(20, n=20)
    block = BLOCKS[kind]()
    block.update(block.measure(a, g), 0.9)
    with pytest.raises(NotPositiveDefiniteError, match="raise the damping"):
        block.refresh(Damping(0.0))
    assert not block.ready


@every_block
def test_without_damping_the_block_is_inverted_if_every_input_came(kind):
    block = trained(kind, [data(20, n=20, unseen=False)], Damping(0.0), dense=False)
    gradient = torch.randn(OUTPUTS, SIZE, dtype=DOUBLE)
    solved = torch.linalg.solve(block.dense(0.0), gradient.flatten())
    torch.testing.assert_close(block.precondition(gradient).flatten(), solved)


@every_block
def test_places_without_an_input_change_nothing_but_the_count_of_positions(kind):
    """A factor that divides by the number of positions counts them, as it counts the zero rows of any other layer."""
    a, g = data(4)
    more = OneHot(torch.cat([a.places, torch.full((6, 2), SIZE)], 1), SIZE, DOUBLE)
    block, other = BLOCKS[kind](), BLOCKS[kind]()
    names = [name for name in block.statistics if kind in ("LNGD", "TKFAC", "NGPlus") or name == "A"]
    block.update(block.measure(a, g), 0.9)
    other.update(other.measure(more, torch.cat([g, torch.randn(6, 2, OUTPUTS, dtype=DOUBLE)], 1)), 0.9)
    for name in names:
        torch.testing.assert_close(getattr(other, name), getattr(block, name))
