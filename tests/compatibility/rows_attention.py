"""Rows: torch's attention modules."""

import torch
from torch import Tensor, nn

from compatibility.runs import assert_trains, learnable
from compatibility.table import group
from lngd.methods import Method

attention = group("Attention")

TRAINS = "every projection has curvature, every parameter moves, the loss falls"
WIDTH, HEADS, TOKENS = 4, 2, 3


class Pooled(nn.Module):
    """A module on tokens `[n, s, 4]` and a head on their mean; where the batch comes second inside, it is transposed."""

    def __init__(self, module: nn.Module, *, batch_first: bool = True) -> None:
        super().__init__()
        self.module, self.batch_first, self.head = module, batch_first, nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.attended(x) if self.batch_first else self.attended(x.transpose(0, 1)).transpose(0, 1)
        return self.head(tokens.mean(1))

    def attended(self, x: Tensor) -> Tensor:
        return self.module(x)


class SelfAttention(Pooled):
    """Queries, keys and values from the same tokens."""

    def attended(self, x: Tensor) -> Tensor:
        return x + self.module(x, x, x, need_weights=False)[0]


class Decoding(Pooled):
    """A decoder whose memory is the tokens in reverse order."""

    def attended(self, x: Tensor) -> Tensor:
        return self.module(x, x.flip(0, 1))


def trains(method: type[Method], model: nn.Module) -> None:
    x, _ = learnable(32, TOKENS, WIDTH)
    run = assert_trains(method, model, x, x.mean(1)[:, :3].argmax(1), steps=10)
    assert all(block.ready for block in run.optimizer.blocks.values())
    assert [o.name for o in run.optimizer.summary() if o.kind != "curvature" and "norm" not in o.name] == []


def encoder(*, batch_first: bool) -> nn.Module:
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, dim_feedforward=6, dropout=0.0, batch_first=batch_first)
    return Pooled(layer, batch_first=batch_first)


def decoder(*, batch_first: bool) -> nn.Module:
    torch.manual_seed(1)
    layer = nn.TransformerDecoderLayer(WIDTH, HEADS, dim_feedforward=6, dropout=0.0, batch_first=batch_first)
    return Decoding(layer, batch_first=batch_first)


@attention("MultiheadAttention", TRAINS)
def multihead_attention(method: type[Method]) -> None:
    torch.manual_seed(1)
    trains(method, SelfAttention(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)))


@attention("TransformerEncoderLayer, `batch_first=True`", TRAINS)
def encoder_batch_first(method: type[Method]) -> None:
    trains(method, encoder(batch_first=True))


@attention("TransformerEncoderLayer, `batch_first=False`", TRAINS)
def encoder_batch_second(method: type[Method]) -> None:
    trains(method, encoder(batch_first=False))


@attention("TransformerDecoderLayer, `batch_first=True`", TRAINS)
def decoder_batch_first(method: type[Method]) -> None:
    trains(method, decoder(batch_first=True))


@attention("TransformerDecoderLayer, `batch_first=False`", TRAINS)
def decoder_batch_second(method: type[Method]) -> None:
    trains(method, decoder(batch_first=False))
