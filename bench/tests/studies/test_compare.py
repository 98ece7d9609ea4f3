"""Metrics on matrices made by hand, and the approximations where their error is known."""

import math

import pytest
import torch
from torch import Tensor, nn

from lngd.linalg import Damping
from lngd_bench.studies.fisher.compare import (
    APPROXIMATIONS,
    approximate,
    compare,
    exact_direction,
    matrix_errors,
    outputwise_error,
)
from lngd_bench.studies.fisher.exact import ExactCurvature
from reference import batch, mlp

CLASSES = 3
every_method = pytest.mark.parametrize("method", APPROXIMATIONS)


def positive(dim: int, seed: int = 0, group: tuple[int, ...] = ()) -> Tensor:
    root = torch.randn(*group, dim, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.mT


def problem(n: int = 12) -> tuple[ExactCurvature, Tensor]:
    x, y = batch(n, 4, classes=CLASSES)
    return ExactCurvature(mlp(4, 5, 4, CLASSES), x), y


def rows(damping: float = 0.1) -> dict[tuple[str, str], dict]:
    return {(row["layer"], row["method"]): row for row in compare(*problem(), damping)}


@pytest.mark.parametrize("c", [0.5, 1.0, 3.0])
def test_a_wrong_scale_is_all_raw_error(c):
    errors = matrix_errors(c * positive(6), positive(6))
    assert errors["error"] == pytest.approx(abs(c - 1))
    assert errors["diagonal_error"] == pytest.approx(abs(c - 1))
    assert errors["scaled_error"] == pytest.approx(0, abs=1e-12)
    assert errors["scaled_diagonal_error"] == pytest.approx(0, abs=1e-12)
    assert (errors["scale"], errors["trace_ratio"]) == (pytest.approx(1 / c), pytest.approx(c))


def test_errors_of_two_by_two_matrices_done_by_hand():
    exact = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    errors = matrix_errors(torch.diag(torch.tensor([4.0, 2.0], dtype=torch.float64)), exact)
    assert errors["error"] == pytest.approx(math.sqrt(6 / 10))  # 2, −1, −1, 0
    assert errors["scale"] == pytest.approx(12 / 20)
    assert errors["scaled_error"] == pytest.approx(math.sqrt((0.4**2 + 1 + 1 + 0.8**2) / 10))
    assert errors["diagonal_error"] == pytest.approx(2 / math.sqrt(8))
    assert errors["scaled_diagonal_error"] == pytest.approx(math.sqrt((0.4**2 + 0.8**2) / 8))
    assert errors["trace_ratio"] == pytest.approx(6 / 4)


def test_the_exact_direction_solves_the_damped_system():
    exact, gradient = positive(6), torch.randn(2, 3, dtype=torch.float64)
    direction = exact_direction(exact, gradient, Damping(0.5))
    shift = 0.5 * exact.trace() / 6 * torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close((exact + shift) @ direction.flatten(), gradient.flatten())


@every_method
def test_a_row_compares_the_methods_block_with_the_exact_one(method):
    curvature, y = problem()
    row, damping = rows()["2", method], Damping(0.1)
    block, exact, gradient = approximate(curvature, "2", method, damping), curvature.fisher("2"), curvature.gradient("2", y)
    error = (block.dense() - exact).norm() / exact.norm()
    assert row["error"] == pytest.approx(error.item())
    target = torch.linalg.solve(exact + 0.1 * exact.trace() / 24 * torch.eye(24), gradient.flatten())
    for direction, found in ((block.precondition(gradient), row["cosine"]), (gradient, row["gradient_cosine"])):
        expected = torch.nn.functional.cosine_similarity(direction.flatten(), target, dim=0)
        assert found == pytest.approx(expected.item())


@pytest.mark.parametrize("method", ["K-FAC", "EKFAC", "TKFAC"])
def test_one_sample_of_two_classes_leaves_kronecker_methods_without_error(method):
    """F = E[ggᵀ] ⊗ aaᵀ. With two classes E[ggᵀ] has rank one, so even EKFAC's eigenbasis holds all of it."""
    x, y = batch(1, 4, classes=2)
    for row in compare(ExactCurvature(mlp(4, 5, 2), x), y, 0.1):
        if row["method"] == method:
            assert row["error"] == pytest.approx(0, abs=1e-10)


def test_trace_keeping_methods_keep_the_trace_and_ngplus_counts_every_column():
    for (layer, method), row in rows().items():
        if method in ("LNGD-lr", "TKFAC", "EKFAC"):
            assert row["trace_ratio"] == pytest.approx(1)
        if method == "NG+":
            assert row["trace_ratio"] == pytest.approx({"0": 5, "2": 6, "4": 5}[layer])


def test_the_outputwise_error_is_what_lies_between_outputs():
    exact = positive(6)
    own = torch.block_diag(exact[:3, :3], exact[3:, 3:])
    assert outputwise_error(exact, 2) == pytest.approx(((exact - own).norm() / exact.norm()).item())
    assert outputwise_error(own, 2) == pytest.approx(0, abs=1e-7)
    both = positive(6, group=(2,))
    expected = math.sqrt(
        1 - sum(block.norm().item() ** 2 for one in both for block in (one[:3, :3], one[3:, 3:])) / both.norm() ** 2
    )
    assert outputwise_error(both, 2) == pytest.approx(expected)


@pytest.mark.parametrize("method", ["LNGD", "LNGD-lr"])
def test_no_diagonal_output_factor_falls_below_the_outputwise_error(method):
    for layer in ("0", "2", "4"):
        row = rows()[layer, method]
        assert 0 < row["outputwise_error"] <= row["scaled_error"]


def test_a_layer_that_no_output_depends_on_is_named():
    model = mlp(4, 5, CLASSES)
    nn.init.zeros_(model[2].weight)
    with pytest.raises(ValueError, match="exact Fisher block of layer '0' is zero"):
        list(compare(ExactCurvature(model, batch(3, 4)[0]), batch(3, 4)[1], 0.1))
