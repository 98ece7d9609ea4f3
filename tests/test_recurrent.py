"""nn.RNN, nn.LSTM, nn.GRU and their cells: opened at measuring steps, with the kernels' numbers, and layers like any others."""

import copy
import warnings
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from every import EVERY_STEP, METHODS
from lngd import EKFAC, LNGD, Empirical, Factors, Schedule, SpectralLNGD
from lngd.capture.recurrent import RECURRENT
from reference import differences, snapshot, through_a_file

SAMPLES, STEPS, INPUTS, WIDTH = 3, 6, 4, 5


class Opened(TorchFunctionMode):
    """Computes recurrent networks by their products, and counts them."""

    count = 0

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        if function not in RECURRENT:
            return function(*args, **(kwargs or {}))
        self.count += 1
        return RECURRENT[function](F.linear, *args)


def networks() -> Iterator[Any]:
    kinds = {"lstm": nn.LSTM, "gru": nn.GRU, "tanh": nn.RNN, "relu": nn.RNN}
    for name, layers, both_ways, bias in product(kinds, (1, 2), (False, True), (False, True)):
        options: dict[str, Any] = {"num_layers": layers, "bidirectional": both_ways, "bias": bias, "dropout": 0.3 * (layers - 1)}
        options |= {"nonlinearity": "relu"} if name == "relu" else {}
        for projected in (0, 3) if name == "lstm" else (0,):
            options |= {"proj_size": projected} if projected else {}
            identity = f"{name}-{layers}{'-both' * both_ways}{'-bias' * bias}{'-projected' * bool(projected)}"
            yield pytest.param(kinds[name], dict(options), id=identity)


@pytest.mark.parametrize("given", ["batch-first", "time-first", "packed"])
@pytest.mark.parametrize(("kind", "options"), [*networks()])
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_opened_networks_are_the_kernels(kind: type[nn.RNNBase], options: dict[str, Any], given: str) -> None:
    """Outputs, last states and all gradients, from states that are not zero; dropout draws the same."""
    torch.manual_seed(0)
    model = kind(INPUTS, WIDTH, batch_first=given == "batch-first", **options).double()
    count = options["num_layers"] * (1 + options["bidirectional"])
    begin: Any = torch.randn(count, SAMPLES, options.get("proj_size") or WIDTH).double()
    if kind is nn.LSTM:
        begin = begin, torch.randn(count, SAMPLES, WIDTH).double()
    x: Any = torch.randn(SAMPLES, STEPS, INPUTS).double()
    if given == "packed":
        x = pack_padded_sequence(x, [4, STEPS, 2], batch_first=True, enforce_sorted=False)
    elif given == "time-first":
        x = x.transpose(0, 1)

    def numbers() -> list[Tensor]:
        torch.manual_seed(1)
        output, states = model(x, begin)
        found = [output.data if given == "packed" else output, *(states if isinstance(states, tuple) else (states,))]
        loss = torch.stack([(t.square() + t).sum() for t in found]).sum()
        return [*found, *torch.autograd.grad(loss, list(model.parameters()))]

    expected = numbers()
    with Opened() as opened:
        found = numbers()
    assert opened.count == 1
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_opened_cells_are_the_kernels(kind: type[nn.RNNCellBase], bias: bool) -> None:
    model, x = kind(INPUTS, WIDTH, bias=bias).double(), torch.randn(SAMPLES, INPUTS).double()
    expected = model(x)
    with Opened() as opened:
        found = model(x)
    assert opened.count == 1
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_under_autocast_opened_networks_have_the_kernels_dtypes(kind: Any) -> None:
    """So nothing behind them meets another dtype at a measuring step; the gradients of their weights are those of autocast."""
    torch.manual_seed(0)
    model, x = kind(INPUTS, WIDTH), torch.randn(STEPS, SAMPLES, INPUTS)

    def numbers() -> tuple[list[Any], list[Tensor]]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            found = pytree.tree_leaves(model(x[0] if isinstance(model, nn.RNNCellBase) else x))
        torch.stack([t.float().square().sum() for t in found]).sum().backward()
        return [(t.dtype, t.shape) for t in found], [p.grad.clone() for p in model.parameters() if p.grad is not None]

    kinds, expected = numbers()
    with Opened():
        assert numbers()[0] == kinds
        found = numbers()[1]
    largest = max(float(grad.abs().max()) for grad in expected)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.05 * largest)


class Unrolled(nn.Module):
    """An RNN of linear layers with the weights of torch's."""

    def __init__(self, like: nn.RNN) -> None:
        super().__init__()
        self.inward, self.onward = nn.Linear(INPUTS, WIDTH).double(), nn.Linear(WIDTH, WIDTH).double()
        for own, name in ((self.inward, "ih"), (self.onward, "hh")):
            for part in ("weight", "bias"):
                setattr(own, part, nn.Parameter(getattr(like, f"{part}_{name}_l0").detach().clone()))

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), WIDTH)
        for step in x.unbind(1):
            state = torch.tanh(self.inward(step) + self.onward(state))
        return state


class LastState(nn.RNN):
    """torch's, of which the last state is read."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[1][-1]


@pytest.mark.parametrize("kind", METHODS)
def test_a_network_trains_as_one_of_linear_layers_does(kind: str) -> None:
    torch.manual_seed(2)
    own = nn.Sequential(LastState(INPUTS, WIDTH, batch_first=True), nn.Linear(WIDTH, 3)).double()
    plain = nn.Sequential(Unrolled(own[0]), copy.deepcopy(own[1]))
    for model in (own, plain):
        factors = Factors(raw_damping=1.0)  # a state of zeros is no data
        optimizer = METHODS[kind](model, warmup=0, fisher=Empirical(), factors=factors, **EVERY_STEP)
        for step in range(4):
            for group in optimizer.param_groups:
                group["lr"] = 0.0 if step == 0 else optimizer.defaults["lr"]  # the first one only shows how weights are used
            torch.manual_seed(10 + step)
            x = torch.randn(8, STEPS, INPUTS).double()
            optimizer.zero_grad()
            F.cross_entropy(model(x), x[:, -1, :3].argmax(1)).backward()
            optimizer.step()
    torch.testing.assert_close(own[0].weight_hh_l0, plain[0].onward.weight, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(own[0].weight_ih_l0, plain[0].inward.weight, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(own[0].bias_hh_l0, plain[0].onward.bias, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("batch_first", [False, True])
def test_curvature_counts_samples_not_steps(batch_first: bool) -> None:
    """Time first, a batch of eight sequences of eight steps: rows that are multiples of the model's first dimension."""
    torch.manual_seed(2)
    x = torch.randn(8, 16, INPUTS)
    blocks = []
    for first in (batch_first, True):
        torch.manual_seed(3)
        model = LastState(INPUTS, WIDTH, batch_first=first)
        optimizer = SpectralLNGD(model, **EVERY_STEP)
        for _ in range(2):
            optimizer.zero_grad()
            with torch.no_grad():
                model.weight_hh_l0.copy_(torch.eye(WIDTH))
            model(x if first else x.transpose(0, 1)).square().mean().backward()
            optimizer.step()
        blocks.append(optimizer.blocks["weight_hh_l0"])
    for name in blocks[0].statistics:
        torch.testing.assert_close(getattr(blocks[0], name), getattr(blocks[1], name), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_ordinary_steps_leave_the_kernel_alone(kind: type[nn.RNNBase]) -> None:
    """LNGD's rate of these layers is measured where the curvature is."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent, self.head = kind(INPUTS, WIDTH, batch_first=True), nn.Linear(WIDTH, 3)

        def forward(self, x: Tensor) -> Tensor:
            states = self.recurrent(x)[0]
            self.opened = "Stack" in self.nodes(states.grad_fn)
            return self.head(states[:, -1])

        def nodes(self, node: Any) -> str:
            return node.name() + "".join(child.name() for child, _ in node.next_functions if child is not None)

    torch.manual_seed(4)
    model = Last()
    optimizer = LNGD(model, schedule=Schedule(curvature_every=5, inverse_every=5))
    losses, opened = [], []
    for step in range(40):
        torch.manual_seed(step)
        x = torch.randn(32, STEPS, INPUTS)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), x[:, -1, :3].argmax(1))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        opened.append(model.opened)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    if kind is nn.LSTM:  # on the CPU, torch makes a GRU of the same operations
        assert opened[0]
        assert sum(opened) < 15
    assert {o.kind for o in optimizer.summary() if "weight" in o.name} == {"curvature"}


@pytest.mark.parametrize(
    ("method", "options", "scale"),
    [(EKFAC, {"schedule": 1, "factors": Factors(max_dim=5)}, 1.0), (LNGD, {}, 1e10)],
    ids=["too wide", "without any gradient"],
)
def test_a_resumed_run_opens_a_network_at_the_same_steps(method: Any, options: dict[str, Any], scale: float) -> None:
    """Weights that get no curvature, or whose first measurement has yet to come."""

    class Last(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[2](self[1](self[0](x))[0][:, -1])

    def build() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(5)
        first = nn.Linear(INPUTS, 2) if options else nn.Identity()
        model = Last(first, nn.LSTM(2 if options else INPUTS, WIDTH, batch_first=True), nn.Linear(WIDTH, 2))
        return model, method(model, **options)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            torch.manual_seed(step)
            optimizer.zero_grad()
            F.cross_entropy(model(scale * torch.randn(8, STEPS, INPUTS)), torch.arange(8) % 2).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="only .* get curvature")
        (one, optimizer), (other, resumed) = build(), build()
        train(one, optimizer, range(3))
        other.load_state_dict(one.state_dict())
        resumed.load_state_dict(through_a_file(optimizer.state_dict()))
        for model, own in ((one, optimizer), (other, resumed)):
            train(model, own, range(3, 5))
    assert differences(snapshot(one, optimizer), snapshot(other, resumed)) == []


def test_a_checkpointed_network_trains_without_curvature() -> None:
    """Checkpointing computes once more what is computed here, and refuses anything else."""

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent, self.head = nn.GRU(INPUTS, WIDTH, batch_first=True), nn.Linear(WIDTH, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(checkpoint(self.recurrent, x, use_reentrant=False)[0][:, -1])

    model = Checkpointed()
    optimizer = SpectralLNGD(model)
    model(torch.randn(8, STEPS, INPUTS)).square().mean().backward()
    with pytest.warns(UserWarning, match="no curvature for GRU"):
        optimizer.step()
    assert {o.kind for o in optimizer.summary() if o.name.startswith("recurrent")} == {"fallback"}
