from itertools import islice

import pytest
import torch
from torch import Tensor

from lngd_bench.studies.theory import two_layer
from lngd_bench.studies.theory.proof import bound, conditions, judge, limits
from lngd_bench.studies.theory.two_layer import Net, Problem, best_rate, trajectory, unit_rate

SHAPES = pytest.mark.parametrize(("samples", "inputs", "width"), [(6, 3, 9), (8, 3, 4), (5, 5, 30)])
"""More units than samples, fewer, and as many inputs as samples."""


def setting(samples: int, inputs: int, width: int, seed: int = 0) -> tuple[Problem, Net]:
    generator = torch.Generator().manual_seed(seed)
    return two_layer.random_problem(samples, inputs, generator), two_layer.random_net(width, inputs, generator)


def pinv(matrix: Tensor) -> Tensor:
    """Through the singular values, where the library uses eigenvalues."""
    return torch.linalg.pinv(matrix, rtol=1e-9)


def explicit_inverse(X: Tensor, G: Tensor, psi_part: Tensor) -> Tensor:
    """ηZ⁺ ⊗ psi_part, md × md, in the order of J's columns: input first, then unit."""
    gram = torch.diag(torch.diag(G @ G.T))
    Z, eta = X.T @ gram @ X, torch.trace((X @ X.T) * torch.eye(len(X)) * gram)
    return torch.kron(eta * pinv(Z), psi_part)


def khatri_rao(X: Tensor, G: Tensor) -> Tensor:
    """X ⋆ G: column (j, r) is ∂f/∂θ_rj."""
    return (X[:, :, None] * G[:, None, :]).flatten(1)


def autograd_jacobian(net: Net, X: Tensor) -> Tensor:
    """∂f(xᵢ)/∂θ_rj at column (j, r)."""
    by_unit = torch.func.jacrev(lambda theta: Net(theta, net.signs).outputs(X))(net.theta)  # [n, m, d]
    return by_unit.mT.flatten(1)


@SHAPES
def test_the_jacobian_is_the_row_wise_khatri_rao_product_of_inputs_and_signed_gates(samples, inputs, width):
    problem, net = setting(samples, inputs, width)
    J, G = autograd_jacobian(net, problem.X), net.gates(problem.X)
    torch.testing.assert_close(khatri_rao(problem.X, G), J)
    assert not torch.allclose(khatri_rao(problem.X, G * net.signs), J)  # eq. 17 leaves a_r out


@SHAPES
def test_the_direction_is_that_of_the_explicit_kronecker_product(samples, inputs, width):
    problem, net = setting(samples, inputs, width)
    X, G = problem.X, net.gates(problem.X)
    residual = net.outputs(X) - problem.y
    J = autograd_jacobian(net, X)
    expected = explicit_inverse(X, G, pinv(G.T @ G)) @ J.T @ residual
    torch.testing.assert_close(two_layer.natural_direction(X, G, residual).T.flatten(), expected)


@SHAPES
def test_every_kernel_is_that_of_the_explicit_matrices(samples, inputs, width):
    problem, net = setting(samples, inputs, width)
    X, G = problem.X, net.gates(problem.X)
    J, unsigned = autograd_jacobian(net, X), G * net.signs
    diagonal = torch.diag(torch.diag(G.T @ G))
    pairs = [
        (two_layer.kernel(X, G), pinv(G.T @ G)),
        (two_layer.unsigned_kernel(X, G, net.signs), pinv(unsigned.T @ unsigned)),
        (two_layer.diagonal_kernel(X, G), pinv(diagonal)),
    ]
    for K, inverse in pairs:
        torch.testing.assert_close(K, J @ explicit_inverse(X, G, inverse) @ J.T)


def test_a_step_is_the_update_of_the_proof():
    problem, net = setting(6, 3, 9)
    first, second = islice(trajectory(problem, net, 0.25, unit_rate), 2)
    J, G = autograd_jacobian(net, problem.X), net.gates(problem.X)
    update = explicit_inverse(problem.X, G, pinv(G.T @ G)) @ J.T @ first.residual
    torch.testing.assert_close(second.net.theta, net.theta - 0.25 * update.reshape(3, 9).T)
    torch.testing.assert_close(second.residual, second.net.outputs(problem.X) - problem.y)


def test_wide_nets_approach_the_kernel_and_the_gram_matrix_of_infinite_width():
    problem, net = setting(6, 3, 200_000)
    G = net.gates(problem.X)
    torch.testing.assert_close(two_layer.kernel(problem.X, G), two_layer.wide_kernel(problem.X), atol=0.05, rtol=0)
    torch.testing.assert_close(G @ G.T, two_layer.wide_gram(problem.X), atol=0.01, rtol=0)
    torch.testing.assert_close(two_layer.wide_kernel(problem.X).diagonal().mean(), torch.tensor(3.0, dtype=torch.float64))


def test_a_diverging_recursion_ends_in_infinity():
    K, start = 5 * torch.eye(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    shares = two_layer.error_shares(two_layer.linear_residuals(K, start, 1.0, unit_rate), 40)
    assert len(shares) == 41
    torch.testing.assert_close(shares[:3], torch.tensor([1.0, 16.0, 256.0], dtype=torch.float64))
    assert shares[-1] == torch.inf


def test_an_error_on_the_bound_keeps_it_and_one_above_is_found_with_its_step():
    shares = bound(0.1, 20)
    assert judge(shares, 0.1)[1] is None
    shares[7:] *= 2
    assert judge(shares, 0.1)[1] == 7
    assert judge(shares, 0.1)[0] == pytest.approx(2)


@pytest.mark.parametrize(("rate", "name"), [(unit_rate, "exact"), (best_rate, "rated")])
def test_the_largest_alpha_is_where_the_worst_residual_stops_keeping_the_bound(rate, name):
    eigenvalues = torch.tensor([2.0, 3.0, 7.0], dtype=torch.float64)
    K = torch.diag(eigenvalues)
    residual = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    if rate is best_rate:  # Kantorovich's inequality is an equality where the squares stand as λ_max : λ_min
        residual = torch.tensor([7.0**0.5, 0.0, 2.0**0.5], dtype=torch.float64)
    edge = limits(torch.eye(2).double(), torch.tensor(2.0), K)[name]
    for alpha, kept in ((0.999 * edge, True), (1.001 * edge, False)):
        shares = two_layer.error_shares(two_layer.linear_residuals(K, residual, alpha, rate), 1)
        assert (judge(shares, alpha)[1] is None) == kept


def test_the_stages_of_the_proof_are_the_printed_formulas():
    Z, K = torch.diag(torch.tensor([1.0, 4.0]).double()), torch.diag(torch.tensor([1.0, 2.0]).double())
    found = limits(Z, torch.tensor(5.0), K)
    assert (found["derived"], found["solved"], found["exact"]) == pytest.approx((4 / 5, 4 / (16 * 5), 3 / 4))


def test_the_conditions_are_those_of_the_explicit_jacobians():
    problem, net = setting(6, 3, 12)
    visits = list(islice(trajectory(problem, net, 0.1, unit_rate), 4))
    found = conditions(iter(visits), problem, 3)
    jacobians = [autograd_jacobian(visit.net, problem.X) for visit in visits]
    assert found["moved"] == pytest.approx(max(torch.linalg.matrix_norm(J - jacobians[0], 2).item() for J in jacobians))
    assert found["gram"] == pytest.approx(min(torch.linalg.eigvalsh(v.G @ v.G.T)[0].item() for v in visits), abs=1e-12)
    Z = two_layer.input_factor(problem.X, visits[0].G)
    lambda_k = torch.linalg.eigvalsh(two_layer.wide_gram(problem.X))[0].item()
    allowed = 2**0.5 / 4 * found["c"] * lambda_k**0.5 / torch.linalg.cond(Z).item()  # Condition 2 at the c that is reported
    assert found["moved"] == pytest.approx(allowed)
