"""TKFAC's block against its definition."""

import pytest
import torch
from torch import Tensor

from lngd.curvature import TKFACBlock
from reference import positionwise_fisher

DOUBLE = torch.float64


def data(n: int = 6, s: int = 4, i: int = 5, o: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(n, s, i, dtype=DOUBLE), torch.randn(n, s, o, dtype=DOUBLE)


def measured(*batches: tuple[Tensor, Tensor]) -> TKFACBlock:
    block = TKFACBlock()
    for a, g in batches:
        block.update(block.measure(a, g), 0.5)
    return block


def test_it_is_delta_times_two_factors_of_trace_one():
    a, g = data()
    pairs = [(a[n, s], g[n, s]) for n in range(6) for s in range(4)]
    delta = sum(x.dot(x) * y.dot(y) for x, y in pairs) / 6
    P = sum(y.dot(y) * torch.outer(x, x) for x, y in pairs) / 6 / delta
    Q = sum(x.dot(x) * torch.outer(y, y) for x, y in pairs) / 6 / delta
    torch.testing.assert_close(P.trace(), torch.ones((), dtype=DOUBLE))
    torch.testing.assert_close(Q.trace(), torch.ones((), dtype=DOUBLE))
    torch.testing.assert_close(measured((a, g)).dense(), delta * torch.kron(Q, P))


def test_its_factors_are_the_partial_traces_of_the_fisher_matrix():
    """Tracing out either side of δ P ⊗ Q gives what tracing it out of F gives."""
    a, g = data()
    dense, exact = (F.reshape(3, 5, 3, 5) for F in (measured((a, g)).dense(), positionwise_fisher(a, g)))
    torch.testing.assert_close(torch.einsum("oioj->ij", dense), torch.einsum("oioj->ij", exact))
    torch.testing.assert_close(torch.einsum("oipi->op", dense), torch.einsum("oipi->op", exact))


def test_after_several_measurements_the_traces_are_one_and_that_of_the_average():
    batches = [(scale * a, g) for scale in (1.0, 4.0) for a, g in [data()]]
    block = measured(*batches)
    trace_P, Q = block.factors()[0].trace(), block.factors()[1]
    one, two = (positionwise_fisher(a, g).trace() for a, g in batches)
    torch.testing.assert_close(trace_P, (0.5 * one + two) / 1.5)
    torch.testing.assert_close(Q.trace(), torch.ones((), dtype=DOUBLE))


@pytest.mark.parametrize("positions", [1, 4])
def test_it_is_exact_if_the_gradient_does_not_depend_on_the_input(positions):
    x, y = torch.randn(4, positions, 5, dtype=DOUBLE), torch.randn(3, 1, 3, dtype=DOUBLE)
    a, g = x.repeat_interleave(3, 0), y.repeat(4, positions, 1)
    torch.testing.assert_close(measured((a, g)).dense(), positionwise_fisher(a, g))


def test_a_layer_that_nothing_reacts_to_has_a_finite_block():
    a, g = data()
    block = measured((a, 0 * g))
    assert torch.equal(block.dense(), torch.zeros(15, 15, dtype=DOUBLE))
