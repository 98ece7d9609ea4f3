"""Layer-wise sampling in real models against explicit Jacobians from a pre-activation to the next layer's input."""

import copy
import gc
import pickle
import random
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import lngd
from lngd import LNGD, Layerwise, LNGDLr
from lngd.capture import spread
from recorded import Recorded
from reference import batch, expected_square, factors, mlp, train_step, with_ones
from tiers import tiered

DOUBLE = torch.float64
Factors = dict[str, tuple[Tensor, Tensor]]


def measured(model: nn.Module, x: Tensor, y: Tensor, *, forwards: int = 1, **options) -> LNGD:
    """An optimizer after one step whose statistics are the mean over several forwards of one batch."""
    optimizer = LNGD(model, generator=torch.Generator().manual_seed(5), **options)
    for _ in range(forwards):
        F.cross_entropy(model(x), y).backward()
    optimizer.step()
    return optimizer


def pixels(x: Tensor) -> Tensor:
    """`[n, o, …]` as `[n, s, o]`."""
    return x.flatten(2).mT


def patches(x: Tensor, kernel: int, padding: int) -> Tensor:
    """The rows of a 2-D convolution with bias."""
    return with_ones(F.unfold(x, kernel, padding=padding).mT)


def mlp_factors(model: nn.Sequential, x: Tensor) -> Factors:
    found, s = {}, None
    for name, module in model.named_children():
        if isinstance(module, nn.Linear):
            a, s = x, module(x)
            last = name == str(len(model) - 1)
            square = torch.ones_like(s) if last else expected_square(torch.tanh, s)
            found[name] = factors(with_ones(a).unsqueeze(1), square.detach().unsqueeze(1))
        x = module(x).detach()
    return found


def assert_factors(optimizer: LNGD, expected: Factors, *, error: float) -> None:
    for name, (phi, psi) in expected.items():
        block = optimizer.blocks[name]
        assert (block.phi - phi).norm() < error * phi.norm(), f"phi of {name}"
        assert (block.psi - psi).norm() < error * psi.norm(), f"psi of {name}"


def test_rademacher_noise_gives_the_exact_factors_of_an_mlp():
    model, (x, y) = mlp(4, 6, 5, 3), batch(7, 4)
    expected = mlp_factors(model, x)
    assert_factors(measured(model, x, y), expected, error=1e-12)


def test_gaussian_noise_gives_the_factors_of_an_mlp_within_its_error():
    model, (x, y) = mlp(4, 6, 5, 3), batch(40, 4)
    expected = mlp_factors(model, x)
    optimizer = measured(model, x, y, forwards=100, fisher=Layerwise("gaussian"))
    assert_factors(optimizer, expected, error=0.08)
    assert not torch.allclose(optimizer.blocks["0"].psi, expected["0"][1], rtol=1e-6)


def test_tokens_are_positions_of_a_sample():
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x = torch.randn(6, 7, 4, dtype=DOUBLE)
    s = model[0](x).detach()
    expected = {
        "0": factors(with_ones(x), (1 - s.tanh() ** 2) ** 2),
        "2": factors(with_ones(s.tanh()), torch.ones(6, 7, 3, dtype=DOUBLE)),
    }
    optimizer = LNGD(model)
    model(x).square().mean().backward()
    optimizer.step()
    assert_factors(optimizer, expected, error=1e-12)


def test_rademacher_noise_gives_the_exact_factors_of_a_convolution():
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3)).double()
    x, y = batch(5, 2, 4, 4)
    s = model[0](x).detach()
    square = (1 - s.tanh() ** 2) ** 2
    expected = {
        "0": factors(patches(x, 3, 1), pixels(square)),
        "3": factors(with_ones(s.tanh().flatten(1)).unsqueeze(1), torch.ones(5, 1, 3, dtype=DOUBLE)),
    }
    assert_factors(measured(model, x, y), expected, error=1e-12)


class Residual(nn.Module):
    """Two layers whose outputs both reach the third."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x).tanh()
        return self.head(h + self.two(h).tanh())


def test_a_residual_sum_closes_a_layer_at_its_first_user_and_no_other():
    model, (x, y) = Residual().double(), batch(6, 4)
    s = model.one(x).detach()
    h = s.tanh()
    t = model.two(h).detach()
    expected = {
        "one": factors(with_ones(x).unsqueeze(1), expected_square(torch.tanh, s).unsqueeze(1)),
        "two": factors(with_ones(h).unsqueeze(1), expected_square(lambda t: h + t.tanh(), t).unsqueeze(1)),
        "head": factors(with_ones(h + t.tanh()).detach().unsqueeze(1), torch.ones(6, 1, 3, dtype=DOUBLE)),
    }
    assert_factors(measured(model, x, y), expected, error=1e-12)


def conv_net(between: nn.Module, inputs: int) -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), between, nn.Conv2d(inputs, 2, 1), nn.Flatten(), nn.LazyLinear(3))


BETWEEN = {
    "BatchNorm2d": nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Tanh()),
    "MaxPool2d": nn.Sequential(nn.Tanh(), nn.MaxPool2d(2)),
    "AvgPool2d": nn.Sequential(nn.AvgPool2d(2), nn.ReLU()),
    "GroupNorm": nn.Sequential(nn.GroupNorm(1, 3), nn.SiLU()),
    "softmax": nn.Softmax(dim=1),
}


@tiered("name", BETWEEN, ("BatchNorm2d", "softmax"))
def test_sampling_is_exact_on_average_whatever_lies_between_two_layers(name):
    between = BETWEEN[name].double()
    model, (x, y) = conv_net(between, 3).double(), batch(4, 2, 4, 4)
    model(x)
    s = model[0](x).detach()
    expected = {"0": factors(patches(x, 3, 1), pixels(expected_square(between, s)))}
    assert_factors(measured(model, x, y, forwards=150), expected, error=0.15)


def test_batchnorm_between_linear_layers_couples_the_samples():
    between = nn.Sequential(nn.BatchNorm1d(5, track_running_stats=False), nn.Tanh()).double()
    model, (x, y) = nn.Sequential(nn.Linear(4, 5), between, nn.Linear(5, 3)).double(), batch(6, 4)
    square = expected_square(between, model[0](x))
    expected = {"0": factors(with_ones(x).unsqueeze(1), square.unsqueeze(1))}
    assert_factors(measured(model, x, y, forwards=300), expected, error=0.1)


def in_place_model(kind: str, activation: type[nn.Module], inplace: bool) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(4)
    body, shape = {
        "linear": ((nn.Linear(4, 6), nn.Linear(6, 5)), (8, 4)),
        "tokens": ((nn.Linear(4, 6), nn.Linear(6, 5)), (8, 3, 4)),
        "conv1d": ((nn.Conv1d(4, 6, 3), nn.Conv1d(6, 5, 1)), (8, 4, 6)),
        "conv2d": ((nn.Conv2d(4, 6, 3), nn.Conv2d(6, 5, 1, groups=1)), (8, 4, 5, 5)),
        "grouped": ((nn.Conv2d(4, 6, 3, groups=2), nn.Conv2d(6, 6, 1, groups=3)), (8, 4, 5, 5)),
    }[kind]
    layers = (body[0], activation(inplace=inplace), body[1], activation(inplace=inplace))
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3)), torch.randn(shape)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU])
@pytest.mark.parametrize("kind", ["linear", "tokens", "conv1d", "conv2d", "grouped"])
def test_in_place_activations_give_the_same_numbers(kind, activation):
    runs = []
    for inplace in (False, True):
        model, x = in_place_model(kind, activation, inplace)
        model(x)
        optimizer = LNGD(model, generator=torch.Generator().manual_seed(0))
        y = torch.arange(8) % 3
        for _ in range(3):
            train_step(model, optimizer, x, y)
        statistics = [t for block in optimizer.blocks.values() for t in block.tensors().values()]
        runs.append([*statistics, *optimizer.rates.values(), *(p.detach() for p in model.parameters())])
        assert all(rate > 0 for rate in optimizer.rates.values())
    assert all(torch.equal(one, two) for one, two in zip(*runs, strict=True))


def test_the_hooks_leave_outputs_and_the_global_generator_alone():
    def build() -> nn.Module:
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(4, 9), nn.Dropout(0.4), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(9, 3))

    watched, plain, (x, y) = build(), build(), batch(8, 4, dtype=torch.float32)
    optimizer = LNGD(watched)
    results = []
    for model in (watched, plain):
        torch.manual_seed(11)
        output = model(x)
        F.cross_entropy(output, y).backward()
        results.append((output.detach(), torch.get_rng_state(), [p.grad for p in model.parameters()]))
    optimizer.step()
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert all(torch.equal(one, two) for one, two in zip(results[0][2], results[1][2], strict=True))
    torch.manual_seed(12)
    state = torch.get_rng_state()
    optimizer.step()
    assert torch.equal(state, torch.get_rng_state())


def test_layers_called_by_keyword_are_seen():
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(input=x)

    model, (x, y) = Keyword().double(), batch(6, 4)
    assert_factors(
        measured(model, x, y),
        {"layer": factors(with_ones(x).unsqueeze(1), torch.ones(6, 1, 3, dtype=DOUBLE))},
        error=1e-12,
    )


def test_a_layer_called_twice_in_a_forward_sums_its_calls_as_positions():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x).tanh())

    model, (x, y) = Twice().double(), batch(6, 4, classes=4)
    s = model.layer(x).detach()
    a = torch.stack([with_ones(x), with_ones(s.tanh())], dim=1)
    square = torch.stack([(1 - s.tanh() ** 2) ** 2, torch.ones_like(s)], dim=1)
    assert_factors(measured(model, x, y), {"layer": factors(a, square)}, error=1e-12)


def test_parallel_layers_are_closed_by_the_layer_that_joins_them():
    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.one(x) * self.two(x).sigmoid())

    model, (x, y) = Parallel().double(), batch(6, 4)
    one, two = model.one(x).detach(), model.two(x).detach()
    expected = {
        "one": factors(with_ones(x).unsqueeze(1), expected_square(lambda s: s * two.sigmoid(), one).unsqueeze(1)),
        "two": factors(with_ones(x).unsqueeze(1), expected_square(lambda s: one * s.sigmoid(), two).unsqueeze(1)),
    }
    assert_factors(measured(model, x, y), expected, error=1e-12)


def test_a_copy_or_a_pickle_of_the_model_carries_inert_hooks():
    model, (x, y) = mlp(4, 5, 3), batch(6, 4)
    optimizer = LNGD(model)
    for clone in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        F.cross_entropy(clone(x), y).backward()
    with pytest.raises(RuntimeError, match="without a gradient"):
        optimizer.step()
    train_step(model, optimizer, x, y)
    assert optimizer.stats()["steps"] == 1


def test_close_removes_every_hook():
    model, (x, y) = mlp(4, 5, 3), batch(6, 4)
    optimizer = LNGD(model)
    optimizer.close()
    hooks = [h for m in model.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    assert hooks == []
    F.cross_entropy(model(x), y).backward()


def test_a_model_outlives_its_optimizer():
    model, (x, y) = mlp(4, 5, 3), batch(6, 4)
    train_step(model, LNGD(model), x, y)
    gc.collect()
    train_step(model, LNGD(model), x, y)


def test_the_end_of_an_optimizer_draws_no_random_number():
    optimizer, state = LNGD(mlp(4, 5, 3)), random.getstate()
    optimizer.itself = optimizer  # for the garbage collector, which may come upon it anywhere
    del optimizer
    gc.collect()
    assert random.getstate() == state


class Marked(torch.autograd.Function):
    """The identity; its node lives exactly as long as the graph it is in."""

    nodes: ClassVar[list[weakref.ref]] = []

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        Marked.nodes.append(weakref.ref(ctx))
        return x.clone()

    @staticmethod
    def backward(_ctx, grad: Tensor) -> Tensor:
        return grad


class Marker(nn.Module):
    """A module of the marked identity."""

    def forward(self, x: Tensor) -> Tensor:
        return Marked.apply(x)


@pytest.mark.parametrize("with_backward", [True, False])
@pytest.mark.parametrize("shape", [(8, 4), (8, 3, 4)])
def test_no_graph_outlives_its_step(shape, with_backward):
    Marked.nodes.clear()
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), Marker(), nn.Linear(6, 3))
    optimizer, x = LNGD(model, schedule=2), torch.randn(shape)
    for _ in range(4):
        loss = model(x).square().mean()
        if with_backward:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        del loss
    assert len(Marked.nodes) == 4
    gc.collect()
    assert [node() for node in Marked.nodes] == [None] * 4


def test_activation_checkpointing_trains():
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = mlp(4, 5, 5), nn.Linear(5, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(checkpoint(self.body, x, use_reentrant=False).tanh())

    model, (x, y) = Checkpointed(), batch(16, 4)
    optimizer = LNGD(model)
    losses = [train_step(model, optimizer, x, y).item() for _ in range(40)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("wanted", [1, 7, 32])
@pytest.mark.parametrize("n", [1, 8, 31, 33, 40, 63, 64, 65, 127, 300])
def test_a_sub_batch_is_spread_over_the_whole_batch(n, wanted):
    chosen = list(range(n))[spread(n, wanted)]
    assert 1 <= len(chosen) <= max(wanted, 1)
    assert len(chosen) == n if wanted >= n else 2 * len(chosen) >= min(n, wanted)
    first_half = sum(index < n / 2 for index in chosen)
    assert abs(2 * first_half - len(chosen)) <= 1 or len(chosen) == n


def test_no_sub_batch_is_the_whole_batch():
    assert spread(40, None) == slice(None)


@pytest.mark.parametrize("method", [LNGD, LNGDLr])
def test_a_checkpointed_forward_that_we_run_again_leaves_running_averages_alone(method):
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.norm, self.second, self.head = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            inside = checkpoint(lambda h: self.second(self.norm(h)), self.first(x), use_reentrant=False)
            return self.head(inside)

    buffers = []
    for watched in (False, True):
        model, (x, y) = Checkpointed(), batch(4, 3, classes=2, dtype=torch.float32)
        optimizer = method(model) if watched else None
        F.cross_entropy(model(x), y).backward()
        buffers.append({name: buffer.clone() for name, buffer in model.named_buffers()})
        assert optimizer is None or optimizer.blocks
    assert buffers[0]["norm.num_batches_tracked"] == 2
    assert all(torch.equal(buffers[0][name], buffers[1][name]) for name in buffers[0])


@pytest.mark.slow
def test_a_thousand_constructions_leave_no_hook_and_no_object_behind():
    model, (x, y) = mlp(4, 5, 3, dtype=torch.float32), batch(8, 4, dtype=torch.float32)
    objects = []
    for count in range(1000):
        optimizer = LNGD(model)
        if count % 100 == 0:
            train_step(model, optimizer, x, y)
        del optimizer
        if count % 500 == 499:
            gc.collect()
            objects.append(len(gc.get_objects()))
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert objects[1] - objects[0] < 100


class CountOperations(TorchDispatchMode):
    """Counts what torch's dispatcher sees."""

    def __init__(self) -> None:
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found += 1
        return func(*args, **(kwargs or {}))


def python_calls(act: Callable[[], object]) -> int:
    """Calls of functions in the library's own files."""
    root, found = str(Path(lngd.__file__).parent), 0

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal found
        found += event == "call" and frame.f_code.co_filename.startswith(root)

    sys.setprofile(profile)
    try:
        act()
    finally:
        sys.setprofile(None)
    return found


MOST_CALLS = 20
MOST_CALLS_OF_A_MODEL = 15
KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "linear": (lambda: nn.Linear(4, 4), (4,), 5),
    "tokens": (lambda: nn.Linear(4, 4), (3, 4), 6),  # autograd's base of a view has another shape
    "convolution": (lambda: nn.Conv2d(2, 2, 1), (2, 3, 3), 5),
}


@pytest.mark.parametrize("rate_samples", [0, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_an_ordinary_step_adds_few_operations_and_few_calls_a_layer_to_forward_and_backward(kind, rate_samples):
    make, shape, most = KINDS[kind]
    operations, calls, x = [], [], torch.randn(64, *shape)
    for depth, watched in ((3, False), (3, True), (6, False), (6, True)):
        model = nn.Sequential(*[layer for _ in range(depth) for layer in (make(), nn.Tanh())])
        recorded = Recorded(model, "layerwise", rate_samples) if watched else None

        def step(model: nn.Module = model) -> None:
            model(x).square().mean().backward()

        for measuring in (True, False):
            if recorded is not None:
                recorded.capture.measuring = measuring
            step()
            assert recorded is None or len(recorded.names()) == depth * measuring
        with CountOperations() as counter:
            step()
        operations.append(counter.found)
        calls.append(python_calls(step))
    added = (operations[3] - operations[2]) - (operations[1] - operations[0])
    assert added <= 3 * (most if rate_samples else 0)
    assert calls[3] - calls[1] <= 3 * MOST_CALLS
    assert 2 * calls[1] - calls[3] <= MOST_CALLS_OF_A_MODEL  # what the calls would be without layers
