"""Weights that are computed before use: normed, standardised, masked, scaled, cast; their parameters are layers."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from every import EVERY_STEP, METHODS
from lngd import LNGD, Empirical, SpectralLNGD
from lngd.capture.products import row_lengths
from lngd.layers import Form, Found


class Computed(nn.Module):
    """A product whose weight is made of a parameter."""

    def __init__(self, shape: tuple[int, ...], made: Callable[[Tensor], Tensor], product: Callable[..., Tensor]) -> None:
        super().__init__()
        self.weight, self.made, self.product = nn.Parameter(torch.randn(*shape).double()), made, product

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.made(self.weight))


LENGTHS = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("convolution", [False, True], ids=["linear", "conv"])
def test_scaled_rows_are_a_layer_whose_outputs_are_scaled(kind: str, convolution: bool) -> None:
    """What F of the parameter has to be is exact here: all nine methods train as with the module and its outputs scaled."""
    torch.manual_seed(1)
    if convolution:
        lengths = LENGTHS.view(-1, 1, 1, 1)
        own = Computed((4, 3, 2, 2), lambda w: lengths * w, F.conv2d)
        module: nn.Module = nn.Conv2d(3, 4, 2, bias=False, dtype=torch.float64)
        plain = nn.Sequential(module, Scaled(LENGTHS.view(-1, 1, 1)))
        shape: tuple[int, ...] = (8, 3, 4, 4)
    else:
        own = Computed((4, 6), lambda w: LENGTHS.unsqueeze(1) * w, F.linear)
        module = nn.Linear(6, 4, bias=False, dtype=torch.float64)
        plain, shape = nn.Sequential(module, Scaled(LENGTHS)), (8, 3, 6)
    module.weight.data.copy_(own.weight.data)
    heads = [nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(36 if convolution else 12, 3).double()) for _ in range(2)]
    heads[1].load_state_dict(heads[0].state_dict())
    for model in (nn.Sequential(own, heads[0]), nn.Sequential(plain, heads[1])):
        optimizer = METHODS[kind](model, warmup=0, fisher=Empirical(), **EVERY_STEP)
        for step in range(4):
            for group in optimizer.param_groups:
                group["lr"] = 0.0 if step == 0 else optimizer.defaults["lr"]  # the first one only shows how the weight is used
            torch.manual_seed(10 + step)
            x, y = torch.randn(*shape).double(), torch.randint(0, 3, (8,))
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    torch.testing.assert_close(own.weight, module.weight, rtol=1e-9, atol=1e-12)


class Scaled(nn.Module):
    def __init__(self, lengths: Tensor) -> None:
        super().__init__()
        self.lengths = lengths

    def forward(self, x: Tensor) -> Tensor:
        return self.lengths * x


def standardised(w: Tensor) -> Tensor:
    variance, mean = torch.var_mean(w.flatten(1), 1, keepdim=True)
    return ((w.flatten(1) - mean) / (variance + 1e-6).sqrt()).view_as(w)


@pytest.mark.parametrize("made", [F.normalize, standardised, lambda w: 3 * w], ids=["normed", "standardised", "scaled"])
def test_lengths_are_those_of_the_jacobian(made: Callable[[Tensor], Tensor]) -> None:
    """Against ‖J_o‖_F / √i of the written-out Jacobian of each row, which signs estimate."""
    torch.manual_seed(2)
    weight = nn.Parameter(torch.randn(5, 200).double() * torch.tensor([0.1, 0.5, 1.0, 2.0, 3.0]).double().unsqueeze(1))
    found = Found(weight, Form())
    jacobian = torch.autograd.functional.jacobian(made, weight)  # o i o i
    expected = torch.stack([jacobian[o, :, o, :].norm() / 200**0.5 for o in range(5)])
    lengths = row_lengths(found.adapter(found.module, with_bias=False), made(weight))
    torch.testing.assert_close(lengths, expected, rtol=0.02, atol=0)


def pruned(module: nn.Module) -> nn.Module:
    return prune.random_unstructured(module, "weight", amount=0.8)


def by_batch_norm(w: Tensor) -> Tensor:
    """As timm standardises kernels."""
    return F.batch_norm(w.reshape(1, len(w), -1), None, None, training=True, eps=1e-6).reshape_as(w)


IMAGES, ROWS = (8, 3, 7, 7), (8, 6)
KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "batch norm": (lambda: Computed((4, 3, 3, 3), by_batch_norm, F.conv2d), IMAGES),
    "var_mean": (lambda: Computed((4, 3, 3, 3), standardised, F.conv2d), IMAGES),
    "transposed": (lambda: Computed((3, 4, 3, 3), lambda w: 2 * w, F.conv_transpose2d), IMAGES),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), IMAGES),
    "weight norm of a transposed": (
        lambda: parametrizations.weight_norm(nn.ConvTranspose2d(3, 4, 3, 2, output_padding=1)),
        IMAGES,
    ),
    "weight norm in groups": (lambda: parametrizations.weight_norm(nn.Conv2d(3, 6, 3, groups=3)), IMAGES),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), IMAGES),
    "cosines": (lambda: Computed((5, 6), F.normalize, lambda x, w: F.normalize(x) @ w.T), ROWS),
    "cast": (lambda: Computed((5, 6), lambda w: w.float().double(), F.linear), ROWS),
    "negative": (lambda: Computed((5, 6), lambda w: -w, F.linear), ROWS),
    "pruned": (lambda: pruned(nn.Linear(6, 5)), ROWS),
    "in pieces": (lambda: Computed((4, 6), F.normalize, by_halves), ROWS),
}


def by_halves(x: Tensor, w: Tensor) -> Tensor:
    upper, lower = w.chunk(2)
    return torch.cat([F.linear(x, upper), F.linear(x, lower)], -1)


@pytest.mark.parametrize("method", [LNGD, SpectralLNGD])
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_computation_have_curvature(kind: str, method: type[LNGD]) -> None:
    torch.manual_seed(3)
    build, shape = KINDS[kind]
    model = build().double()
    optimizer = method(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(*shape).double()).sin().mean().backward()
        optimizer.step()
    matrices = [o for o in optimizer.summary() if sum(side > 1 for side in o.shape) > 1]
    assert [o.kind for o in matrices] == ["curvature"]
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


MOVED = {
    "transposed": lambda w: w.T.contiguous(),
    "rolled": lambda w: w.roll(1, 0),
    "mixed": lambda w: torch.linalg.matrix_exp(w - w.T),
}


@pytest.mark.parametrize("kind", MOVED)
def test_what_moves_entries_is_left_to_adamw(kind: str) -> None:
    model = Computed((6, 6), MOVED[kind], F.linear)
    optimizer = SpectralLNGD(model)
    model(torch.randn(5, 6).double()).sin().sum().backward()
    with pytest.warns(UserWarning, match="no curvature for Computed"):
        optimizer.step()
    assert [o.kind for o in optimizer.summary()] == ["fallback"]


def test_a_checkpoint_goes_on_as_the_run_does() -> None:
    torch.manual_seed(4)
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.Flatten(), nn.Linear(100, 3)).double()
    optimizer = LNGD(model)
    generator = torch.Generator().manual_seed(0)

    def step(net: nn.Module, opt: torch.optim.Optimizer, x: Tensor) -> None:
        opt.zero_grad()
        F.cross_entropy(net(x), torch.arange(6) % 3).backward()
        opt.step()

    data = [torch.randn(6, 3, 7, 7, generator=generator).double() for _ in range(8)]
    for x in data[:4]:
        step(model, optimizer, x)
    other = copy.deepcopy(model)
    fresh = LNGD(other)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for x in data[4:]:
        step(model, optimizer, x)
        step(other, fresh, x)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_activations_that_are_products_are_no_weights() -> None:
    """Keys of attention are products of what they are made of, whatever their size."""

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.query(x), F.normalize(self.key(x[:4])))

    model = Attending()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = SpectralLNGD(model)
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).sin().sum().backward()
            optimizer.step()
    assert set(optimizer.blocks) == {"query", "key"}
