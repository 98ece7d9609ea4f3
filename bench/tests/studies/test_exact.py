"""Exact curvature against loops over samples, positions and labels, with one backward pass each."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lngd.types import OneHot
from lngd_bench.studies.fisher.exact import ExactCurvature
from reference import batch, mlp, with_ones

CLASSES = 3


class TokenModel(nn.Module):
    """Positions of a sample see one another, so that a label at one gives every other a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x))
        return self.second(hidden + 0.5 * hidden.roll(1, 1).square())


def perceptron() -> nn.Module:
    return mlp(4, 5, 4, CLASSES)


def convolutions(groups: int) -> nn.Module:
    first = nn.Conv2d(4, 4, 2, stride=2, groups=groups)
    return nn.Sequential(first, nn.Tanh(), nn.Conv2d(4, 2, 2, bias=False), nn.Flatten(), nn.Linear(8, CLASSES))


def words() -> nn.Module:
    return nn.Sequential(nn.Embedding(6, 4, padding_idx=1), nn.Tanh(), nn.Flatten(), nn.Linear(12, CLASSES))


def transposed() -> nn.Module:
    first = nn.ConvTranspose1d(4, 4, 3, stride=2, padding=1, groups=2)
    return nn.Sequential(first, nn.Tanh(), nn.Flatten(), nn.Linear(20, CLASSES))


CASES = {
    "perceptron": (perceptron, (4,)),
    "convolutions": (lambda: convolutions(1), (4, 6, 6)),
    "grouped convolution": (lambda: convolutions(2), (4, 6, 6)),
    "tokens": (TokenModel, (5, 4)),
    "words": (words, (3,)),
    "transposed convolution": (transposed, (4, 3)),
}
every_case = pytest.mark.parametrize("case", CASES)


def problem(case: str, n: int = 4) -> tuple[nn.Module, Tensor]:
    make, shape = CASES[case]
    torch.manual_seed(1)
    x = batch(n, *shape)[0]
    return make().double(), (3 * x.abs()).long() % 6 if case == "words" else x


def weight_matrix(module: nn.Module, gradients: list[Tensor]) -> Tensor:
    """[groups, o, i], the bias last."""
    groups = getattr(module, "groups", 1)
    weight, *bias = gradients
    if isinstance(module, nn.Embedding):
        weight = weight.T
    if isinstance(module, nn.ConvTranspose1d):
        weight = torch.cat([half.transpose(0, 1) for half in weight.chunk(groups)])
    columns = [gradient.reshape(groups, len(weight) // groups, -1) for gradient in (weight, *bias)]
    return torch.cat(columns, -1)


def outer(rows: Tensor) -> Tensor:
    """vec(∇) vec(∇)ᵀ in each group."""
    flat = rows.flatten(1)
    return flat[:, :, None] * flat[:, None, :]


def moment(model: nn.Module, name: str, x: Tensor, points) -> Tensor:
    """E[vec(∇)vec(∇)ᵀ]; `points` gives for a sample's outputs the losses and their weights."""
    module = model.get_submodule(name)
    total = torch.zeros(())
    for sample in x:
        for loss, weight in points(model(sample.unsqueeze(0))[0]):
            gradients = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
            total = total + weight * outer(weight_matrix(module, list(gradients))) / len(x)
    return total if getattr(module, "groups", 1) > 1 else total[0]


def every_label(z: Tensor):
    """Labels of different positions are independent and their scores have mean zero: one position at a time."""
    for position in z.reshape(-1, z.shape[-1]):
        for label in range(CLASSES):
            log_p = position.log_softmax(-1)[label]
            yield -log_p, log_p.detach().exp()


@every_case
def test_the_fisher_block_is_the_mean_over_samples_and_labels(case):
    model, x = problem(case)
    exact = ExactCurvature(model, x)
    for name in exact.layers:
        torch.testing.assert_close(exact.fisher(name), moment(model, name, x, every_label))


def test_labels_of_two_positions_are_independent():
    """All label sequences with their probabilities, where the other test takes one position at a time."""
    model, x = problem("tokens")
    x = x[:, :2]

    def every_sequence(z: Tensor):
        log_p = z.log_softmax(-1)
        for first in range(CLASSES):
            for second in range(CLASSES):
                loss = -log_p[0, first] - log_p[1, second]
                yield loss, (-loss).detach().exp()

    torch.testing.assert_close(ExactCurvature(model, x).fisher("first"), moment(model, "first", x, every_sequence))


@every_case
def test_the_gradient_is_that_of_the_mean_loss_at_the_labels_given(case):
    model, x = problem(case)
    exact = ExactCurvature(model, x)
    y = torch.randint(0, CLASSES, exact.outputs.shape[:-1])
    for name in exact.layers:
        module = model.get_submodule(name)
        loss = F.cross_entropy(model(x).reshape(-1, CLASSES), y.reshape(-1), reduction="sum") / len(x)
        expected = weight_matrix(module, list(torch.autograd.grad(loss, list(module.parameters()))))
        torch.testing.assert_close(exact.gradient(name, y), expected if expected.shape[0] > 1 else expected[0])


@every_case
def test_label_pairs_average_to_the_fisher_block(case):
    model, x = problem(case)
    exact = ExactCurvature(model, x)
    for name in exact.layers:
        a, g = exact.label_pairs(name)
        a = a.dense() if isinstance(a, OneHot) else a
        rows = torch.einsum("...nso,...nsi->...noi", g, a).flatten(-2)
        torch.testing.assert_close(rows.mT @ rows / a.shape[-3], exact.fisher(name))


def test_an_activation_in_place_changes_no_pair():
    model, x = problem("perceptron")
    replaced = copy.deepcopy(model)
    model[1], replaced[1] = nn.ReLU(inplace=True), nn.ReLU()
    for one, other in zip(ExactCurvature(model, x).label_pairs("0"), ExactCurvature(replaced, x).label_pairs("0"), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(ExactCurvature(model, x).fisher("0"), ExactCurvature(replaced, x).fisher("0"))
    for one, other in zip(
        ExactCurvature(model, x).layerwise_pairs("0"), ExactCurvature(replaced, x).layerwise_pairs("0"), strict=True
    ):
        torch.testing.assert_close(one, other)


def layerwise(model: nn.Module, x: Tensor, name: str) -> Tensor:
    """E[Σₛ g gᵀ ⊗ a aᵀ] over the pairs: LNGD's eq. 3 before off-diagonal entries are left out."""
    a, g = ExactCurvature(model, x).layerwise_pairs(name)
    rows = torch.einsum("...nso,...nsi->...nsoi", g, a).flatten(-2).flatten(-3, -2)
    return rows.mT @ rows / a.shape[-3]


def test_the_layerwise_block_of_tanh_is_its_formula():
    """E(g gᵀ) = diag φ'(s)², φ' = 1 − tanh²."""
    model, x = problem("perceptron")
    expected = torch.zeros((), dtype=torch.float64)
    for sample in x:
        slope = 1 - torch.tanh(model[0](sample)).square()
        a = with_ones(sample)
        expected = expected + torch.kron(slope.square().diag(), a.outer(a)) / len(x)
    torch.testing.assert_close(layerwise(model, x, "0"), expected.detach())


def test_the_layerwise_block_of_softmax_keeps_what_couples_outputs():
    model, x = problem("perceptron")
    model[1] = nn.Softmax(-1)
    expected = torch.zeros((), dtype=torch.float64)
    for sample in x:
        p, a = model[0](sample).softmax(-1), with_ones(sample)
        jacobian = p.diag() - p.outer(p)
        expected = expected + torch.kron(jacobian.T @ jacobian, a.outer(a)) / len(x)
    torch.testing.assert_close(layerwise(model, x, "0"), expected.detach())


@pytest.mark.parametrize("groups", [1, 2])
def test_the_layerwise_block_of_a_convolution_sums_over_pixels_without_cross_terms(groups):
    model = convolutions(groups).double()
    x = batch(3, 4, 6, 6)[0]
    s = model[0](x).detach()
    slopes = (1 - s.tanh().square()).flatten(2)  # [n, channels, pixels]
    patches = F.unfold(x, 2, stride=2)  # [n, channels · kernel, pixels]
    blocks = []
    for slope, patch in zip(slopes.chunk(groups, 1), patches.chunk(groups, 1), strict=True):
        terms = [
            torch.kron(slope[n, :, pixel].square().diag(), with_ones(patch[n, :, pixel]).outer(with_ones(patch[n, :, pixel])))
            for n in range(3)
            for pixel in range(slope.shape[-1])
        ]
        blocks.append(torch.stack(terms).sum(0) / 3)
    expected = torch.stack(blocks) if groups > 1 else blocks[0]
    torch.testing.assert_close(layerwise(model, x, "0"), expected)


def test_the_model_stays_as_it_was():
    model, x = mlp(4, 5, CLASSES, dtype=torch.float32), batch(4, 4, dtype=torch.float32)[0]
    model.insert(1, nn.Dropout(0.5))
    before = copy.deepcopy(model.state_dict())
    exact = ExactCurvature(model, x)
    assert exact.fisher("0").dtype == torch.float64
    torch.testing.assert_close(exact.fisher("0"), exact.fisher("0"))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
