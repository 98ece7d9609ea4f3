"""The blocks of a convolution whose Φ is a product over channels and kernel, from the unfolded input by loops."""

from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lngd.curvature import LNGDKroneckerBlock, SpectralKroneckerBlock
from lngd.layers import adapter_of
from lngd.linalg import Damping
from reference import over_mean_eigenvalue

DOUBLE = torch.float64
KINDS: Mapping[str, type[LNGDKroneckerBlock]] = {"LNGD": LNGDKroneckerBlock, "Spectral": SpectralKroneckerBlock}
CONVOLUTIONS: Mapping[str, Callable[[], nn.Conv2d]] = {
    "plain": lambda: nn.Conv2d(4, 3, (2, 3)),
    "without bias": lambda: nn.Conv2d(4, 3, 2, bias=False),
    "padded, strided": lambda: nn.Conv2d(4, 3, 3, padding=1, stride=2),
    "dilated": lambda: nn.Conv2d(4, 3, 2, dilation=2),
    "groups": lambda: nn.Conv2d(4, 6, 2, groups=2),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_convolution = pytest.mark.parametrize("convolution", CONVOLUTIONS)


def measured(kind: str, module: nn.Conv2d, x: Tensor, g: Tensor) -> LNGDKroneckerBlock:
    layer = adapter_of(module)(module, with_bias=module.bias is not None)
    places = module.kernel_size[0] * module.kernel_size[1]
    block = KINDS[kind](2**31, places)
    block.update(block.measure(layer.patches(x), layer.gradients(g)), 0.5)
    return block


def example(convolution: str) -> tuple[nn.Conv2d, Tensor, Tensor]:
    torch.manual_seed(0)
    module = CONVOLUTIONS[convolution]().double()
    x = torch.randn(5, 4, 6, 5, dtype=DOUBLE)
    return module, x, torch.randn_like(module(x))


def expected(kind: str, module: nn.Conv2d, x: Tensor, g: Tensor, group: int) -> dict[str, Tensor]:
    """By loops over samples, positions and places of the kernel."""
    n, c, o = len(x), x.shape[1] // module.groups, g.shape[1] // module.groups
    k = module.kernel_size[0] * module.kernel_size[1]
    unfolded = F.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)  # [n, channels·k, s]
    a = unfolded.unflatten(1, (module.groups, c, k))[:, group]
    y = g.flatten(2).unflatten(1, (module.groups, o))[:, group]
    channels, kernel = torch.zeros(c, c, dtype=DOUBLE), torch.zeros(k, k, dtype=DOUBLE)
    bias, diagonal, whole = torch.zeros(1, dtype=DOUBLE), torch.zeros(o, dtype=DOUBLE), torch.zeros(o, o, dtype=DOUBLE)
    for sample in range(n):
        for s in range(a.shape[-1]):
            rows, own = a[sample, :, :, s], y[sample, :, s]
            w = own.dot(own) if kind == "LNGD" else torch.ones((), dtype=DOUBLE)
            channels += w * rows @ rows.T / n
            kernel += w * rows.T @ rows / n
            bias += w / n
            diagonal += (rows.square().sum() + (module.bias is not None)) * own.square() / n
            whole += torch.outer(own, own) / n
    bias, kernel = bias if module.bias is not None else bias[:0], kernel / kernel.trace()
    if kind == "LNGD":
        return {"phi_channels": channels, "phi_kernel": kernel, "phi_bias": bias, "psi": diagonal / diagonal.sum()}
    mean = torch.linalg.eigvalsh(channels).mean()
    return {
        "phi_channels": channels / mean,
        "phi_kernel": kernel,
        "phi_bias": bias / mean,
        "psi": over_mean_eigenvalue(whole),
    }


@every_convolution
@every_kind
def test_statistics_are_those_of_loops_over_samples_positions_and_places(kind, convolution):
    module, x, g = example(convolution)
    block = measured(kind, module, x, g)
    for group in range(module.groups):
        known = expected(kind, module, x, g, group)
        assert set(known) == set(block.statistics)
        for name, value in known.items():
            found = getattr(block, name)
            torch.testing.assert_close(found[group] if module.groups > 1 else found, value)


@pytest.mark.parametrize("outputs", [1.0, 30.0])
@every_convolution
@every_kind
def test_precondition_inverts_the_damped_dense_block(kind, convolution, outputs):
    module, x, g = example(convolution)
    block, damping = measured(kind, module, x, g), Damping(0.3, outputs=outputs)
    block.refresh(damping)
    o, i = block.shape
    gradient = torch.randn(*(module.groups,) * (module.groups > 1), o, i, dtype=DOUBLE)
    solved = torch.linalg.solve(block.dense(damping), gradient.flatten(-2))
    torch.testing.assert_close(block.precondition(gradient), solved.reshape(gradient.shape))


@every_convolution
def test_the_spectral_block_knows_nothing_of_the_loss_scale(convolution):
    module, x, g = example(convolution)
    one, other = (measured("Spectral", module, x, scale * g) for scale in (1.0, 2.0**-20))
    for name in one.statistics:
        assert torch.equal(getattr(one, name), getattr(other, name))
