"""Graphs: the nodes of one are classified, and the triangles of many are counted."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from lngd_bench.studies.beyond.networks import layers
from lngd_bench.studies.beyond.task import GAUSSIAN, Task, half_square, root_mean_square
from lngd_bench.tasks.data import Split

NODES, CLASSES, FEATURES = 400, 4, 16
LABELLED = 120
SIZE = 12
"""Nodes of one of the many graphs."""


def random_graph(probability: Tensor, draw: Generator) -> Tensor:
    """Adjacency without loops; `probability` is symmetric, `[…, n, n]`."""
    upper = (torch.rand(probability.shape, generator=draw) < probability).float().triu(1)
    return upper + upper.mT


@cache
def communities() -> tuple[Tensor, Tensor, Tensor]:
    """A stochastic block model: D^-½ (A + I) D^-½, noisy features of the nodes, and their communities."""
    draw = Generator().manual_seed(0)
    community = torch.randint(CLASSES, (NODES,), generator=draw)
    same = community[:, None] == community
    adjacency = random_graph(torch.where(same, 0.05, 0.015), draw) + torch.eye(NODES)
    centres = torch.randn(CLASSES, FEATURES, generator=draw)
    features = 0.4 * centres[community] + torch.randn(NODES, FEATURES, generator=draw)
    scale = adjacency.sum(1).rsqrt()
    return scale[:, None] * adjacency * scale, features, community


class GCN(nn.Module):
    """Three linear layers, each followed by an average over neighbours."""

    def __init__(self) -> None:
        super().__init__()
        widths = (FEATURES, 64, 64, CLASSES)
        self.layers = nn.ModuleList(nn.Linear(widths[i], widths[i + 1]) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        adjacency = communities()[0]
        for layer in self.layers:
            x = adjacency @ layer(x if layer is self.layers[0] else x.relu())
        return x


def node_loss(model: nn.Module, draw: Generator) -> Tensor:
    """The whole graph with some features missing; the first nodes have labels."""
    _, x, y = communities()
    kept = (torch.rand(x.shape, generator=draw) < 0.7) / 0.7
    return F.cross_entropy(model(x * kept)[:LABELLED], y[:LABELLED])


def node_held_out(model: nn.Module) -> float:
    _, x, y = communities()
    return F.cross_entropy(model(x)[LABELLED:], y[LABELLED:]).item()


@cache
def triangles() -> Split:
    """Graphs of all densities as adjacency matrices, and the standardised number of their triangles."""
    draw = Generator().manual_seed(0)
    density = 0.15 + 0.45 * torch.rand(768, 1, 1, generator=draw)
    graphs = random_graph(density.expand(-1, SIZE, SIZE), draw)
    count = (graphs @ graphs @ graphs).diagonal(dim1=1, dim2=2).sum(1, keepdim=True) / 6
    y = (count - count[:512].mean()) / count[:512].std()
    return Split(graphs[:512], y[:512], graphs[512:], y[512:])


class GIN(nn.Module):
    """Sums over neighbours, a perceptron on each node, and a sum over the graph. Nodes begin as their degree."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(layers(inputs, 32, 32, activation=nn.ReLU) for inputs in (1, 32, 32))
        self.norms = nn.ModuleList(nn.BatchNorm1d(32) for _ in range(3))
        self.head = layers(32, 32, 1, activation=nn.ReLU)

    def forward(self, graphs: Tensor) -> Tensor:
        """`graphs` are `[n, nodes, nodes]`; they are one graph of n parts here."""
        adjacency = torch.block_diag(*graphs)
        x = adjacency.sum(1, keepdim=True) / SIZE
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = norm(block(x + adjacency @ x)).relu()
        return self.head(x.view(len(graphs), SIZE, -1).mean(1))


def triangle_loss(model: nn.Module, draw: Generator) -> Tensor:
    data = triangles()
    rows = torch.randint(len(data.train_x), (32,), generator=draw)
    return half_square(model(data.train_x[rows]) - data.train_y[rows])


def triangle_held_out(model: nn.Module) -> float:
    return root_mean_square(model(triangles().test_x) - triangles().test_y)


COMMUNITIES = Task(
    title="GCN, a stochastic block model",
    model=GCN,
    loss=node_loss,
    held_out=node_held_out,
    measure="cross-entropy of other nodes",
    steps=200,
)
TRIANGLES = Task(
    title="GIN, triangles of random graphs",
    model=GIN,
    loss=triangle_loss,
    held_out=triangle_held_out,
    measure="RMSE, standardised",
    steps=300,
    fisher=GAUSSIAN,
)
