"""Every adapter against autograd: after `lngd.layers` a module is a linear layer."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lngd.layers import LAYERS, Layer, adapter_of, why_unsupported
from lngd.types import OneHot, joined

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


CASES = linear_cases() + conv_cases() + transposed_cases() + embedding_cases()
every_case = pytest.mark.parametrize(("kind", "options", "shape"), CASES)
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch says that even kernels cost it a copy


def make(kind: type[nn.Module], options: dict[str, Any], shape: tuple[int, ...]) -> tuple[nn.Module, Layer, Tensor]:
    module = kind(**options, dtype=torch.float64)
    x = torch.randint(0, 6, shape) if kind is nn.Embedding else torch.randn(shape, dtype=torch.float64)
    return module, LAYERS[kind](module, with_bias=options.get("bias", False)), x


@every_case
def test_outer_products_sum_to_the_gradient_of_autograd(kind, options, shape):
    module, layer, x = make(kind, options, shape)
    output = module(x)
    upstream = torch.randn_like(output)
    output.backward(upstream)
    a, g = layer.activations(x), layer.gradients(upstream)
    assert isinstance(a, OneHot) == layer.one_hot
    a = a.dense() if isinstance(a, OneHot) else a
    total = torch.einsum("...nso,...nsi->...oi", g, a)
    assert total.shape == (*([layer.groups] if layer.groups > 1 else []), layer.outputs, layer.inputs)
    for p, expected in zip(layer.parameters, layer.split(total), strict=True):
        torch.testing.assert_close(expected, p.grad)
    torch.testing.assert_close(layer.gradient(), total)


@every_case
def test_output_with_the_modules_own_weights_is_the_modules_output(kind, options, shape):
    module, layer, x = make(kind, options, shape)
    own = layer.matrix([p.detach() for p in layer.parameters])
    torch.testing.assert_close(layer.output(x, own), module(x).detach())


@every_case
def test_output_with_other_weights_is_that_of_a_module_that_has_them(kind, options, shape):
    module, layer, x = make(kind, options, shape)
    others = [torch.randn_like(p) for p in layer.parameters]
    found = layer.output(x, layer.matrix(others))
    with torch.no_grad():
        for p, other in zip(layer.parameters, others, strict=True):
            p.copy_(other)
    torch.testing.assert_close(found, module(x).detach())


@every_case
def test_split_inverts_matrix(kind, options, shape):
    _, layer, _ = make(kind, options, shape)
    tensors = [torch.randn_like(p) for p in layer.parameters]
    for tensor, back in zip(tensors, layer.split(layer.matrix(tensors)), strict=True):
        assert torch.equal(tensor, back)


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
    assert {kind for kind, _, _ in CASES} | {nn.MultiheadAttention} == set(LAYERS)


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


@pytest.mark.parametrize("module", [nn.Linear(4, 3, bias=False), nn.Embedding(4, 3), nn.Conv1d(4, 3, 2, bias=False)])
def test_matrix_of_a_weight_alone_is_a_view_of_it(module):
    """A copy of a large weight takes as long as a small step; `tests/optimizer/test_in_place.py` says that none writes to it."""
    layer = LAYERS[type(module)](module, with_bias=False)
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
    layer = LAYERS[type(module)](module, with_bias=hasattr(module, "bias"))
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
