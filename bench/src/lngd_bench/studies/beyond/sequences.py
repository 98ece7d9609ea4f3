"""Sequences of numbers: an RNN adds two of them, an LSTM and a transformer forecast the next."""

import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import Generator, Tensor, nn

from lngd_bench.studies.beyond.networks import Block
from lngd_bench.studies.beyond.task import GAUSSIAN, Task, half_square, root_mean_square

LENGTH, WINDOW = 20, 24
"""Of what is added, and of what is forecast."""
WIDTH = 32
Batch: TypeAlias = Callable[[int, Generator], tuple[Tensor, Tensor]]
"""Draws so many inputs with their targets."""


class RNN(nn.Module):
    """tanh cells of linear layers, the recurrent one from the identity; the last state is read."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.onward, self.head = nn.Linear(2, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)
        nn.init.eye_(self.onward.weight)

    def forward(self, x: Tensor) -> Tensor:
        inward = self.inward(x)
        state = inward.new_zeros(len(x), WIDTH)
        for t in range(x.shape[1]):
            state = torch.tanh(inward[:, t] + self.onward(state))
        return self.head(state)


def sums(n: int, draw: Generator) -> tuple[Tensor, Tensor]:
    """Random numbers with a mark at one of each half, and the marked ones' sum less its mean."""
    x = torch.rand(n, LENGTH, generator=draw)
    marks = torch.randint(LENGTH // 2, (n, 2), generator=draw) + torch.tensor([0, LENGTH // 2])
    marked = torch.zeros(n, LENGTH).scatter(1, marks, 1.0)
    return torch.stack([x, marked], 2), (x * marked).sum(1, keepdim=True) - 1


class LSTM(nn.Module):
    """Cells of linear layers: the four gates of the input and of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.onward, self.head = nn.Linear(1, 4 * WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        inward = self.inward(x)
        state = cell = inward.new_zeros(len(x), WIDTH)
        states = []
        for t in range(x.shape[1]):
            enters, forgets, leaves, new = (inward[:, t] + self.onward(state)).chunk(4, 1)
            cell = cell * torch.sigmoid(forgets + 1) + torch.sigmoid(enters) * torch.tanh(new)
            state = torch.sigmoid(leaves) * torch.tanh(cell)
            states.append(state)
        return self.head(torch.stack(states, 1))


class Forecaster(nn.Module):
    """A transformer that sees the past."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(1, WIDTH)
        self.places = nn.Parameter(0.1 * torch.randn(WINDOW, WIDTH))
        self.blocks = nn.Sequential(*(Block(WIDTH, causal=True) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.inward(x) + self.places)))


def waves(n: int, draw: Generator) -> tuple[Tensor, Tensor]:
    """Sums of three sines of random periods and phases with noise, `[n, 24, 1]`, and each one's next value."""
    frequency = 0.2 + 1.3 * torch.rand(n, 3, 1, generator=draw)
    phase = 2 * math.pi * torch.rand(n, 3, 1, generator=draw)
    clean = torch.sin(frequency * torch.arange(WINDOW + 1) + phase).sum(1)
    series = (clean + 0.1 * torch.randn(clean.shape, generator=draw)).unsqueeze(2)
    return series[:, :-1], series[:, 1:]


def loss_on(batch: Batch, n: int, model: nn.Module, draw: Generator) -> Tensor:
    x, y = batch(n, draw)
    return half_square(model(x) - y)


def held_out_on(batch: Batch, n: int, model: nn.Module) -> float:
    x, y = batch(n, Generator().manual_seed(2**20))
    return root_mean_square(model(x) - y)


ADDING = Task(
    title="RNN, adding problem of 20 steps",
    model=RNN,
    loss=partial(loss_on, sums, 64),
    held_out=partial(held_out_on, sums, 1024),
    measure="RMSE",
    steps=400,
    fisher=GAUSSIAN,
)
LSTM_FORECAST = Task(
    title="LSTM, forecast of sines",
    model=LSTM,
    loss=partial(loss_on, waves, 32),
    held_out=partial(held_out_on, waves, 512),
    measure="RMSE",
    steps=300,
    fisher=GAUSSIAN,
    mean_over="token",
)
TRANSFORMER_FORECAST = Task(
    title="transformer, forecast of sines",
    model=Forecaster,
    loss=partial(loss_on, waves, 32),
    held_out=partial(held_out_on, waves, 512),
    measure="RMSE",
    steps=300,
    fisher=GAUSSIAN,
    mean_over="token",
)
