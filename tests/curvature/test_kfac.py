"""K-FAC's block: where it is exact, and its factored damping."""

import math

import pytest
import torch
from torch import Tensor

from lngd.curvature import KFACBlock
from lngd.linalg import Damping
from reference import exact_fisher, positionwise_fisher

DOUBLE = torch.float64
DAMPINGS = [Damping(0.3), Damping(1.0, (1e-5, 1e-2)), Damping(0.0, (0.5, math.inf))]


def data(n: int = 6, s: int = 4, i: int = 5, o: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(n, s, i, dtype=DOUBLE), torch.randn(n, s, o, dtype=DOUBLE)


def measured(a: Tensor, g: Tensor) -> KFACBlock:
    block = KFACBlock()
    block.update(block.measure(a, g), 0.95)
    return block


def test_it_is_the_mean_over_all_pairings_of_inputs_and_gradients():
    """A ⊗ B is F after a and g were shuffled against each other, over all S·N × S·N pairs."""
    a, g = data()
    rows, grads = a.flatten(0, 1), g.flatten(0, 1)
    pairs = [torch.kron(y, x) for x in rows for y in grads]
    expected = sum(torch.outer(v, v) for v in pairs) / len(pairs) * 4
    torch.testing.assert_close(measured(a, g).dense(), expected)


def test_it_is_exact_for_independent_inputs_and_gradients():
    """Every input meets every gradient once."""
    x, y = torch.randn(4, 5, dtype=DOUBLE), torch.randn(3, 3, dtype=DOUBLE)
    a, g = x.repeat_interleave(3, 0).unsqueeze(1), y.repeat(4, 1).unsqueeze(1)
    torch.testing.assert_close(measured(a, g).dense(), exact_fisher(a, g))


def test_it_is_exact_over_positions_if_all_have_the_same_input():
    a, g = data()
    a = a[:1, :1].expand(6, 4, 5).contiguous()
    torch.testing.assert_close(measured(a, g).dense(), positionwise_fisher(a, g))


def test_a_layer_called_twice_counts_as_twice_the_positions():
    a, g = data(s=4)
    block = KFACBlock()
    calls = [block.measure(a[:, part], g[:, part]) for part in (slice(0, 1), slice(1, 4))]
    block.update(tuple(one + two for one, two in zip(*calls, strict=True)), 0.95)
    torch.testing.assert_close(block.dense(), measured(a, g).dense())


@pytest.mark.parametrize("scales", [(1.0, 1.0), (1e4, 1e-4), (1e-3, 10.0)])
@pytest.mark.parametrize("damping", DAMPINGS)
def test_the_two_shifts_multiply_to_the_damping_of_the_product(damping, scales):
    a, g = data()
    block = measured(scales[0] * a, scales[1] * g)
    A, B = block.A, block.B
    shift_A, shift_B = damping.of_kronecker(A.trace() / 5, B.trace() / 3)
    mean = block.dense().trace() / 15
    expected = min(max(damping.relative * mean.item(), damping.bounds[0]), damping.bounds[1])
    assert (shift_A * shift_B).item() == pytest.approx(expected, rel=1e-12)
    assert (shift_A / shift_B).item() == pytest.approx((A.trace() / 5 / (B.trace() / 3)).item(), rel=1e-12)


@pytest.mark.parametrize("damping", DAMPINGS)
def test_the_damped_block_is_the_product_of_the_shifted_factors(damping):
    block = measured(*data())
    mean_A, mean_B = block.A.trace() / 5, block.B.trace() / 3
    strength = (damping.relative * mean_A * mean_B).clamp(*damping.bounds)
    pi = (mean_A / mean_B).sqrt()
    A = block.A + pi * strength.sqrt() * torch.eye(5, dtype=DOUBLE)
    B = block.B + strength.sqrt() / pi * torch.eye(3, dtype=DOUBLE)
    torch.testing.assert_close(block.dense(damping), torch.kron(B, A))


def test_pi_makes_the_two_cross_terms_of_the_damping_equally_large():
    """(A + π√λ I) ⊗ (B + √λ/π I) − A ⊗ B − λI = π√λ I ⊗ B + √λ/π A ⊗ I; π balances their traces."""
    block = measured(*data())
    shift_A, shift_B = Damping(0.3).of_kronecker(block.A.trace() / 5, block.B.trace() / 3)
    cross_B, cross_A = shift_A * 5 * block.B.trace(), shift_B * 3 * block.A.trace()
    torch.testing.assert_close(cross_A, cross_B)
