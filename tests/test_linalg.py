"""Damping in units of the mean eigenvalue, and inverses."""

import math

import pytest
import torch

from lngd.linalg import (
    Damping,
    NotPositiveDefiniteError,
    as_damping,
    assembled,
    damped,
    damped_diagonal,
    eigenbasis,
    inner,
    inner_of_each,
    inverse,
    inverse_diagonal,
    kronecker,
    mean_eigenvalue,
    product,
    second_moments,
    shifted,
    squared_norms,
    sum_by_input,
    symmetric_product,
    times,
    times_left,
    transposed,
)
from lngd.linalg.factor import LANES, LARGEST_BLOCK, factor_shape, times_in_one_batch
from lngd.types import OneHot


def spd(n: int, *group: int) -> torch.Tensor:
    root = torch.randn(*group, n, n, dtype=torch.float64)
    return root @ root.mT + torch.eye(n, dtype=torch.float64)


@pytest.mark.parametrize(("bounds", "expected"), [((0.0, math.inf), 1.5), ((2.0, 9.0), 2.0), ((0.0, 1e-2), 1e-2)])
def test_damping_is_the_clipped_mean_eigenvalue(bounds, expected):
    factor = torch.diag(torch.tensor([1.0, 2.0, 6.0]))
    assert Damping(0.5, bounds).of_mean(mean_eigenvalue(factor, 3)).item() == pytest.approx(expected)
    torch.testing.assert_close(damped_diagonal(factor.diagonal(), Damping(0.5, bounds)), factor.diagonal() + expected)


def test_the_papers_damping_has_its_bounds():
    factor = torch.eye(4, dtype=torch.float64)
    paper = Damping(1.0, (1e-5, 1e-2))
    for scale, expected in ((1e-9, 1e-5), (1e-3, 1e-3), (7.0, 1e-2)):
        torch.testing.assert_close(damped(factor * scale, paper, 4), factor * (scale + expected))


def test_a_plain_number_is_damping_without_bounds():
    assert as_damping(0.25) == Damping(0.25, (0.0, math.inf))
    assert as_damping(Damping(1.0, (0.0, 2.0))) == Damping(1.0, (0.0, 2.0))


@pytest.mark.parametrize("group", [(), (3,)])
def test_inverse_times_damped_matrix_is_the_identity(group):
    matrix = damped(spd(5, *group), Damping(0.1), 5)
    torch.testing.assert_close(inverse(matrix) @ matrix, torch.eye(5, dtype=torch.float64).expand(*group, 5, 5))


def test_damping_leaves_its_argument_alone():
    phi, psi = spd(3), torch.rand(3)
    before = phi.clone(), psi.clone()
    damped(phi, Damping(1.0), 3)
    damped_diagonal(psi, Damping(1.0))
    assert torch.equal(phi, before[0])
    assert torch.equal(psi, before[1])


def test_groups_are_damped_one_by_one():
    factor = torch.stack([torch.eye(2), 10 * torch.eye(2)])
    torch.testing.assert_close(damped(factor, Damping(1.0), 2), 2 * factor)
    torch.testing.assert_close(damped_diagonal(torch.tensor([[1.0], [4.0]]), Damping(1.0)), torch.tensor([[2.0], [8.0]]))


def test_a_matrix_that_rounding_made_indefinite_in_float32_is_inverted_in_float64():
    root = torch.randint(-1, 2, (30, 27), generator=torch.Generator().manual_seed(0)).float()
    matrix = root @ root.T + 2.0**-20 * torch.eye(30)  # every entry is exact, the smallest eigenvalue is 2⁻²⁰
    assert torch.linalg.cholesky_ex(matrix)[1] > 0, "the example must fail in float32"
    torch.testing.assert_close(inverse(matrix), torch.linalg.inv(matrix.double()).float(), rtol=1e-3, atol=1.0)


def test_a_matrix_that_is_not_positive_definite_raises():
    with pytest.raises(NotPositiveDefiniteError, match=r"3×3.*raise the damping"):
        inverse(-torch.eye(3))


def test_inner_is_the_sum_of_products_for_any_layout():
    x, y = torch.randn(3, 4).T, torch.randn(4, 3)
    torch.testing.assert_close(inner(x, y), (x * y).sum())
    torch.testing.assert_close(inner_of_each(x, y), (x * y).sum(1))


@pytest.mark.parametrize("group", [(), (3,)])
def test_an_eigenbasis_rebuilds_the_matrix(group):
    matrix = spd(4, *group)
    values, vectors = eigenbasis(matrix)
    torch.testing.assert_close((vectors * values.unsqueeze(-2)) @ vectors.mT, matrix)
    torch.testing.assert_close(vectors.mT @ vectors, torch.eye(4, dtype=torch.float64).expand_as(matrix))


def test_eigenvalues_are_never_negative():
    column = torch.randn(6, 1)
    values, _ = eigenbasis(column @ column.mT)
    assert (values >= 0).all()


def test_a_matrix_of_nan_has_no_eigenbasis():
    with pytest.raises(NotPositiveDefiniteError, match="3×3"):
        eigenbasis(torch.full((3, 3), math.nan))


@pytest.mark.parametrize("group", [(), (3,)])
def test_the_kronecker_product_acts_on_row_major_matrices(group):
    left, right, matrix = spd(3, *group), spd(4, *group), torch.randn(*group, 3, 4, dtype=torch.float64)
    product = kronecker(left, right) @ matrix.flatten(-2).unsqueeze(-1)
    torch.testing.assert_close(product.squeeze(-1), (left @ matrix @ right.mT).flatten(-2))


@pytest.mark.parametrize("bounds", [(0.0, math.inf), (0.5, math.inf), (0.0, 1e-3)])
def test_the_damping_of_a_kronecker_product_is_shared_in_proportion_to_the_factors(bounds):
    A, B, damping = torch.tensor(8.0), torch.tensor(0.5), Damping(0.3, bounds)
    shift_A, shift_B = damping.of_kronecker(A, B)
    assert (shift_A * shift_B).item() == pytest.approx(damping.of_mean(A * B).item())
    assert (shift_A / A).item() == pytest.approx((shift_B / B).item())


def test_the_damping_of_a_dead_factor_is_finite():
    shifts = Damping(0.3, (1e-5, math.inf)).of_kronecker(torch.tensor(2.0), torch.tensor(0.0))
    assert all(shift.isfinite() and shift > 0 for shift in shifts)


@pytest.mark.parametrize("entry", [0.0, 1e-46, math.inf, math.nan, -1.0])
def test_a_diagonal_that_has_no_inverse_is_refused(entry):
    with pytest.raises(NotPositiveDefiniteError, match="raise the damping"):
        inverse_diagonal(torch.tensor([1.0, entry]))


def test_an_inverse_that_overflows_is_refused():
    with pytest.raises(NotPositiveDefiniteError):
        inverse(torch.eye(2) * 1e-39)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(("group", "inputs"), [((), 5), ((3,), 4), ((), 257), ((2,), 300)])
def test_second_moments_are_the_sum_of_outer_products(group, inputs, weighted):
    rows, weights = torch.randn(*group, 7, inputs, dtype=torch.float64), torch.rand(*group, 7, dtype=torch.float64)
    scale = weights if weighted else torch.ones_like(weights)
    expected = torch.einsum("...n,...ni,...nj->...ij", scale, rows, rows)
    found = second_moments(rows, weights if weighted else None)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("group", [(), (3,)])
@pytest.mark.parametrize("size", [5, 257, 300])
def test_a_product_that_is_symmetric_needs_half_of_it(group, size):
    rows = torch.randn(*group, 7, size, dtype=torch.float64)
    middle = spd(7, *group)
    torch.testing.assert_close(symmetric_product(rows, middle @ rows), rows.mT @ middle @ rows)


@pytest.mark.parametrize("group", [(), (3,)])
@pytest.mark.parametrize(("dim", "largest"), [(10, 10), (10, 5), (11, 4), (300, 256), (41, 20)])
def test_products_with_a_factor_in_blocks_are_those_with_the_whole_matrix(group, dim, largest):
    factor = torch.randn(*group, *factor_shape(dim, largest), dtype=torch.float64)  # not symmetric, as a root is not
    whole = assembled(factor, dim)
    matrix = torch.randn(*group, 6, dim, dtype=torch.float64)
    torch.testing.assert_close(times(matrix, factor), matrix @ whole)
    torch.testing.assert_close(times(matrix.mT.contiguous().mT, factor), matrix @ whole)
    torch.testing.assert_close(times_left(factor, matrix.mT), whole @ matrix.mT)
    if largest < dim:
        torch.testing.assert_close(times_in_one_batch(matrix, factor), matrix @ whole)


@pytest.mark.parametrize("group", [(), (3,)])
@pytest.mark.parametrize("columns", [5, 256, 257, 272])
def test_columns_that_fill_up_a_product_are_no_part_of_it(group, columns):
    left, right = torch.randn(*group, 6, 7, dtype=torch.float64), torch.randn(*group, 7, columns, dtype=torch.float64)
    torch.testing.assert_close(product(left, right), left @ right)


@pytest.mark.parametrize("dim", [1, 40, 257, 300, 513, 785, 1025, 4096, 4097])
@pytest.mark.parametrize("largest", [5, 48, 256, 500, 2048])
def test_blocks_cover_a_factor_and_no_more(dim, largest):
    shape = factor_shape(dim, largest)
    if dim <= largest:
        assert shape == (dim, dim)
        return
    count, block, width = shape
    assert block == width <= min(largest, LARGEST_BLOCK)
    assert (count - 1) * block < dim <= count * block
    assert block % LANES == 0 or block <= 4 * LANES or block == min(largest, LARGEST_BLOCK)


@pytest.mark.parametrize("seed", [75, 115, 367])
def test_an_eigenbasis_is_finite_where_float32_gives_nan(seed):
    torch.manual_seed(seed)
    a = torch.randn(48).relu()
    values, vectors = eigenbasis(torch.outer(a, a))
    torch.testing.assert_close(vectors * values @ vectors.mT, torch.outer(a, a), rtol=1e-4, atol=1e-4)


def test_a_factor_that_is_kept_as_its_diagonal_is_that_matrix():
    dim, diagonal, left, rows = 4, torch.rand(4, dtype=torch.float64), spd(3), torch.randn(3, 4, dtype=torch.float64)
    matrix = torch.diag(diagonal)
    torch.testing.assert_close(mean_eigenvalue(diagonal, dim), mean_eigenvalue(matrix, dim))
    torch.testing.assert_close(torch.diag(shifted(diagonal, torch.tensor(0.3), dim)), shifted(matrix, torch.tensor(0.3), dim))
    torch.testing.assert_close(torch.diag(damped(diagonal, Damping(0.7), dim)), damped(matrix, Damping(0.7), dim))
    torch.testing.assert_close(torch.diag(inverse(diagonal)), inverse(matrix))
    torch.testing.assert_close(times(rows, diagonal), rows @ matrix)
    torch.testing.assert_close(transposed(diagonal), diagonal)
    torch.testing.assert_close(kronecker(left, assembled(diagonal, dim)), kronecker(left, matrix))


def test_the_eigenbasis_of_a_diagonal_is_the_identity():
    diagonal = torch.tensor([2.0, 0.0, 5.0, 2.0])
    values, vectors = eigenbasis(diagonal)
    assert torch.equal(values, diagonal)
    assert torch.equal(vectors, torch.ones(4))


def test_second_moments_of_one_hot_rows_are_the_weights_by_input():
    rows = OneHot(torch.tensor([2, 0, 2, 3]), 3, torch.float64)  # the last row is zero
    weights = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    torch.testing.assert_close(torch.diag(second_moments(rows, weights)), second_moments(rows.dense(), weights))
    torch.testing.assert_close(torch.diag(second_moments(rows)), second_moments(rows.dense()))
    torch.testing.assert_close(squared_norms(rows), squared_norms(rows.dense()))
    values = torch.randn(4, 2, dtype=torch.float64)
    torch.testing.assert_close(sum_by_input(rows, values), rows.dense().T @ values)
