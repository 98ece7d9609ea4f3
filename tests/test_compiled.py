"""torch.compile: the same numbers as eager, one graph, no recompilation where nothing changes."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import config as shape_checks
from torch import Tensor, nn
from torch._dynamo.utils import counters

from lngd import KFAC, LNGD, NGPlus
from lngd.optimizer import NaturalGradient
from reference import batch, differences, mlp, snapshot, through_a_file, train_step

METHODS = {"LNGD": LNGD, "KFAC": KFAC, "NGPlus": NGPlus}
every_method = pytest.mark.parametrize("kind", METHODS)
OFTEN = {"curvature_every": 3, "inverse_every": 3, "curvature_ramp": False}
"""Steps 0, 3 and 6 measure."""


@pytest.fixture(autouse=True)
def _as_users_run_it() -> Iterator[None]:
    """Without shape checks, which torch.compile would trace, and without what an earlier test compiled."""
    torch._dynamo.reset()
    counters.clear()
    shape_checks.update("jaxtyping_disable", True)
    yield
    shape_checks.update("jaxtyping_disable", False)


def plain() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def pictures() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.layer(x).tanh()).tanh())


MODELS: dict[str, Callable[[], nn.Module]] = {"plain": plain, "convolution": pictures, "twice": Twice}
every_model = pytest.mark.parametrize("model", MODELS)


def build(kind: str, model: nn.Module, **options) -> NaturalGradient:
    return METHODS[kind](model, generator=torch.Generator().manual_seed(5), **{**OFTEN, **options})


def run(model: nn.Module, optimizer: NaturalGradient, sizes: list[int]) -> list[Tensor]:
    """The loss and the rates of every step."""
    found = []
    for seed, n in enumerate(sizes):
        x, y = batch(n, 4, seed=seed, dtype=torch.float32)
        found += [train_step(model, optimizer, x, y), *(rate.clone() for rate in optimizer.rates.values())]
    return found


def assert_same_run(
    kind: str, make: Callable[[], nn.Module], compile_: Callable[[nn.Module], nn.Module], sizes: list[int]
) -> None:
    """Losses, rates, weights and the whole checkpoint are bit-equal."""
    eager, inner = make(), make()
    optimizer = build(kind, eager)
    expected = run(eager, optimizer, sizes)
    compiled = compile_(inner)
    other = build(kind, compiled)
    for one, two in zip(run(compiled, other, sizes), expected, strict=True):
        assert torch.equal(one, two)
    assert differences(snapshot(eager, optimizer), snapshot(inner, other)) == []


def whole(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="aot_eager")


SEEN_ONLY_WHEN_MEASURING = "twice", "LNGD"
"""A layer called twice has no rate samples in a compiled step: its rate is that of the last measuring step."""
PAIRS = [(model, kind) for model in MODELS for kind in METHODS if (model, kind) != SEEN_ONLY_WHEN_MEASURING]


@pytest.mark.parametrize(("model", "kind"), PAIRS)
def test_a_compiled_run_is_bit_equal_a_shorter_last_batch_included(kind, model):
    assert_same_run(kind, MODELS[model], whole, [16, 16, 16, 16, 5, 16, 16, 16, 5])
    assert counters["graph_break"] == {}


def test_the_rate_of_a_layer_called_twice_stays_with_the_curvature_of_the_last_measuring_step():
    eager, inner = Twice(), Twice()
    model, (x, y) = whole(inner), batch(16, 4, dtype=torch.float32)
    optimizers = [build("LNGD", eager), build("LNGD", model)]
    losses = [[train_step(m, o, x, y) for _ in range(2)] for m, o in zip((eager, model), optimizers, strict=True)]
    assert torch.equal(torch.stack(losses[0]), torch.stack(losses[1]))
    kept = optimizers[1].stats()["kappa/layer"]
    train_step(model, optimizers[1], x, y)
    assert optimizers[1].stats()["kappa/layer"] == kept > 0
    train_step(model, optimizers[1], x, y)
    assert optimizers[1].stats()["kappa/layer"] != kept


@every_method
def test_a_compiled_run_has_the_learning_rates_of_the_eager_one_with_the_layerwise_rate(kind):
    rates = []
    for compiled in (False, True):
        model = whole(plain()) if compiled else plain()
        optimizer = build(kind, model, rate="layerwise", warmup=0)
        rates.append(run(model, optimizer, [16, 16, 16, 16, 5]))
        assert all(rate > 0 for rate in optimizer.rates.values())
    for one, two in zip(*rates, strict=True):
        assert torch.equal(one, two)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # its own, of torch.jit
def test_inductor_comes_near():
    eager, inner = plain(), plain()
    expected = run(eager, build("LNGD", eager), [16] * 4)
    model = torch.compile(inner)
    for one, two in zip(run(model, build("LNGD", model), [16] * 4), expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


@every_model
@every_method
def test_ordinary_steps_of_one_shape_compile_once_without_a_graph_break(kind, model):
    wrapped = whole(MODELS[model]())
    optimizer = build(kind, wrapped)
    run(wrapped, optimizer, [16, 16])
    first = counters["stats"]["unique_graphs"]
    assert first == 1
    run(wrapped, optimizer, [16] * 9)
    assert counters["stats"]["unique_graphs"] == first
    assert counters["graph_break"] == {}


def test_a_graph_without_breaks_is_accepted_by_fullgraph():
    model = torch.compile(plain(), backend="aot_eager", fullgraph=True)
    run(model, build("LNGD", model), [16] * 4)


@every_method
def test_accumulated_gradients_are_bit_equal(kind):
    runs = []
    for compiled in (False, True):
        inner = plain()
        model = whole(inner) if compiled else inner
        optimizer = build(kind, model)
        for step in range(5):
            x, y = batch(16, 4, seed=step, dtype=torch.float32)
            optimizer.zero_grad()
            for part, labels in zip(x.split(8), y.split(8), strict=True):
                (F.cross_entropy(model(part), labels) / 2).backward()
            optimizer.step()
        runs.append(snapshot(inner, optimizer))
    assert differences(*runs) == []


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, where such an input is not a leaf
@every_method
def test_a_compiled_submodule_inside_an_eager_model_is_bit_equal(kind):
    def part(model: nn.Module) -> nn.Module:
        model[0] = torch.compile(model[0], backend="aot_eager")
        model[3].compile(backend="aot_eager")
        return model

    eager, model = plain(), part(plain())
    one, two = build(kind, eager), build(kind, model)
    for loss, expected in zip(run(model, two, [16, 16, 16, 16, 5]), run(eager, one, [16, 16, 16, 16, 5]), strict=True):
        assert torch.equal(loss, expected)


def compiled_afterwards(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="aot_eager")


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="aot_eager")
    return model


@every_method
@pytest.mark.parametrize("compile_", [compiled_afterwards, compiled_in_place])
def test_a_model_compiled_behind_the_optimizers_back_is_an_error_that_says_what_to_do(compile_, kind):
    inner = plain()
    optimizer = build(kind, inner)
    before = copy.deepcopy(inner.state_dict())
    model = compile_(inner)
    with pytest.raises(RuntimeError, match=r"torch\.compile\(model\) returned"):
        run(model, optimizer, [16])
    assert all(torch.equal(before[name], value) for name, value in inner.state_dict().items())


@every_method
@pytest.mark.parametrize("start_compiled", [True, False])
@pytest.mark.parametrize("resume_compiled", [True, False])
def test_a_checkpoint_goes_on_bit_equal_compiled_or_not(start_compiled, resume_compiled, kind):
    inner, other = plain(), plain()
    model, resumed = whole(inner) if start_compiled else inner, whole(other) if resume_compiled else other
    optimizer, again = build(kind, model), build(kind, resumed)
    run(model, optimizer, [16] * 4)
    other.load_state_dict(inner.state_dict())
    again.load_state_dict(through_a_file(optimizer.state_dict()))
    for one, two in zip(run(model, optimizer, [16] * 4), run(resumed, again, [16] * 4), strict=True):
        assert torch.equal(one, two)
    assert differences(snapshot(inner, optimizer), snapshot(other, again)) == []


def test_two_optimizers_on_one_model_leave_torch_compile_as_it_was():
    model, x = mlp(4, 6, 3, dtype=torch.float32), torch.randn(8, 4)
    compiled = torch.compile(model, backend="aot_eager")
    first, second = LNGD(compiled), LNGD(compiled)
    compiled(x).sum().backward()
    assert first.blocks.keys() == second.blocks.keys()
    counters.clear()
    torch.compile(lambda t: t * 2, backend="aot_eager")(x)
    assert counters["stats"]["unique_graphs"] == 1
