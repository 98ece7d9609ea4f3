"""EKFAC's block against loops over per-sample gradients in K-FAC's eigenbasis."""

import math

import pytest
import torch
from torch import Tensor

from lngd.curvature import EKFACBlock, KFACBlock, per_sample
from lngd.linalg import Damping
from reference import exact_fisher, positionwise_fisher, sample_gradients

DOUBLE = torch.float64
DAMPING = Damping(0.1, (1e-5, math.inf))


def data(n: int = 6, s: int = 4, i: int = 5, o: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(n, s, i, dtype=DOUBLE), torch.randn(n, s, o, dtype=DOUBLE)


def based(a: Tensor, g: Tensor) -> EKFACBlock:
    """With the eigenbasis of one batch, no second moments yet."""
    block = EKFACBlock()
    block.update(block.measure(a, g), 0.95)
    block.refresh(DAMPING)
    return block


def moments(block: EKFACBlock, a: Tensor, g: Tensor) -> Tensor:
    """E[(U_Bᵀ Gₙ U_A)²] by loops."""
    gradients = sample_gradients(a, g)
    return sum((block.B_basis.T @ G @ block.A_basis).square() for G in gradients) / len(gradients)


def test_the_basis_diagonalises_the_averaged_factors():
    a, g = data()
    block = based(a, g)
    for basis, factor in ((block.A_basis, block.A), (block.B_basis, block.B)):
        torch.testing.assert_close(basis.T @ basis, torch.eye(len(basis), dtype=DOUBLE))
        rotated = basis.T @ factor @ basis
        torch.testing.assert_close(rotated, torch.diag(rotated.diagonal()))


def test_before_the_first_second_moments_it_is_kfac_with_plain_damping():
    a, g = data()
    block, kfac = based(a, g), KFACBlock()
    kfac.update(kfac.measure(a, g), 0.95)
    torch.testing.assert_close(block.dense(), kfac.dense())
    shift = 0.1 * kfac.dense().trace() / 15
    torch.testing.assert_close(block.dense(DAMPING), kfac.dense() + shift * torch.eye(15, dtype=DOUBLE))


@pytest.mark.parametrize("positions", [1, 4])
def test_the_scales_are_second_moments_of_per_sample_gradients(positions):
    a, g = data(s=positions)
    block = based(a, g)
    x, y = data(n=9, s=positions)
    block.update(block.measure(x, y), 0.95)
    torch.testing.assert_close(block.scales, moments(block, x, y))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.95])
def test_the_scales_are_bias_corrected_averages_since_the_basis_moved(decay):
    block = based(*data())
    for count in (1, 4):
        batches = [data() for _ in range(count)]
        for a, g in batches:
            block.update(block.measure(a, g), decay)
        weights = torch.tensor([decay ** (count - 1 - k) for k in range(count)], dtype=DOUBLE)
        weights /= weights.sum()
        expected = sum(w * moments(block, a, g) for w, (a, g) in zip(weights, batches, strict=True))
        torch.testing.assert_close(block.scales, expected)
        block.refresh(DAMPING)
        A, B = (basis.T @ F @ basis for basis, F in ((block.A_basis, block.A), (block.B_basis, block.B)))
        torch.testing.assert_close(block.scales, torch.outer(B.diagonal(), A.diagonal()))


@pytest.mark.parametrize("positions", [1, 4])
def test_after_an_update_the_trace_is_that_of_the_exact_fisher_matrix(positions):
    a, g = data(s=positions)
    block = based(a, g)
    block.update(block.measure(a, g), 0.95)
    torch.testing.assert_close(block.dense().trace(), exact_fisher(a, g).trace())


@pytest.mark.parametrize("correlated", [False, True])
@pytest.mark.parametrize("positions", [1, 4])
@pytest.mark.parametrize("n", [2, 6, 50])
def test_it_is_at_least_as_near_to_the_exact_fisher_matrix_as_kfac(n, positions, correlated):
    a, g = data(n, positions)
    if correlated:
        g = g * a.norm(dim=-1, keepdim=True) + a[..., :3]
    exact, kfac = exact_fisher(a, g), KFACBlock()
    kfac.update(kfac.measure(a, g), 0.95)
    block = based(a, g)
    block.update(block.measure(a, g), 0.95)
    assert (block.dense() - exact).norm() <= (kfac.dense() - exact).norm() * (1 + 1e-12)


def test_no_other_diagonal_in_its_basis_is_nearer():
    a, g = data()
    exact, block = exact_fisher(a, g), based(a, g)
    block.update(block.measure(a, g), 0.95)
    best, scales = (block.dense() - exact).norm(), block.scales
    for _ in range(20):
        block.scales = scales + 0.05 * torch.randn_like(scales)
        assert (block.dense() - exact).norm() > best


def test_one_sample_is_exact_with_all_its_positions():
    """One gradient matrix of rank one, wherever its positions are: with one input for all."""
    a, g = data(n=1)
    a = a[:, :1].expand(1, 4, 5).contiguous()
    g = g[:, :1] * torch.tensor([1.0, 2.0, -0.5, 0.3], dtype=DOUBLE)[None, :, None]
    block = based(a, g)
    block.update(block.measure(a, g), 0.95)
    torch.testing.assert_close(block.dense(), exact_fisher(a, g))
    assert not torch.allclose(positionwise_fisher(a, g), exact_fisher(a, g))


def test_lambda_is_that_of_the_last_refresh():
    a, g = data()
    block, gradient = based(a, g), torch.randn(3, 5, dtype=DOUBLE)
    shift = (0.1 * block.dense().trace() / 15).item()
    x, y = data()
    block.update(block.measure(3 * x, y), 0.5)
    damped = block.dense() + shift * torch.eye(15, dtype=DOUBLE)
    torch.testing.assert_close(block.precondition(gradient).flatten(), torch.linalg.solve(damped, gradient.flatten()))


@pytest.mark.parametrize("chunk", [1, 16, 40])
@pytest.mark.parametrize("group", [(), (3,)])
def test_portions_of_samples_give_the_same_second_moments(monkeypatch, group, chunk):
    a, g = torch.randn(*group, 7, 4, 5, dtype=DOUBLE), torch.randn(*group, 7, 4, 3, dtype=DOUBLE)
    whole = per_sample.squared_gradients(a, g)
    monkeypatch.setattr(per_sample, "CHUNK", chunk)
    torch.testing.assert_close(per_sample.squared_gradients(a, g), whole)


@pytest.mark.parametrize("group", [(), (3,)])
def test_second_moments_of_a_single_position_take_the_short_way(group):
    a, g = torch.randn(*group, 7, 1, 5, dtype=DOUBLE), torch.randn(*group, 7, 1, 3, dtype=DOUBLE)
    padded = (torch.cat([x, torch.zeros_like(x)], -2) for x in (a, g))
    torch.testing.assert_close(per_sample.squared_gradients(a, g), per_sample.squared_gradients(*padded))
