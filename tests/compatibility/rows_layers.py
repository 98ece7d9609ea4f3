"""Rows: one-line use, the exact reference, and layers that are no convolution and no attention."""

import inspect
from collections.abc import Callable, Hashable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compatibility.exact import assert_exact, dense_of, kind_of, one_step, samples
from compatibility.runs import OFTEN, assert_same, assert_trains, inputs, learnable, plain, start
from compatibility.table import group
from lngd import FisherType
from lngd.methods import Method
from reference import Branches, batch, curved, mlp

use = group("Use")
layers = group("Layers")

TRAINS = "every parameter moves, the loss falls"
FOUND = "curvature from the second step on; " + TRAINS


@use(
    "One-line use",
    "the model is the only argument needed, every other is a keyword with an immutable value; `.grad` is as backward left it",
)
def one_line_use(method: type[Method]) -> None:
    model, reference, (x, y) = plain(), plain(), learnable(16, 4)
    optimizer = method(model)
    for each in (model, reference):
        F.cross_entropy(each(x), y).backward()
    optimizer.step()
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)
        assert not torch.equal(p, q)
    _, _, *options = inspect.signature(method).parameters.values()
    assert {p.kind for p in options} == {inspect.Parameter.KEYWORD_ONLY}
    assert [p.name for p in options if isinstance(p.default, type) or not isinstance(p.default, Hashable)] == []


@use(
    "Tests against an exact reference",
    "`block.dense()` of every layer equals the paper's formula, computed from per-sample Jacobians in float64",
)
def exact_reference(method: type[Method]) -> None:
    model, (x, y) = mlp(3, 4, 3), batch(5, 3)
    expected = {name: dense_of(kind_of(method), *(t[0] for t in samples(model, model[int(name)], x, y))) for name in ("0", "2")}
    optimizer = one_step(method, model, x, y)
    for name, matrix in expected.items():
        torch.testing.assert_close(optimizer.blocks[name].dense(), matrix, rtol=1e-8, atol=1e-12)


@layers("Linear layer", "statistics equal loops over samples in float64; " + TRAINS)
def linear_layer(method: type[Method]) -> None:
    assert_exact(method, mlp(4, 5, 3), "0", inputs(4, 4))
    assert_trains(method, mlp(4, 5, 3, dtype=torch.float32), *learnable(32, 4), curved={"0", "2"})


@layers("Linear layer on tokens", "statistics equal loops over samples and tokens in float64; " + TRAINS)
def linear_on_tokens(method: type[Method]) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Flatten(), nn.Linear(15, 3))

    assert_exact(method, build(), "0", inputs(4, 3, 4))
    assert_trains(method, build(), *learnable(32, 3, 4), curved={"0", "3"})


@layers("In-place ReLU after a 3-D Linear", "bit-equal to ReLU out of place")
def inplace_relu(method: type[Method]) -> None:
    runs = []
    for inplace in (True, False):
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Linear(4, 6), nn.ReLU(inplace), nn.Linear(6, 5), nn.ReLU(inplace), nn.Flatten(), nn.Linear(15, 3)
        )
        runs.append(start(method, model, **OFTEN).steps([learnable(16, 3, 4)] * 4))
    assert_same(*runs)


class Recurrent(nn.Module):
    """A recurrent layer and a head on its last output."""

    def __init__(self, recurrent: type[nn.RNNBase]) -> None:
        super().__init__()
        self.recurrent, self.head = recurrent(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0][:, -1])


@layers("LSTM", FOUND)
def lstm(method: type[Method]) -> None:
    recurrent(method, nn.LSTM)


@layers("GRU", FOUND)
def gru(method: type[Method]) -> None:
    recurrent(method, nn.GRU)


def recurrent(method: type[Method], kind: type[nn.RNNBase]) -> None:
    x, _ = learnable(32, 3, 4)
    found = {"recurrent.weight_ih_l0", "recurrent.weight_hh_l0", "head"}
    assert_trains(method, Recurrent(kind), x, x[:, -1, :3].argmax(1), steps=15, curved=found)


@layers("Embedding", "AdamW by default; on request the statistics equal loops over samples and tokens in float64; " + TRAINS)
def embedding(method: type[Method]) -> None:
    def build() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Embedding(6, 4), nn.Flatten(), nn.Linear(12, 3))

    tokens = torch.randint(0, 6, (32, 3))
    model = build()
    assert_exact(method, model, "0", tokens[:4], params=curved(model))
    assert_trains(method, build(), tokens, tokens[:, 0] % 3, curved={"2"})
    model = build()
    assert_trains(method, model, tokens, tokens[:, 0] % 3, curved={"0", "2"}, params=curved(model))


def normalised(method: type[Method], norm: Callable[[], nn.Module]) -> None:
    """Between a convolution and a linear layer, and buffers change in the user's own forwards only."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv1d(2, 4, 2), norm(), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3))
    run = assert_trains(method, model, *learnable(32, 2, 4), curved={"0", "4"}, steps=12)
    counted = [b for name, b in model.named_buffers() if name.endswith("num_batches_tracked")]
    assert all(b == len(run.losses) for b in counted)


@layers("BatchNorm", TRAINS + "; the running averages see every batch once")
def batch_norm(method: type[Method]) -> None:
    normalised(method, lambda: nn.BatchNorm1d(4))


@layers("LayerNorm", TRAINS)
def layer_norm(method: type[Method]) -> None:
    normalised(method, lambda: nn.LayerNorm((4, 3)))


@layers("GroupNorm", TRAINS)
def group_norm(method: type[Method]) -> None:
    normalised(method, lambda: nn.GroupNorm(2, 4))


@layers("RMSNorm", TRAINS)
def rms_norm(method: type[Method]) -> None:
    normalised(method, lambda: nn.RMSNorm((4, 3)))


@layers(
    "Module unused in a step", "its weights are bit-equal until it is used, then they train; the others are trained all along"
)
def unused_module(method: type[Method]) -> None:
    model, data = Branches(), learnable(32, 4)
    run = start(method, model, warmup=3)
    for used, unused in ((model.left, model.right), (model.right, model.left)):
        model.use_left = used is model.left
        before = {part: part.weight.detach().clone() for part in (used, unused, model.head)}
        run.steps([data] * 4)
        assert torch.equal(unused.weight, before[unused])
        assert not torch.equal(used.weight, before[used])
        assert not torch.equal(model.head.weight, before[model.head])
    assert all(block.ready for block in run.optimizer.blocks.values())
    assert run.losses[3] < run.losses[0]


class Unreachable(nn.Module):
    """A layer whose output nobody uses, one that nobody calls, and a lone parameter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body, self.idle, self.uncalled = plain(), nn.Linear(4, 2), nn.Linear(4, 2)
        self.lone = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        self.idle(x)
        return self.body(x)


@layers(
    "Parameters that never have a gradient", "they stay bit-equal, all others train as if they were not there (float64, 1e-9)"
)
def never_a_gradient(method: type[Method]) -> None:
    runs = []
    for build in (Unreachable, plain):
        run = start(method, build().double(), fisher=FisherType.EMPIRICAL, warmup=3)
        runs.append(run.steps([learnable(16, 4, dtype=torch.float64)] * 3))
    model, reference = runs[0].model, runs[1].model
    untouched = Unreachable().double()
    for name in ("idle.weight", "uncalled.weight", "lone"):
        assert torch.equal(model.get_parameter(name), untouched.get_parameter(name))
    for p, q in zip(model.body.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)
