"""Differential equations: two networks that solve one, and an operator that is learnt from solutions."""

import math
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from lngd_bench.studies.beyond.networks import layers
from lngd_bench.studies.beyond.task import GAUSSIAN, Task, half_square, relative_error
from lngd_bench.tasks.data import Split

PI = math.pi
VISCOSITY = 0.05
"""Of Burgers' equation in the plane of x and t."""
POINTS, SMOOTHING, LATER = 64, 0.1, 1.0
"""Of the operator: grid points on [0, 2π), viscosity and time."""
FINE = 8
"""The solutions' grid is finer by this."""
MODES, CHANNELS = 12, 16


def slopes(u: Tensor, x: Tensor) -> Tensor:
    """∂u/∂x, `[n, d]`, through which one can go on to differentiate."""
    (found,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    return found


class OnSquare(nn.Module):
    """u(x, y) on the unit square, zero at its border by construction."""

    def __init__(self) -> None:
        super().__init__()
        self.net = layers(2, 32, 32, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return 16 * (x * (1 - x)).prod(1) * self.net(2 * x - 1).squeeze(1)


def solution(x: Tensor) -> Tensor:
    return torch.sin(PI * x[:, 0]) * torch.sin(2 * PI * x[:, 1])


def poisson(model: nn.Module, draw: Generator) -> Tensor:
    """Half the squared residual of −Δu = 5π² u*."""
    x = torch.rand(128, 2, generator=draw).requires_grad_()
    du = slopes(model(x), x)
    laplacian = slopes(du[:, 0], x)[:, 0] + slopes(du[:, 1], x)[:, 1]
    return half_square((laplacian + 5 * PI**2 * solution(x.detach())).unsqueeze(1))


def poisson_error(model: nn.Module) -> float:
    x = torch.cartesian_prod(*[torch.linspace(0, 1, 41)] * 2)
    return relative_error(model(x), solution(x))


def burgers(model: nn.Module, draw: Generator) -> Tensor:
    """Residual inside; u = −sin πx at the start and 0 at x = ±1. All points go through the model at once."""
    inside, start, border = (torch.rand(n, 2, generator=draw) for n in (96, 32, 32))
    start[:, 1], border[:, 0] = 0, border[:, 0].round()
    x = (torch.cat([inside, start, border]) * torch.tensor([2.0, 1.0]) - torch.tensor([1.0, 0.0])).requires_grad_()
    u = model(x).squeeze(1)
    du = slopes(u, x)
    residual = (du[:, 1] + u * du[:, 0] - VISCOSITY * slopes(du[:, 0], x)[:, 0])[:96]
    initial = u[96:128] + torch.sin(PI * x[96:128, 0])
    return 0.5 * (residual.square().mean() + initial.square().mean() + u[128:].square().mean())


@cache
def burgers_solution(places: int = 41, times: int = 20) -> tuple[Tensor, Tensor]:
    """Points of a grid of x and t, and u there: Cole and Hopf's integrals by 100 nodes of Gauss and Hermite."""
    nodes, weights = np.polynomial.hermite.hermgauss(100)
    x, t = np.meshgrid(np.linspace(-1, 1, places), np.linspace(0.05, 1, times))
    y = x[..., None] - nodes * np.sqrt(4 * VISCOSITY * t[..., None])
    share = weights * np.exp(-np.cos(PI * y) / (2 * PI * VISCOSITY))
    u = -(share * np.sin(PI * y)).sum(-1) / share.sum(-1)
    points, values = np.stack([x.ravel(), t.ravel()], 1), u.ravel()
    return torch.tensor(points, dtype=torch.float32), torch.tensor(values, dtype=torch.float32)


def burgers_error(model: nn.Module) -> float:
    points, right = burgers_solution()
    return relative_error(model(points).squeeze(1), right)


@cache
def operator_data() -> Split:
    """Smooth functions `[n, 64, 1]` and what Burgers' equation makes of them, by Cole and Hopf and a Fourier transform."""
    k = torch.arange(1, 6, dtype=torch.float64).repeat(2)
    angles = k[:, None] * torch.arange(FINE * POINTS, dtype=torch.float64) * (2 * PI / (FINE * POINTS))
    sines, cosines = angles[:5].sin(), angles[:5].cos()
    shares = 0.6 * torch.randn(320, 10, generator=Generator().manual_seed(0), dtype=torch.float64) / k
    a, integral = shares @ torch.cat([sines, cosines]), (shares / k) @ torch.cat([-cosines, sines])
    spectrum = torch.fft.rfft(torch.exp(-integral / (2 * SMOOTHING)))
    wave = torch.arange(spectrum.shape[1], dtype=torch.float64)
    spectrum = spectrum * torch.exp(-SMOOTHING * LATER * wave**2)
    u = -2 * SMOOTHING * torch.fft.irfft(1j * wave * spectrum) / torch.fft.irfft(spectrum)
    a, u = (values[:, ::FINE].float().unsqueeze(2) for values in (a, u))
    return Split(a[:256], u[:256], a[256:], u[256:])


class FourierLayer(nn.Module):
    """The lowest modes are multiplied with matrices of their own, whose real and imaginary parts are parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.real, self.imaginary = (nn.Parameter(torch.randn(MODES, CHANNELS, CHANNELS) / CHANNELS) for _ in range(2))
        self.local = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        modes = torch.fft.rfft(x, dim=1)[:, :MODES]
        mixed = torch.einsum("nkc,kcd->nkd", modes, torch.complex(self.real, self.imaginary))
        return F.gelu(torch.fft.irfft(mixed, n=x.shape[1], dim=1) + self.local(x))


def operator() -> nn.Module:
    lifted = nn.Linear(1, CHANNELS)
    return nn.Sequential(lifted, *(FourierLayer() for _ in range(3)), nn.Linear(CHANNELS, 32), nn.GELU(), nn.Linear(32, 1))


def operator_loss(model: nn.Module, draw: Generator) -> Tensor:
    data = operator_data()
    rows = torch.randint(len(data.train_x), (32,), generator=draw)
    return half_square(model(data.train_x[rows]) - data.train_y[rows])


def operator_error(model: nn.Module) -> float:
    return relative_error(model(operator_data().test_x), operator_data().test_y)


POISSON = Task(
    title="PINN, Poisson in the plane",
    model=OnSquare,
    loss=poisson,
    held_out=poisson_error,
    measure="relative L2 error",
    steps=300,
    fisher="empirical",
)
BURGERS = Task(
    title="PINN, Burgers",
    model=partial(layers, 2, 32, 32, 32, 1),
    loss=burgers,
    held_out=burgers_error,
    measure="relative L2 error",
    steps=400,
    fisher="empirical",
)
OPERATOR = Task(
    title="Fourier neural operator, Burgers in one dimension",
    model=operator,
    loss=operator_loss,
    held_out=operator_error,
    measure="relative L2 error",
    steps=300,
    fisher=GAUSSIAN,
    mean_over="token",
)
