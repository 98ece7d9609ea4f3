"""Every adapter against autograd: after `lngd.layers` a module is a linear layer."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lngd import KFAC, LNGD, SpectralLNGD
from lngd.layers import BY_LOOKS, LAYERS, LinearLayer, adapter_of, check_layer, why_unsupported
from lngd.types import joined

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
SPACE = {1: (9,), 2: (6, 7), 3: (5, 6, 4)}
KERNEL, STRIDE, DILATION = (3, 2, 1), (2, 1, 2), (1, 2, 1)
MODES = ("zeros", "reflect", "replicate", "circular")
Case = tuple[type[nn.Module], dict[str, Any], tuple[int, ...]]


def linear_cases() -> list[Case]:
    shapes = [(5, 4), (5, 3, 4), (5, 3, 2, 4)]
    return [(nn.Linear, {"in_features": 4, "out_features": 3, "bias": bias}, shape) for shape in shapes for bias in (True, False)]


def conv_geometry(space: int) -> list[dict[str, Any]]:
    strided = [
        {"kernel_size": KERNEL[:space], "stride": stride, "dilation": dilation, "padding": padding, "padding_mode": mode}
        for stride, dilation, padding, mode in product((1, STRIDE[:space]), (1, DILATION[:space]), (0, 1, "valid"), MODES)
        if mode == "zeros" or padding == 1
    ]
    same = [
        {"kernel_size": kernel, "dilation": dilation, "padding": "same", "padding_mode": mode}
        for kernel, dilation, mode in product((2, 3, KERNEL[:space]), (1, DILATION[:space]), MODES)
    ]
    return strided + same


def conv_cases() -> list[Case]:
    cases = []
    for space, geometry in ((s, g) for s in CONVOLUTIONS for g in conv_geometry(s)):
        for groups, bias in ((1, True), (2, False), (4, True)):
            options = {"in_channels": 4, "out_channels": 8, "groups": groups, "bias": bias, **geometry}
            cases.append((CONVOLUTIONS[space], options, (2, 4, *SPACE[space])))
    return cases


def transposed_geometry(space: int) -> list[dict[str, Any]]:
    """Every combination that torch accepts: output padding is smaller than the stride or the dilation."""
    kernels, strides, dilations = (1, KERNEL[:space]), (1, STRIDE[:space], 3), (1, DILATION[:space])
    found = [
        {"kernel_size": kernel, "stride": stride, "dilation": dilation, "padding": padding, "output_padding": extra}
        for kernel, stride, dilation, padding in product(kernels, strides, dilations, (0, 1, 2))
        for extra in ((0, 1, 2) if stride == 3 else (0,))
    ]
    return [*found, {"kernel_size": 2, "stride": STRIDE[:space], "output_padding": tuple(s - 1 for s in STRIDE[:space])}]


def transposed_cases() -> list[Case]:
    cases = []
    for space, geometry in ((s, g) for s in TRANSPOSED for g in transposed_geometry(s)):
        for groups, bias in ((1, True), (2, False), (4, True)):
            options = {"in_channels": 4, "out_channels": 8, "groups": groups, "bias": bias, **geometry}
            cases.append((TRANSPOSED[space], options, (2, 4, *(size + 1 for size in SPACE[space]))))
    return cases


def embedding_cases() -> list[Case]:
    shapes = [(5,), (5, 4), (5, 3, 2), (5, 1), (2, 20)]
    sizes = {"num_embeddings": 6, "embedding_dim": 3}
    return [(nn.Embedding, {**sizes, "padding_idx": padding}, shape) for shape in shapes for padding in (None, 0, 2, -1)]


class Conv1D(nn.Module):
    """As transformers has it for GPT-2: a linear layer with its weight stored [in, out]."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.size()[:-1], self.nf)


def conv1d_cases() -> list[Case]:
    return [(Conv1D, {"nf": 3, "nx": nx}, (*shape, nx)) for nx in (3, 4) for shape in [(5,), (5, 3), (5, 3, 2)]]


CASES = linear_cases() + conv1d_cases() + conv_cases() + transposed_cases() + embedding_cases()
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch says that even kernels cost it a copy


@pytest.mark.parametrize(("kind", "options", "shape"), CASES)
def test_an_adapter_holds_against_autograd(kind, options, shape):
    check_layer(kind(**options), torch.randint(0, 6, shape) if kind is nn.Embedding else torch.randn(shape))


def test_an_embeddings_padding_is_no_input():
    layer = LAYERS[nn.Embedding](nn.Embedding(4, 2, padding_idx=1), with_bias=False)
    a = layer.activations(torch.tensor([[0, 1, 3]]))
    assert a.shape == (1, 3, 4)
    assert torch.equal(a.dense(), torch.tensor([[[1.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]]))


def test_an_embedding_takes_any_integer_that_torch_takes():
    layer = LAYERS[nn.Embedding](nn.Embedding(4, 2), with_bias=False)
    x = torch.tensor([[0, 3]], dtype=torch.int32)
    assert torch.equal(layer.activations(x).places, x.long())
    assert layer.output(x, torch.ones(2, 4)).shape == (1, 2, 2)


def test_several_calls_are_joined_as_positions():
    layer = LAYERS[nn.Embedding](nn.Embedding(4, 2), with_bias=False)
    one, two = torch.randint(0, 4, (3, 2)), torch.randint(0, 4, (3, 5))
    together = joined([layer.activations(one), layer.activations(two)])
    assert torch.equal(together.dense(), torch.cat([layer.activations(x).dense() for x in (one, two)], dim=-2))


OPTIONS = {"max_norm": 1.0, "scale_grad_by_freq": True, "sparse": True}
REASONS = {"max_norm": "max_norm", "scale_grad_by_freq": "scale_grad_by_freq", "sparse": "sparse"}


@pytest.mark.parametrize("option", OPTIONS)
def test_an_embedding_that_is_no_linear_layer_has_no_adapter(option):
    module = nn.Embedding(5, 2, **{option: OPTIONS[option]})
    assert adapter_of(module) is None
    assert REASONS[option] in why_unsupported(module)
    assert why_unsupported(nn.Embedding(5, 2)) is None


@pytest.mark.parametrize("space", TRANSPOSED)
def test_a_transposed_convolution_refuses_a_call_with_output_size(space):
    layer = LAYERS[TRANSPOSED[space]](TRANSPOSED[space](2, 2, 3, stride=2), with_bias=True)
    x, size = torch.zeros(1, 2, *SPACE[space]), [20] * space
    assert "output_size" in layer.refuses_call((x, size), {})
    assert "output_size" in layer.refuses_call((x,), {"output_size": size})
    assert "output_size" in layer.refuses_call((), {"input": x, "output_size": size})
    assert layer.refuses_call((x,), {}) is layer.refuses_call((x, None), {}) is None
    assert layer.refuses_call((), {"input": x, "output_size": None}) is None


def test_other_layers_refuse_no_call():
    assert LAYERS[nn.Linear](nn.Linear(3, 2), with_bias=True).refuses_call((torch.zeros(1, 3),), {}) is None


def test_every_row_of_the_table_has_cases():
    """Attention's are in tests/test_attention.py: what its weight multiplies is no input of its module."""
    assert {kind for kind, _, _ in CASES} - {Conv1D} | {nn.MultiheadAttention} == set(LAYERS)
    assert list(BY_LOOKS.values()) == [adapter_of(Conv1D(3, 4))]


def test_a_frozen_bias_is_no_input():
    module = nn.Linear(4, 3, dtype=torch.float64)
    layer = LAYERS[nn.Linear](module, with_bias=False)
    assert layer.inputs == 4
    assert layer.parameters == [module.weight]


def test_a_missing_gradient_counts_as_zero():
    module = nn.Linear(4, 3)
    layer = LAYERS[nn.Linear](module, with_bias=True)
    module.weight.grad = torch.ones_like(module.weight)
    assert torch.equal(layer.gradient()[:, :-1], torch.ones(3, 4))
    assert torch.equal(layer.gradient()[:, -1], torch.zeros(3))


@pytest.mark.parametrize("groups", [1, 2])
def test_the_gradient_is_what_autograd_left_as_one_matrix(groups):
    module = nn.Conv1d(4, 2, 3, groups=groups)
    layer = LAYERS[nn.Conv1d](module, with_bias=True)
    module(torch.randn(2, 4, 5)).square().sum().backward()
    assert layer.gradient().shape == (*[groups][: groups - 1], 2 // groups, 12 // groups + 1)
    for p, part in zip(layer.parameters, layer.split(layer.gradient()), strict=True):
        assert torch.equal(part, p.grad)


@pytest.mark.parametrize(
    "module", [nn.Linear(4, 3, bias=False), Conv1D(3, 4), nn.Embedding(4, 3), nn.Conv1d(4, 3, 2, bias=False)]
)
def test_matrix_of_a_weight_alone_is_a_view_of_it(module):
    """A copy of a large weight takes as long as a small step; `tests/optimizer/test_in_place.py` says that none writes to it."""
    layer = adapter_of(module)(module, with_bias=False)
    assert layer.matrix([module.weight.detach()]).data_ptr() == module.weight.data_ptr()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_statistics_are_float32_for_parameters_of_low_precision(dtype):
    module = nn.Linear(4, 3, dtype=dtype)
    layer = LAYERS[nn.Linear](module, with_bias=True)
    assert layer.activations(torch.randn(2, 4, dtype=dtype)).dtype == torch.float32
    assert layer.gradients(torch.randn(2, 3, dtype=dtype)).dtype == torch.float32
    assert layer.matrix([p.detach() for p in layer.parameters]).dtype == torch.float32


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(4, 3), (4,)),
        (Conv1D(3, 4), (4,)),
        (nn.Conv1d(4, 3, 1), (4, 5)),
        (nn.Conv2d(4, 3, 1), (4, 5, 5)),
        (nn.Conv3d(4, 3, 1), (4, 5, 5, 5)),
        (nn.ConvTranspose1d(4, 3, 1), (4, 5)),
        (nn.ConvTranspose2d(4, 3, 1), (4, 5, 5)),
        (nn.ConvTranspose3d(4, 3, 1), (4, 5, 5, 5)),
        (nn.Embedding(4, 3), ()),
    ],
)
def test_an_input_without_batch_dimension_is_refused_by_name(module, shape):
    layer = adapter_of(module)(module, with_bias=hasattr(module, "bias"))
    with pytest.raises(ValueError, match=r"'body\.3'.*no batch dimension"):
        layer.check_batch(torch.zeros(shape), "body.3")
    layer.check_batch(torch.zeros(1, *shape), "body.3")


class Plain(nn.Linear):
    """A subclass that computes what its parent does."""


class Scaled(nn.Linear):
    """A subclass with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_a_subclass_counts_as_its_parent_unless_it_has_a_forward_of_its_own():
    assert adapter_of(Plain(2, 2)) is LAYERS[nn.Linear]
    assert adapter_of(Scaled(2, 2)) is None
    assert adapter_of(nn.LayerNorm(2)) is None


UNBATCHED = {
    "a vector": (lambda: nn.Linear(4, 3), (4,)),
    "a sequence of channels": (lambda: nn.Conv1d(4, 3, 2), (4, 6)),
    "an image": (lambda: nn.Conv2d(2, 3, 2), (2, 5, 5)),
    "an image, transposed": (lambda: nn.ConvTranspose2d(2, 3, 2), (2, 5, 5)),
}


@pytest.mark.parametrize("case", UNBATCHED)
@pytest.mark.parametrize("method", [LNGD, SpectralLNGD, KFAC])
def test_a_call_without_batch_dimension_is_a_batch_of_one(case, method):
    make, shape = UNBATCHED[case]
    runs = []
    for batched in (True, False):
        torch.manual_seed(0)
        model = make().double()
        optimizer = method(model, fisher="empirical")
        for step in range(3):
            x = torch.randn(shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
            optimizer.zero_grad()
            model(x.unsqueeze(0) if batched else x).square().mean().backward()
            optimizer.step()
        assert all(block.ready for block in optimizer.blocks.values())
        runs.append([p.detach() for p in model.parameters()])
    for one, other in zip(*runs, strict=True):
        torch.testing.assert_close(one, other)


EMPTY = {
    "no outputs": lambda: nn.Linear(16, 0),
    "no inputs": lambda: nn.Linear(0, 4),
    "no inputs, no bias": lambda: nn.Linear(0, 4, bias=False),
    "no words": lambda: nn.Embedding(0, 4),
    "embedded in nothing": lambda: nn.Embedding(4, 0),
    "no channels": lambda: nn.Conv2d(4, 0, 3),
    "no channels, transposed": lambda: nn.ConvTranspose2d(4, 0, 3),
}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("case", EMPTY)
def test_an_empty_layer_has_no_curvature_and_says_so(case):
    module = EMPTY[case]()
    assert adapter_of(module) is None
    assert "its weight is empty, of shape" in why_unsupported(module)
    layer = LAYERS[type(module)](module, with_bias=False)
    assert layer.groups * layer.outputs * layer.inputs == 0


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_model_with_an_empty_head_trains():
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.empty, self.head = nn.Linear(8, 16), nn.Linear(16, 0), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.body(x).tanh()
            return torch.cat([self.head(h), self.empty(h)], 1)

    model, x = TwoHeads(), torch.randn(32, 8)
    optimizer = LNGD(model)
    before = model.head.weight.clone()
    nn.functional.cross_entropy(model(x), x[:, :4].argmax(1)).backward()
    optimizer.step()
    assert not torch.equal(model.head.weight, before)


def a_conv1d(**attributes: Any) -> type[nn.Module]:
    """A class of that name."""
    return type("Conv1D", (attributes.pop("parent", Conv1D),), attributes)


def with_weight(shape: tuple[int, ...], bias: tuple[int, ...] | None = (3,), **attributes: int) -> nn.Module:
    """A module that is called Conv1D and holds something else."""
    module = Conv1D(3, 4)
    module.weight = nn.Parameter(torch.zeros(shape))
    module.bias = None if bias is None else nn.Parameter(torch.zeros(bias))
    vars(module).update(attributes)
    return module


def test_gpt2s_linear_layers_are_recognised_without_their_library():
    kind = a_conv1d(forward=lambda self, x: x @ self.weight + self.bias)
    assert adapter_of(Conv1D(3, 4)) is adapter_of(kind(3, 4)) is BY_LOOKS[next(iter(BY_LOOKS))]
    assert adapter_of(type("Named", (Conv1D,), {})(3, 4)) is adapter_of(Conv1D(3, 4))


@pytest.mark.parametrize(
    "module",
    [
        with_weight((3, 4)),
        with_weight((4, 3, 1)),
        with_weight((3,)),
        with_weight((4, 3), nf=4),
        with_weight((4, 3), bias=None),
        with_weight((4, 3), bias=(4,)),
        type("Own", (Conv1D,), {"forward": lambda self, x: 2 * Conv1D.forward(self, x)})(3, 4),
        type("Other", (Conv1D,), {"__name__": "Conv1D", "forward": lambda _, x: x})(3, 4),
        a_conv1d(parent=nn.Conv1d, forward=lambda _, x: x)(4, 3, 1),
        a_conv1d(parent=nn.Identity)(),
    ],
)
def test_another_layout_is_not_taken_for_gpt2s(module):
    assert adapter_of(module) is None
    assert why_unsupported(module) == f"no curvature for {type(module).__name__}"


def test_a_convolution_that_is_called_conv1d_stays_one():
    assert adapter_of(a_conv1d(parent=nn.Conv1d)(4, 3, 1)) is LAYERS[nn.Conv1d]
    assert adapter_of(nn.Conv1d(4, 3, 1)) is LAYERS[nn.Conv1d]


def test_a_model_of_gpt2s_linear_layers_has_curvature_and_learns():
    model, x = nn.Sequential(Conv1D(16, 8), nn.Tanh(), Conv1D(4, 16)), torch.randn(32, 8)
    optimizer, losses = LNGD(model), []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), x[:, :4].argmax(1))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert {o.kind for o in optimizer.summary()} == {"curvature"}
    assert losses[-1] < 0.7 * losses[0]


class Operations(TorchDispatchMode):
    """Their names, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


SEQUENCE, ROW = torch.randn(5, 3, 4), torch.randn(5, 4)
WITH_BIAS, WITHOUT = LinearLayer(nn.Linear(4, 3), with_bias=True), LinearLayer(nn.Linear(4, 3), with_bias=False)
ORDINARY = {
    "activations": (lambda: WITHOUT.activations(SEQUENCE), []),
    "activations of vectors": (lambda: WITHOUT.activations(ROW), ["view"]),
    "activations with bias": (lambda: WITH_BIAS.activations(SEQUENCE), ["constant_pad_nd"]),
    "gradients": (lambda: WITH_BIAS.gradients(SEQUENCE), []),
    "matrix": (lambda: WITHOUT.matrix([WITHOUT.weight.detach()]), []),
    "matrix with bias": (lambda: WITH_BIAS.matrix([p.detach() for p in WITH_BIAS.parameters]), ["view", "cat"]),
    "split": (lambda: WITHOUT.split(torch.ones(3, 4)), ["ones"]),
    "split with bias": (lambda: WITH_BIAS.split(torch.ones(3, 5)), ["ones", "slice", "select"]),
    "output": (lambda: WITHOUT.output(ROW, torch.ones(3, 4)), ["ones", "t", "mm"]),
    "output with bias": (lambda: WITH_BIAS.output(ROW, torch.ones(3, 5)), ["ones", "slice", "select", "t", "addmm"]),
}


@pytest.mark.parametrize("what", ORDINARY)
def test_a_linear_layer_issues_no_operation_that_changes_nothing(what):
    call, expected = ORDINARY[what]
    with Operations() as seen:
        call()
    assert [name for name in seen.names if name != "detach"] == expected


def test_an_unpadded_convolution_copies_no_input():
    layer = LAYERS[nn.Conv1d](nn.Conv1d(4, 3, 2), with_bias=False)
    with Operations() as seen:
        layer.output(SEQUENCE.mT, torch.ones(3, 8))
    assert "constant_pad_nd" not in seen.names


class Styled(nn.Module):
    """A layer on one learned vector, beside others on a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.style, self.mix, self.head = nn.Parameter(torch.randn(5)), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x * self.mix(self.style))


@pytest.mark.parametrize("method", [LNGD, SpectralLNGD, KFAC])
def test_a_vector_beside_a_batch_is_a_batch_of_one(method):
    torch.manual_seed(1)
    model = Styled()
    optimizer = method(model)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(8, 5)), torch.arange(8) % 3).backward()
        optimizer.step()
    assert {name for name, block in optimizer.blocks.items() if block.measured} == {"mix", "head"}
