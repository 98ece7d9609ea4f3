"""check_layer lets a right adapter pass and says of a wrong one what is wrong, by how much, and what to do."""

import copy
import inspect
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lngd import LNGD, Layer, check_layer
from lngd.layers import EmbeddingLayer, LinearLayer
from lngd.types import OneHot

X = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))


class ForgetsTheBias(LinearLayer):
    def activations(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)


class SamplesSecond(LinearLayer):
    def activations(self, x: Tensor) -> Tensor:
        return super().activations(x).transpose(0, 1)

    def gradients(self, grad: Tensor) -> Tensor:
        return super().gradients(grad).transpose(0, 1)


class SplitsPositions(LinearLayer):
    def activations(self, x: Tensor) -> Tensor:
        return super().activations(x).flatten(0, 1).unsqueeze(1)


class Scaled(LinearLayer):
    """The gradient is right, a and g are not."""

    def activations(self, x: Tensor) -> Tensor:
        return 2 * super().activations(x)

    def gradients(self, grad: Tensor) -> Tensor:
        return super().gradients(grad) / 2


class Reversed(LinearLayer):
    def activations(self, x: Tensor) -> Tensor:
        return super().activations(x).flip(1)


class PutsOutNoBias(LinearLayer):
    def output(self, x: Tensor, matrix: Tensor) -> Tensor:
        return F.linear(x.to(self.dtype), self.split(matrix)[0])


class PutsOutItsOwn(LinearLayer):
    def output(self, x: Tensor, matrix: Tensor) -> Tensor:
        return F.linear(x.to(self.dtype), self.weight, self.bias)


class KeepsTheDtype(LinearLayer):
    def activations(self, x: Tensor) -> Tensor:
        return self.with_ones(x)


class GradientsOfAnyDtype(LinearLayer):
    def gradients(self, grad: Tensor) -> Tensor:
        return grad


class OutputOfAnyDtype(LinearLayer):
    def output(self, x: Tensor, matrix: Tensor) -> Tensor:
        return F.linear(x, *(p.to(x.dtype) for p in self.split(matrix)))


class SplitsWrongly(LinearLayer):
    def matrix_as_weight(self, matrix: Tensor) -> Tensor:
        return matrix.flip(0)


class TakesOutputsForInputs(LinearLayer):
    def weight_as_matrix(self, weight: Tensor) -> Tensor:
        return weight.mT


class SaysOneHot(LinearLayer):
    one_hot = True


class RefusesEveryCall(LinearLayer):
    def refuses_call(self, args: tuple, kwargs: dict) -> str:
        return "no call suits it"


class NamedOtherwise(LinearLayer):
    weight_name = "kernel"


class NoSamples(LinearLayer):
    def gradients(self, grad: Tensor) -> Tensor:
        return grad.flatten()


WRONG = {
    ForgetsTheBias: r"a has shape \[5, 3, 4\], not \[5, 3, 5\]; .*`with_ones` adds the bias's input",
    SamplesSecond: r"g has shape \[3, 5, 2\], not \[5, 5, 2\]; `gradients` must give \[\*group, n, s, o\]",
    SplitsPositions: r"a has shape \[15, 1, 4\], not \[5, 3, 4\]",
    Scaled: r"W a is wrong by up to \d.*, where the largest entry is \d.*`activations` must be what the weights multiply",
    Reversed: r"W a is wrong by up to \d",
    PutsOutNoBias: r"output\(x, matrix\) for the module's own weights is wrong by up to 0\.\d+.*must give what Linear puts out",
    PutsOutItsOwn: r"output\(x, matrix\) for other weights is wrong by up to \d",
    KeepsTheDtype: r"`activations` gives torch.float32 .*\.to\(self\.dtype\)",
    GradientsOfAnyDtype: r"`gradients` gives torch.float32",
    OutputOfAnyDtype: r"`output` gives torch.float32",
    SplitsWrongly: r"split\(matrix\(parameters\)\) is wrong by up to \d.*`matrix_as_weight` must be the inverse",
    TakesOutputsForInputs: r"weight_as_matrix of a weight of shape \[2, 4\] has shape \[4, 2\], not \[2, 4\]",
    SaysOneHot: r"SaysOneHot says one_hot = True, but `activations` gives a Tensor",
    RefusesEveryCall: "RefusesEveryCall refuses the call: no call suits it",
    NamedOtherwise: r"Linear has no parameter 'kernel' of its own: set NamedOtherwise.weight_name to one of 'weight', 'bias'",
    NoSamples: r"g has shape \[30\], not \[5, 2\]",
}


@pytest.mark.parametrize("adapter", WRONG)
def test_a_wrong_adapter_is_told_what_is_wrong_and_by_how_much(adapter):
    with pytest.raises(ValueError, match=WRONG[adapter]):
        check_layer(nn.Linear(4, 2), X, adapter=adapter)


class Normalised(nn.Linear):
    """Not linear in its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight / self.weight.norm(), self.bias)


class NormalisedLayer(LinearLayer):
    def output(self, x: Tensor, matrix: Tensor) -> Tensor:
        weight, *bias = self.split(matrix)
        return F.linear(x.to(self.dtype), weight / weight.norm(), *bias)


class Centred(nn.Linear):
    """Whose samples depend on each other."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class CentredLayer(LinearLayer):
    def activations(self, x: Tensor) -> Tensor:
        return super().activations(x - x.mean(0))

    def output(self, x: Tensor, matrix: Tensor) -> Tensor:
        return super().output(x - x.mean(0), matrix)


class Pair(nn.Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x), x


class Detached(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class HalfGradient(nn.Linear):
    """Its forward is linear, its gradient another one's."""

    def forward(self, x: Tensor) -> Tensor:
        output = super().forward(x)
        return output / 2 + output.detach() / 2


UNFIT = {
    Normalised: (LinearLayer, r"output\(x, matrix\) for the module's own weights is wrong by up to"),
    NormalisedLayer: (NormalisedLayer, r"for a sum of weights is wrong by up to \d.*Normalised must be linear in its weights"),
    Centred: (CentredLayer, r"Σ g aᵀ of sample 0, which must not depend on others, is wrong by up to"),
    Pair: (LinearLayer, "Pair gives a tuple: a layer with curvature gives one tensor"),
    Detached: (LinearLayer, "the output of Detached has no gradient"),
    HalfGradient: (LinearLayer, r"Σ g aᵀ is wrong by up to \d.*it must be the gradient of 'weight'"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_a_module_that_is_no_linear_layer_is_told_why(kind):
    adapter, message = UNFIT[kind]
    module = Normalised(4, 2) if kind is NormalisedLayer else kind(4, 2)
    with pytest.raises(ValueError, match=message):
        check_layer(module, X, adapter=adapter)


class OrdinaryIndices(EmbeddingLayer):
    """Takes padding for a word."""

    def activations(self, x: Tensor) -> OneHot:
        return OneHot(x, len(self.weight), self.dtype)


class Dense(EmbeddingLayer):
    def activations(self, x: Tensor) -> Tensor:
        return super().activations(x).dense()


def test_an_adapter_that_forgets_the_padding_of_an_embedding_is_found():
    x = torch.tensor([[0, 1, 2], [3, 0, 1]])
    check_layer(nn.Embedding(4, 2, padding_idx=0), x)
    check_layer(nn.Embedding(4, 2), x, adapter=OrdinaryIndices)
    with pytest.raises(ValueError, match=r"Σ g aᵀ is wrong by up to"):
        check_layer(nn.Embedding(4, 2, padding_idx=0), x, adapter=OrdinaryIndices)
    with pytest.raises(ValueError, match="says one_hot = True, but `activations` gives a Tensor"):
        check_layer(nn.Embedding(4, 2), x, adapter=Dense)


def test_a_bias_that_starts_at_zero_hides_nothing():
    module = nn.Linear(4, 2)
    nn.init.zeros_(module.bias)
    with pytest.raises(ValueError, match=r"output\(x, matrix\) for other weights is wrong"):
        check_layer(module, X, adapter=PutsOutNoBias)


def test_attention_is_read_off_the_graph_and_not_checked():
    with pytest.raises(
        ValueError, match=r"^the in-projection of MultiheadAttention is read off the autograd graph: .* not check"
    ):
        check_layer(nn.MultiheadAttention(4, 2), X)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.LayerNorm(4), r"^LayerNorm has no adapter: register_layer\(LayerNorm, adapter\) gives it one$"),
        (lambda: nn.Linear(4, 0), r"^this Linear has no curvature: its weight is empty, of shape \(0, 4\)$"),
        (lambda: nn.Embedding(4, 2, sparse=True), "^this Embedding has no curvature: its gradient is sparse$"),
    ],
)
def test_a_module_without_curvature_is_told_why(make, message):
    with pytest.raises(ValueError, match=message):
        check_layer(make(), X)


@pytest.mark.parametrize("x", [X[:1], X[:0], X[0, 0, 0], X[0, 0], X / 0])
def test_the_inputs_are_a_batch_of_finite_numbers(x):
    message = "no batch dimension" if x.dim() == 1 else "are no two samples of finite numbers"
    with pytest.raises(ValueError, match=message):
        check_layer(nn.Linear(4, 2), x)


@pytest.mark.parametrize(
    ("adapter", "message"), [(nn.Linear, "Linear.*is no adapter"), (Layer, "write activations, gradients, output")]
)
def test_what_is_no_complete_adapter_is_refused(adapter, message):
    with pytest.raises(TypeError, match=message):
        inspect.unwrap(check_layer)(nn.Linear(4, 2), X, adapter=adapter)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_module_of_any_dtype_is_checked_and_left_as_it_was(dtype):
    module = nn.Conv2d(4, 6, 3, groups=2, padding=1, dtype=dtype).eval()
    module.bias.requires_grad_(False)
    before, state = copy.deepcopy(module), torch.get_rng_state()
    assert check_layer(module, torch.randn(2, 4, 5, 5, generator=torch.Generator())) is None
    assert torch.equal(torch.get_rng_state(), state)
    for p, q in zip(module.parameters(), before.parameters(), strict=True):
        assert torch.equal(p, q)
        assert (p.dtype, p.requires_grad, p.grad) == (dtype, q.requires_grad, None)
    assert not module.training


def test_a_layer_of_a_model_in_training_is_checked_without_a_trace():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    optimizer = LNGD(model)
    model(X[:, 0]).sum().backward()
    expected = SimpleNamespace(grad=model[0].weight.grad.clone(), called=len(model[0]._forward_hooks))
    check_layer(model[0], X)
    assert torch.equal(model[0].weight.grad, expected.grad)
    assert len(model[0]._forward_hooks) == expected.called
    optimizer.step()


def test_gradients_need_not_be_enabled():
    with torch.no_grad():
        check_layer(nn.Linear(4, 2), X)


def test_many_samples_and_inputs_of_any_scale_pass():
    check_layer(nn.Linear(4, 2), 1e6 * torch.randn(100, 4))
    check_layer(nn.Linear(4, 2), 1e-6 * torch.randn(9, 4))
