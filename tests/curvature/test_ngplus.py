"""NG+'s block against loops over per-sample gradient matrices; the two ways to compute it."""

import pytest
import torch
from torch import Tensor

from lngd.curvature import NGPlusBlock, per_sample
from lngd.linalg import Damping
from reference import exact_fisher, sample_gradients

DOUBLE = torch.float64


def data(*group: int, n: int = 6, s: int = 4, i: int = 5, o: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(*group, n, s, i, dtype=DOUBLE), torch.randn(*group, n, s, o, dtype=DOUBLE)


def expected(a: Tensor, g: Tensor) -> Tensor:
    """E[G Gᵀ]."""
    return sum(G @ G.T for G in sample_gradients(a, g)) / len(a)


def gram_is_cheaper(s: int, i: int, o: int) -> bool:
    """Numbers multiplied per sample: through a aᵀ, or through G."""
    return s * s * i + s * s * o + s * o * o < s * o * i + o * o * i


SIZES = [(1, 5, 3), (2, 20, 15), (2, 30, 3), (1, 1, 1), (4, 5, 3), (9, 2, 6), (30, 4, 4)]
"""(s, i, o) on both sides of the choice."""


def test_the_sizes_take_both_ways():
    assert {gram_is_cheaper(*size) for size in SIZES} == {True, False}


@pytest.mark.parametrize("group", [(), (3,)])
@pytest.mark.parametrize("size", SIZES)
def test_both_ways_are_the_mean_of_per_sample_products(size, group):
    s, i, o = size
    a, g = data(*group, s=s, i=i, o=o)
    found = per_sample.output_moments(a, g)
    for k in range(len(a) if group else 1):
        one = expected(a[k], g[k]) if group else expected(a, g)
        torch.testing.assert_close(found[k] if group else found, one)


@pytest.mark.parametrize("size", SIZES)
def test_padding_with_silent_positions_changes_the_way_and_not_the_result(size):
    s, i, o = size
    a, g = data(s=s, i=i, o=o)
    padded = (torch.cat([x, x.new_zeros(len(x), 40, x.shape[-1])], 1) for x in (a, g))
    torch.testing.assert_close(per_sample.output_moments(a, g), per_sample.output_moments(*padded))


@pytest.mark.parametrize("chunk", [1, 50, 400])
@pytest.mark.parametrize("group", [(), (3,)])
@pytest.mark.parametrize("size", SIZES)
def test_portions_of_samples_give_the_same(monkeypatch, size, group, chunk):
    s, i, o = size
    a, g = data(*group, n=7, s=s, i=i, o=o)
    whole = per_sample.output_moments(a, g)
    monkeypatch.setattr(per_sample, "CHUNK", chunk)
    torch.testing.assert_close(per_sample.output_moments(a, g), whole)


def test_it_is_the_input_sides_trace_of_the_exact_fisher_matrix():
    a, g = data()
    block = NGPlusBlock()
    block.update(block.measure(a, g), 0.95)
    exact = exact_fisher(a, g)
    torch.testing.assert_close(block.L, torch.einsum("oipi->op", exact.reshape(3, 5, 3, 5)))
    torch.testing.assert_close(block.dense().trace(), 5 * exact.trace())


def test_the_direction_is_the_damped_inverse_times_the_gradient():
    block, gradient = NGPlusBlock(), torch.randn(3, 5, dtype=DOUBLE)
    block.update(block.measure(*data()), 0.95)
    block.refresh(Damping(0.2))
    damped = block.L + 0.2 * block.L.trace() / 3 * torch.eye(3, dtype=DOUBLE)
    torch.testing.assert_close(block.precondition(gradient), torch.linalg.inv(damped) @ gradient)
