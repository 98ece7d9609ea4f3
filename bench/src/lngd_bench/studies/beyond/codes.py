"""Codes of scikit-learn's digits: of a variational and a deep autoencoder, and of a contrastive loss."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from lngd_bench.studies.beyond.networks import layers
from lngd_bench.studies.beyond.task import GAUSSIAN, Task, digits, drawn, half_square

CODE = 8
TEMPERATURE = 0.2


class Variational(nn.Module):
    """Gives logits of the pixels, the code's means and its log-variances."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = layers(64, 64, 64, 2 * CODE), layers(CODE, 64, 64, 64)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(2 * x - 1).chunk(2, 1)
        return self.decoder(mean + noise * (0.5 * log_variance).exp()), mean, log_variance


def grey(x: Tensor) -> Tensor:
    """Pixels in [0, 1] as rows."""
    lowest, highest = digits().train_x.aminmax()
    return ((x - lowest) / (highest - lowest)).flatten(1)


def negative_elbo(model: nn.Module, x: Tensor, draw: Generator) -> Tensor:
    """Nats an image, a pixel's grey being the probability of one."""
    logits, mean, log_variance = model(x, torch.randn(len(x), CODE, generator=draw))
    missed = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
    return (missed + divergence).mean()


def variational_loss(model: nn.Module, draw: Generator) -> Tensor:
    return negative_elbo(model, grey(drawn(digits(), 64, draw)[0]), draw)


def variational_held_out(model: nn.Module) -> float:
    return negative_elbo(model, grey(digits().test_x), Generator().manual_seed(0)).item()


def reconstruction_loss(model: nn.Module, draw: Generator) -> Tensor:
    x = drawn(digits(), 64, draw)[0].flatten(1)
    return half_square(model(x) - x)


def reconstruction_held_out(model: nn.Module) -> float:
    x = digits().test_x.flatten(1)
    return F.mse_loss(model(x), x).item()


def view(x: Tensor, draw: Generator) -> Tensor:
    """With noise, and a fifth of the pixels at random."""
    noise = torch.randn(x.shape, generator=draw)
    return torch.where(torch.rand(x.shape, generator=draw) < 0.2, noise, x + 0.4 * noise)


def info_nce(model: nn.Module, x: Tensor, draw: Generator) -> Tensor:
    """Of two views of each image, which is to be found among all images of the batch; both ways."""
    codes = F.normalize(model(torch.cat([view(x, draw), view(x, draw)])), dim=1)
    likeness = codes[: len(x)] @ codes[len(x) :].T / TEMPERATURE
    own = torch.arange(len(x))
    return 0.5 * (F.cross_entropy(likeness, own) + F.cross_entropy(likeness.T, own))


def contrastive_loss(model: nn.Module, draw: Generator) -> Tensor:
    return info_nce(model, drawn(digits(), 64, draw)[0].flatten(1), draw)


def contrastive_held_out(model: nn.Module) -> float:
    return info_nce(model, digits().test_x.flatten(1), Generator().manual_seed(0)).item()


VARIATIONAL = Task(
    title="VAE, digits",
    model=Variational,
    loss=variational_loss,
    held_out=variational_held_out,
    measure="−ELBO, nats an image",
    steps=400,
    fisher="empirical",
)
AUTOENCODER = Task(
    title="deep autoencoder, digits",
    model=partial(layers, 64, 64, 32, 8, 32, 64, 64),
    loss=reconstruction_loss,
    held_out=reconstruction_held_out,
    measure="MSE of a pixel",
    steps=400,
    fisher=GAUSSIAN,
)
CONTRASTIVE = Task(
    title="contrastive, digits",
    model=partial(layers, 64, 96, 96, 16, activation=nn.ReLU),
    loss=contrastive_loss,
    held_out=contrastive_held_out,
    measure="InfoNCE among 360",
    steps=400,
    fisher="empirical",
)
