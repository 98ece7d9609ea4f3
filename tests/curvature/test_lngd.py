"""LNGD's block against loops over samples and positions and against dense linear algebra."""

import math

import pytest
import torch
from torch import Tensor

from lngd.curvature import LNGDBlock
from lngd.linalg import Damping, NotPositiveDefiniteError
from reference import factors

DOUBLE = torch.float64
GROUPS = [(), (3,)]
DAMPINGS = [Damping(0.3), Damping(1.0, (1e-5, 1e-2)), Damping(0.0, (0.5, math.inf))]


def data(*group: int, n: int = 6, s: int = 4, i: int = 5, o: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(*group, n, s, i, dtype=DOUBLE), torch.randn(*group, n, s, o, dtype=DOUBLE)


def updated(*group: int) -> LNGDBlock:
    block = LNGDBlock()
    block.update(block.measure(*data(*group)), 0.95)
    return block


def test_factors_are_the_sums_of_equations_4_and_5():
    a, g = data()
    block = LNGDBlock()
    block.update(block.measure(a, g), 0.95)
    phi, psi = factors(a, g.square())
    torch.testing.assert_close(block.phi, phi)
    torch.testing.assert_close(block.psi, psi)


def test_groups_are_blocks_of_their_own():
    a, g = data(3)
    block = LNGDBlock()
    block.update(block.measure(a, g), 0.95)
    for group in range(3):
        phi, psi = factors(a[group], g[group].square())
        torch.testing.assert_close(block.phi[group], phi)
        torch.testing.assert_close(block.psi[group], psi)


def test_psi_sums_to_one():
    torch.testing.assert_close(updated(3).psi.sum(-1), torch.ones(3, dtype=DOUBLE))


def test_the_trace_is_that_of_the_fisher_matrix():
    a, g = data()
    block = LNGDBlock()
    block.update(block.measure(a, g), 0.95)
    trace = sum(torch.kron(g[n, s], a[n, s]).square().sum() for n in range(6) for s in range(4)) / 6
    torch.testing.assert_close(block.dense().trace(), trace)
    torch.testing.assert_close(block.phi.trace() * block.psi.sum(), trace)


def test_the_block_is_the_fisher_matrix_if_one_factor_is_constant():
    """With the same |g| everywhere Φ ⊗ Ψ is E[(a aᵀ) ⊗ diag(g gᵀ)] exactly."""
    a, _ = data()
    signs = torch.randint(0, 2, (6, 4, 3)).to(DOUBLE) * 2 - 1
    g = signs * torch.tensor([0.5, 1.0, 2.0], dtype=DOUBLE)
    block = LNGDBlock()
    block.update(block.measure(a, g), 0.95)
    exact = sum(torch.kron(torch.diag(g[n, s].square()), torch.outer(a[n, s], a[n, s])) for n in range(6) for s in range(4))
    torch.testing.assert_close(block.dense(), exact / 6)


@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("group", GROUPS)
def test_precondition_inverts_the_damped_dense_block(group, damping):
    block = updated(*group)
    block.refresh(damping)
    gradient = torch.randn(*group, 3, 5, dtype=DOUBLE)
    solved = torch.linalg.solve(block.dense(damping), gradient.flatten(-2))
    torch.testing.assert_close(block.precondition(gradient), solved.reshape(gradient.shape))


@pytest.mark.parametrize("damping", DAMPINGS)
def test_dense_is_the_kronecker_product_outputs_first(damping):
    block = updated()
    phi = block.phi + damping.of_mean(block.phi.trace() / 5) * torch.eye(5, dtype=DOUBLE)
    psi = torch.diag(block.psi + damping.of_mean(block.psi.mean()))
    torch.testing.assert_close(block.dense(damping), torch.kron(psi, phi))


def test_dense_takes_a_plain_number_as_relative_damping():
    block = updated()
    torch.testing.assert_close(block.dense(0.25), block.dense(Damping(0.25)))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.95])
def test_update_is_the_bias_corrected_average(decay):
    block, measured = LNGDBlock(), [LNGDBlock().measure(*data()) for _ in range(5)]
    for statistics in measured:
        block.update(statistics, decay)
    weights = torch.tensor([decay ** (4 - k) for k in range(5)], dtype=DOUBLE)
    weights /= weights.sum()
    torch.testing.assert_close(block.phi, sum(w * phi for w, (phi, _) in zip(weights, measured, strict=True)))
    expected = sum(w * psi / psi.sum() for w, (_, psi) in zip(weights, measured, strict=True))
    torch.testing.assert_close(block.psi, expected)


def test_a_layer_that_nothing_reacts_to_has_finite_factors():
    block = LNGDBlock()
    block.update(block.measure(torch.randn(4, 2, 5), torch.zeros(4, 2, 3)), 0.95)
    block.refresh(Damping(0.3, (1e-5, math.inf)))
    assert torch.equal(block.psi, torch.zeros(3))
    assert block.precondition(torch.randn(3, 5)).isfinite().all()


def test_a_failed_refresh_leaves_the_last_inverses():
    block = updated()
    block.refresh(Damping(0.3))
    phi_inverse, psi_inverse = block.phi_inverse.clone(), block.psi_inverse.clone()
    block.phi = -block.phi
    with pytest.raises(NotPositiveDefiniteError):
        block.refresh(Damping(0.3))
    assert torch.equal(block.phi_inverse, phi_inverse)
    assert torch.equal(block.psi_inverse, psi_inverse)


@pytest.mark.parametrize("refreshed", [True, False])
def test_tensors_and_load_carry_a_block_over(refreshed):
    block, copy = updated(), updated()
    copy.refresh(Damping(0.1))
    if refreshed:
        block.refresh(Damping(0.3))
    copy.load(block.updates, block.tensors())
    assert copy.updates == block.updates
    assert copy.ready == block.ready == refreshed
    assert set(copy.tensors()) == set(block.tensors())
    assert all(torch.equal(copy.tensors()[name], value) for name, value in block.tensors().items())
