"""The spectral step's direction: the polar factor of the whitened gradient, carried back, by two ways of computing it."""

from collections.abc import Callable
from copy import copy

import pytest
import torch
from torch import Tensor, nn

from lngd.curvature import CurvatureBlock, SpectralBlock
from lngd.curvature.lngd_kronecker import LNGDKroneckerBlock
from lngd.curvature.spectral import SpectralKroneckerBlock
from lngd.layers import ConvLayer
from lngd.linalg import Damping, inverse_root_of_symmetric, times_left
from lngd.linalg.polar import COLLIDING, CONSTANT, POLES, inverse_root

DOUBLE = torch.float64
WAYS = {"Cholesky": lambda block: block.orthogonalise, "products": lambda block: lambda m: CurvatureBlock.orthogonalise(block, m)}
every_way = pytest.mark.parametrize("way", WAYS)


def linear(outputs: int, inputs: int, max_dim: int) -> SpectralBlock:
    torch.manual_seed(0)
    block = SpectralBlock(max_dim)
    a = torch.randn(7, 3, inputs, dtype=DOUBLE) * torch.linspace(0.3, 2, inputs, dtype=DOUBLE)
    block.update(block.measure(a, torch.randn(7, 3, outputs, dtype=DOUBLE)), 0.9)
    return block


def convolution(channels: int, outputs: int, max_dim: int, *, groups: int = 1, bias: bool = True) -> CurvatureBlock:
    torch.manual_seed(0)
    module = nn.Conv2d(channels, outputs, 3, groups=groups, bias=bias, dtype=DOUBLE)
    layer, block = ConvLayer(module, with_bias=bias), SpectralKroneckerBlock(max_dim, 9)
    x = torch.randn(6, channels, 6, 5, dtype=DOUBLE)
    block.update(block.measure(layer.patches(x), layer.gradients(torch.randn_like(module(x)))), 0.9)
    return block


BLOCKS: dict[str, Callable[[], CurvatureBlock]] = {
    "wide": lambda: linear(5, 8, 64),
    "tall": lambda: linear(9, 4, 64),
    "wide, in blocks": lambda: linear(7, 11, 4),
    "tall, in blocks": lambda: linear(11, 7, 4),
    "wide convolution": lambda: convolution(4, 6, 64),
    "tall convolution": lambda: convolution(1, 12, 64),
    "tall convolution without bias": lambda: convolution(1, 12, 64, bias=False),
    "tall convolution in blocks": lambda: convolution(3, 40, 2),
    "in groups": lambda: convolution(4, 6, 64, groups=2),
}


def symmetric_root(matrix: Tensor, power: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.pow(power).unsqueeze(-2) @ vectors.mT


@every_way
@pytest.mark.parametrize("name", BLOCKS)
def test_the_direction_is_the_polar_factor_in_the_blocks_own_metric(name: str, way: str) -> None:
    block = BLOCKS[name]()
    block.refresh(Damping(0.5))
    o, i = block.shape
    group = block.psi_inverse.shape[:1] if name == "in groups" else ()
    torch.manual_seed(1)
    gradient = torch.randn(*group, o, i, dtype=DOUBLE)
    psi = times_left(block.psi_inverse, torch.eye(o, dtype=DOUBLE).expand(*group, o, o))
    phi = block.by_phi(torch.eye(i, dtype=DOUBLE).expand(*group, i, i))
    u, _, v = torch.linalg.svd(symmetric_root(psi, 0.5) @ gradient @ symmetric_root(phi, 0.5), full_matrices=False)
    direction = WAYS[way](block)(gradient)
    values = u.mT @ symmetric_root(psi, -0.5) @ direction @ symmetric_root(phi, -0.5) @ v.mT
    diagonal = values.diagonal(dim1=-2, dim2=-1)
    assert ((diagonal > 0.8) & (diagonal < 1.2)).all()
    torch.testing.assert_close(values, torch.diag_embed(diagonal), rtol=0, atol=1e-6)
    exact = symmetric_root(psi, 0.5) @ u @ v @ symmetric_root(phi, 0.5)
    assert torch.nn.functional.cosine_similarity(direction.flatten(), exact.flatten(), dim=0) > 0.98


@pytest.mark.parametrize("block", [linear(5, 8, 64), linear(11, 7, 4), convolution(1, 12, 64)])
def test_several_layers_in_one_batch_have_their_own_directions(block: CurvatureBlock) -> None:
    block.refresh(Damping(0.5))
    torch.manual_seed(1)
    gradients = torch.randn(3, *block.shape, dtype=DOUBLE)
    together = copy(block)
    for name in block.inverses:
        setattr(together, name, torch.stack([(k + 1.0) * getattr(block, name) for k in range(3)]))
    for way in WAYS.values():
        expected = []
        for k, gradient in enumerate(gradients):
            alone = copy(block)
            for name in block.inverses:
                setattr(alone, name, (k + 1.0) * getattr(block, name))
            expected.append(way(alone)(gradient))
        torch.testing.assert_close(way(together)(gradients), torch.stack(expected))


@pytest.mark.parametrize("root", [inverse_root, inverse_root_of_symmetric])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e30])
def test_roots_stay_in_range(root: Callable[[Tensor], Tensor], scale: float) -> None:
    torch.manual_seed(0)
    g = torch.randn(2, 6, 9)
    moments = scale * g @ g.mT
    found = root(moments)
    assert found.isfinite().all()
    if scale:
        values = torch.linalg.eigvalsh((scale**0.5 * found.double()) @ (moments.double() / scale) @ (scale**0.5 * found.double()))
        assert ((values.sqrt() > 0.8) & (values.sqrt() < 1.2)).all()


@pytest.mark.parametrize("group", [(), (2,)])
def test_a_root_that_is_made_in_wider_rows_is_none_of_them(group: tuple[int, ...]) -> None:
    """A matrix of 512 rows is factorised within one of 528; its root is what the poles make of its eigenvalues."""
    torch.manual_seed(0)
    rows = torch.randn(*group, COLLIDING, 300, dtype=DOUBLE)
    moments = rows @ rows.mT
    values, vectors = torch.linalg.eigh(moments)
    scale = moments.norm(dim=(-2, -1)).unsqueeze(-1)
    wanted = (CONSTANT + sum(w / (values / scale + s) for w, s in POLES)) / scale.sqrt()
    torch.testing.assert_close(inverse_root_of_symmetric(moments), vectors * wanted.unsqueeze(-2) @ vectors.mT)


def test_two_poles_are_zolotarevs() -> None:
    """The error is as large at the ends of the range as at the turning points between them, five at all: none is better."""
    x = torch.logspace(-2.69897, 0, 200001, dtype=DOUBLE)
    value = x * (0.9619 + sum(w / (x**2 + s) for w, s in POLES)) - 1
    turns = torch.where((value[1:-1] - value[:-2]) * (value[2:] - value[1:-1]) <= 0)[0] + 1
    ends = value[[0, *turns.tolist(), len(x) - 1]]
    assert len(ends) == 6
    torch.testing.assert_close(ends.abs(), torch.full_like(ends, 0.155), rtol=0, atol=2e-3)
    assert (ends[1:] * ends[:-1] < 0).all()


def test_a_convolution_multiplies_by_its_factor_from_the_right() -> None:
    block = convolution(3, 4, 64)
    block.refresh(Damping(0.5))
    torch.manual_seed(1)
    gradient = torch.randn(*block.shape, dtype=DOUBLE)
    lower, upper = block.phi_roots()
    torch.testing.assert_close(
        lower.by_phi(gradient) @ upper.by_phi(torch.eye(block.shape[1], dtype=DOUBLE)), block.by_phi(gradient)
    )
    assert issubclass(SpectralKroneckerBlock, LNGDKroneckerBlock)
