"""Tables: a transformer of their features, and a perceptron."""

from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from lngd_bench.studies.beyond.networks import Block, layers
from lngd_bench.studies.beyond.task import GAUSSIAN, Task, drawn, half_square, root_mean_square
from lngd_bench.tasks.data import Split

WIDTH = 16


@cache
def tumours() -> Split:
    """scikit-learn's breast cancer: 569 rows of 30 features, standardised by the 427 of training."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    order = torch.randperm(len(x), generator=Generator().manual_seed(0))
    rows, labels = torch.tensor(x, dtype=torch.float32)[order], torch.tensor(y)[order]
    rows = (rows - rows[:427].mean(0)) / rows[:427].std(0)
    return Split(rows[:427], labels[:427], rows[427:], labels[427:])


class FTTransformer(nn.Module):
    """Each feature is a token, value times a vector plus a vector; the first token, which is learnt, is classified."""

    def __init__(self) -> None:
        super().__init__()
        features = tumours().train_x.shape[1]
        self.vectors, self.offsets = (nn.Parameter(0.2 * torch.randn(features, WIDTH)) for _ in range(2))
        self.first = nn.Parameter(0.2 * torch.randn(1, 1, WIDTH))
        self.blocks = nn.Sequential(Block(WIDTH), Block(WIDTH))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.unsqueeze(2) * self.vectors + self.offsets
        return self.head(self.norm(self.blocks(torch.cat([self.first.expand(len(x), -1, -1), tokens], 1))[:, 0]))


def tumour_loss(model: nn.Module, draw: Generator) -> Tensor:
    x, y = drawn(tumours(), 32, draw)
    return F.cross_entropy(model(x), y)


def tumour_held_out(model: nn.Module) -> float:
    return F.cross_entropy(model(tumours().test_x), tumours().test_y).item()


@cache
def cars() -> Split:
    """mlxtend's Auto MPG: 392 cars of 7 features and their miles a gallon, standardised by the 294 of training."""
    from mlxtend.data import autompg_data

    features, miles = autompg_data()
    table = torch.cat([torch.tensor(features[:, :7]), torch.tensor(miles)[:, None]], 1).float()  # the eighth is the car's name
    table = table[torch.randperm(len(table), generator=Generator().manual_seed(0))]
    table = (table - table[:294].mean(0)) / table[:294].std(0)
    return Split(table[:294, :7], table[:294, 7:], table[294:, :7], table[294:, 7:])


def miles_loss(model: nn.Module, draw: Generator) -> Tensor:
    x, y = drawn(cars(), 32, draw)
    return half_square(model(x) - y)


def miles_held_out(model: nn.Module) -> float:
    return root_mean_square(model(cars().test_x) - cars().test_y)


TUMOURS = Task(
    title="FT-transformer, breast cancer",
    model=FTTransformer,
    loss=tumour_loss,
    held_out=tumour_held_out,
    measure="cross-entropy",
    steps=200,
)
MILES = Task(
    title="MLP, Auto MPG",
    model=partial(layers, 7, 64, 64, 1, activation=nn.ReLU),
    loss=miles_loss,
    held_out=miles_held_out,
    measure="RMSE, standardised",
    steps=400,
    fisher=GAUSSIAN,
)
