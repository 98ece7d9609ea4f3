"""torch.compile, however a model comes to be compiled: the numbers of the eager run, and so many compilations and no more."""

import copy
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import TypeAlias

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import config as shape_checks
from torch import Tensor, nn
from torch._dynamo.backends.debugging import aot_eager
from torch._dynamo.utils import counters
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint

from lngd import KFAC, LNGD, LayerwiseRate, NGPlus, Schedule
from lngd.capture.compiled import Uncompiled
from lngd.optimizer import NaturalGradient
from reference import batch, differences, mlp, snapshot, through_a_file, train_step
from threads import run_together

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),  # torch's own: a compiled block's input
]
METHODS = {"LNGD": LNGD, "KFAC": KFAC, "NGPlus": NGPlus}
every_method = pytest.mark.parametrize("kind", METHODS)
OFTEN = {"schedule": Schedule(curvature_every=3, inverse_every=3, ramp=False)}
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


class Repeated(nn.Module):
    """A layer that is called several times."""

    def __init__(self, times: int = 2) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.head, self.times = nn.Linear(4, 4), nn.Linear(4, 3), times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.layer(x).tanh()
        return self.head(x)


class Block(nn.Module):
    """A normalisation and a layer, and what goes past them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.gelu(self.layer(self.norm(x)))


class Residual(nn.Module):
    """A model of one's own, with blocks that may be compiled one by one. `checkpointed`: with which kind, or not."""

    def __init__(self, checkpointed: str = "") -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.head, self.checkpointed = nn.Linear(4, 6), nn.Linear(6, 3), checkpointed
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            call = partial(checkpoint, block, use_reentrant=self.checkpointed == "reentrant") if self.checkpointed else block
            x = call(x)
        return self.head(x)


class Attentive(nn.Module):
    """Attention between two layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.attention, self.head = nn.Linear(2, 4), nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x.unflatten(1, (2, 2)))
        return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


MODELS: dict[str, Callable[[], nn.Module]] = {"plain": plain, "convolution": pictures, "twice": Repeated}
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


@every_model
@every_method
def test_a_compiled_run_is_bit_equal_a_shorter_last_batch_included(kind, model):
    assert_same_run(kind, MODELS[model], whole, [16, 16, 16, 16, 5, 16, 16, 16, 5])
    assert counters["graph_break"] == {}


@pytest.mark.parametrize("make", [partial(Repeated, 5), Attentive])
def test_attention_and_a_layer_called_too_often_keep_the_curvature_along_their_step_of_the_last_measuring_step(make):
    eager, inner = make(), make()
    model, (x, y), name = whole(inner), batch(16, 4, dtype=torch.float32), "attention" if make is Attentive else "layer"
    optimizers = [build("LNGD", eager), build("LNGD", model)]
    losses = [[train_step(m, o, x, y) for _ in range(2)] for m, o in zip((eager, model), optimizers, strict=True)]
    assert torch.equal(torch.stack(losses[0]), torch.stack(losses[1]))
    kept = optimizers[1].stats()[f"kappa/{name}"]
    train_step(model, optimizers[1], x, y)
    assert optimizers[1].stats()[f"kappa/{name}"] == kept > 0
    train_step(model, optimizers[1], x, y)
    assert optimizers[1].stats()[f"kappa/{name}"] != kept
    assert optimizers[0].blocks.keys() == optimizers[1].blocks.keys()


@every_method
def test_a_compiled_run_has_the_learning_rates_of_the_eager_one_with_the_layerwise_rate(kind):
    rates = []
    for compiled in (False, True):
        model = whole(plain()) if compiled else plain()
        optimizer = build(kind, model, step_size="layerwise", warmup=0)
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


Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Builder: TypeAlias = Callable[[nn.Module], NaturalGradient]
Way: TypeAlias = Callable[[nn.Module, Builder], tuple[NaturalGradient, Loss]]
SIZES = [16, 16, 16, 16, 5, 16, 16, 16, 5]


def counting(graph: torch.fx.GraphModule, inputs: list[Tensor], **options: object) -> Callable:
    """A backend that counts its graphs."""
    counters["test"]["graphs"] += 1
    return aot_eager(graph, inputs, **options)


def loss_of(call: Callable[[Tensor], Tensor]) -> Loss:
    return lambda x, y: F.cross_entropy(call(x), y)


def blocks_of(model: nn.Module) -> nn.Module:
    return model.blocks if isinstance(model, Residual) else model


def wrap_blocks(model: nn.Module) -> None:
    blocks = blocks_of(model)
    for name, block in list(blocks.named_children()):
        setattr(blocks, name, torch.compile(block, backend=counting))


def compile_blocks(model: nn.Module) -> None:
    for block in blocks_of(model).children():
        block.compile(backend=counting)


def passed_compiled(model: nn.Module, optimizer: Builder) -> tuple[NaturalGradient, Loss]:
    compiled = torch.compile(model, backend=counting)
    return optimizer(compiled), loss_of(compiled)


def compiled_before(model: nn.Module, optimizer: Builder) -> tuple[NaturalGradient, Loss]:
    compiled = torch.compile(model, backend=counting)
    return optimizer(model), loss_of(compiled)


def compiled_after(model: nn.Module, optimizer: Builder) -> tuple[NaturalGradient, Loss]:
    return optimizer(model), loss_of(torch.compile(model, backend=counting))


def in_place_before(model: nn.Module, optimizer: Builder) -> tuple[NaturalGradient, Loss]:
    model.compile(backend=counting)
    return optimizer(model), loss_of(model)


def in_place_after(model: nn.Module, optimizer: Builder) -> tuple[NaturalGradient, Loss]:
    made = optimizer(model)
    model.compile(backend=counting)
    return made, loss_of(model)


def forward_after(model: nn.Module, optimizer: Builder) -> tuple[NaturalGradient, Loss]:
    made = optimizer(model)
    model.forward = torch.compile(model.forward, backend=counting)
    return made, loss_of(model)


def blocks_before(model: nn.Module, optimizer: Builder) -> tuple[NaturalGradient, Loss]:
    wrap_blocks(model)
    return optimizer(model), loss_of(model)


def blocks_after(model: nn.Module, optimizer: Builder) -> tuple[NaturalGradient, Loss]:
    made = optimizer(model)
    wrap_blocks(model)
    return made, loss_of(model)


def blocks_in_place_before(model: nn.Module, optimizer: Builder) -> tuple[NaturalGradient, Loss]:
    compile_blocks(model)
    return optimizer(model), loss_of(model)


def blocks_in_place_after(model: nn.Module, optimizer: Builder) -> tuple[NaturalGradient, Loss]:
    made = optimizer(model)
    compile_blocks(model)
    return made, loss_of(model)


def loss_before(model: nn.Module, optimizer: Builder) -> tuple[NaturalGradient, Loss]:
    loss = torch.compile(loss_of(model), backend=counting)
    return optimizer(model), loss


def loss_after(model: nn.Module, optimizer: Builder) -> tuple[NaturalGradient, Loss]:
    made = optimizer(model)
    return made, torch.compile(loss_of(model), backend=counting)


GRAPHS: dict[Way, int] = {
    passed_compiled: 1,
    compiled_before: 1,
    compiled_after: 1,
    in_place_before: 1,
    in_place_after: 1,
    forward_after: 1,
    blocks_before: 2,
    blocks_after: 2,
    blocks_in_place_before: 2,
    blocks_in_place_after: 2,
    loss_before: 2,
    loss_after: 2,
}
"""How many graphs are made of a residual model, with two blocks, and its loss."""
every_way = pytest.mark.parametrize("way", GRAPHS, ids=lambda way: way.__name__)
INSIDE = [compiled_after, in_place_after, loss_after]
"""Ways that leave no hook outside of the compiled call."""
FEW = [passed_compiled, loss_after]
"""The two that differ most."""


def train(loss: Loss, optimizer: NaturalGradient, sizes: list[int] = SIZES, *, micro: int = 1) -> list[Tensor]:
    """The losses and rates of every step, with gradients accumulated over `micro` batches."""
    found = []
    for seed, n in enumerate(sizes):
        x, y = batch(n, 4, seed=seed, dtype=torch.float32)
        optimizer.zero_grad()
        for part, labels in zip(x.chunk(micro), y.chunk(micro), strict=True):
            value = loss(part, labels) / micro
            value.backward()
            found.append(value.detach())
        optimizer.step()
        found += [rate.clone() for rate in optimizer.rates.values()]
    return found


def run_eagerly(make: Callable[[], nn.Module], kind: str = "LNGD", **options) -> tuple[list[Tensor], dict[str, Tensor]]:
    model = make()
    optimizer = build(kind, model)
    return train(loss_of(model), optimizer, **options), snapshot(model, optimizer)


def assert_trains_as_if_eager(way: Way, make: Callable[[], nn.Module], kind: str = "LNGD", **options) -> None:
    """The rates of every step are bit-equal, which they would not be without the samples of each layer; so is all state."""
    expected, state = run_eagerly(make, kind, **options)
    model = make()
    optimizer, loss = way(model, partial(build, kind))
    for one, two in zip(train(loss, optimizer, **options), expected, strict=True):
        assert torch.equal(one, two)
    found = {name.replace("._orig_mod", ""): value for name, value in snapshot(model, optimizer).items()}
    assert differences(found, state) == []


@every_way
@pytest.mark.parametrize("make", [plain, Residual])
def test_every_way_of_compiling_trains_as_if_eager(make, way):
    assert_trains_as_if_eager(way, make)


@pytest.mark.parametrize("kind", ["KFAC", "NGPlus"])
@pytest.mark.parametrize("way", [in_place_after, loss_after])
def test_every_method_trains_inside_a_compiled_call(way, kind):
    assert_trains_as_if_eager(way, plain, kind)


@pytest.mark.parametrize("way", [passed_compiled, *INSIDE, blocks_in_place_after])
def test_every_way_accumulates_gradients(way):
    assert_trains_as_if_eager(way, Residual, sizes=[16] * 8, micro=4)


@every_way
def test_every_way_compiles_each_graph_once(way):
    model = Residual()
    optimizer, loss = way(model, partial(build, "LNGD"))
    train(loss, optimizer, [16])
    assert counters["test"]["graphs"] == 0
    train(loss, optimizer, [16])
    assert counters["test"]["graphs"] == GRAPHS[way]
    breaks = counters["graph_break"].total()
    train(loss, optimizer, [32] * 8, micro=2)
    assert counters["test"]["graphs"] == GRAPHS[way]
    assert counters["graph_break"].total() == breaks


def test_what_stands_before_the_model_in_a_compiled_function_is_a_graph_of_its_own():
    model = Residual()
    optimizer = build("LNGD", model)

    @partial(torch.compile, backend=counting)
    def loss(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.cross_entropy(model((x - 1) / 2).float(), y)

    train(loss, optimizer, [16])
    assert counters["test"]["graphs"] == 1
    train(loss, optimizer, [16] * 8)
    assert counters["test"]["graphs"] == 3
    assert {block.updates for block in optimizer.blocks.values()} == {3}


@pytest.mark.parametrize("way", [passed_compiled, compiled_before, in_place_before, blocks_in_place_before, loss_before])
@pytest.mark.parametrize("make", [plain, Residual])
def test_a_model_that_ran_compiled_before_its_optimizer_was_built_is_compiled_once_more_and_trains_as_if_eager(make, way):
    """Dynamo does not notice hooks that come later."""
    x, y = batch(16, 4, dtype=torch.float32)

    def warm(model: nn.Module, optimizer: Builder) -> tuple[NaturalGradient, Loss]:
        """The way, with a forward and backward pass of what it compiles just before the optimizer is built."""
        given: list[nn.Module] = []
        _, loss = way(model, lambda passed: given.append(passed) or build("LNGD", make()))
        loss(x, y).backward()
        model.zero_grad()
        counters.clear()
        return optimizer(given[0]), loss

    assert_trains_as_if_eager(warm, make, sizes=[16] * 8)
    if make is Residual:
        assert counters["test"]["graphs"] == GRAPHS[way]


def test_a_model_that_never_ran_leaves_the_graphs_of_others_alone():
    other, x = torch.compile(mlp(4, 3, dtype=torch.float32), backend=counting), torch.randn(8, 4)
    other(x)
    build("LNGD", plain())
    other(x)
    assert counters["test"]["graphs"] == 1


@pytest.mark.parametrize("way", [*INSIDE, blocks_in_place_after])
def test_a_model_compiled_after_some_steps_goes_on_as_if_eager(way):
    expected, _ = run_eagerly(Residual, sizes=[16] * 8)
    model = Residual()
    optimizer = build("LNGD", model)
    found = train(loss_of(model), optimizer, [16] * 2)
    _, loss = way(model, lambda _: optimizer)
    for seed in range(2, 8):
        x, y = batch(16, 4, seed=seed, dtype=torch.float32)
        optimizer.zero_grad()
        value = loss(x, y)
        value.backward()
        optimizer.step()
        found += [value.detach(), *(rate.clone() for rate in optimizer.rates.values())]
    for one, two in zip(found, expected, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("way", [passed_compiled, *INSIDE, blocks_in_place_after])
def test_a_resumed_run_goes_on_as_if_eager_from_a_step_that_does_not_measure(way):
    model = Residual()
    optimizer = build("LNGD", model)
    train(loss_of(model), optimizer, [16] * 5)
    weights, state = copy.deepcopy(model.state_dict()), through_a_file(optimizer.state_dict())

    def resume(resumed: nn.Module) -> NaturalGradient:
        again = build("LNGD", resumed)
        again.load_state_dict(state)
        return again

    expected = train(loss_of(model), optimizer)
    other = Residual()
    other.load_state_dict(weights)
    again, loss = way(other, resume)
    for one, two in zip(train(loss, again), expected, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("way", [in_place_after, loss_after])
def test_a_copy_of_model_and_optimizer_goes_on_as_if_eager_when_it_is_compiled_again(way):
    model = plain()
    optimizer, loss = way(model, partial(build, "LNGD"))
    train(loss, optimizer, [16] * 4)
    other, again = copy.deepcopy((model, optimizer))
    _, other_loss = way(other, lambda _: again)
    for one, two in zip(train(other_loss, again), train(loss, optimizer), strict=True):
        assert torch.equal(one, two)


def several_forwards(loss: Loss, count: int) -> Loss:
    """A loss that takes so many forwards before the backward pass."""
    return lambda x, y: sum(loss(part, labels) for part, labels in zip(x.chunk(count), y.chunk(count), strict=True))


@pytest.mark.parametrize("way", [*FEW, blocks_in_place_after])
@pytest.mark.parametrize("count", [2, 4])
def test_up_to_four_forwards_before_a_backward_pass_are_told_apart_each_by_a_graph_of_its_own(count, way):
    def often(model: nn.Module, optimizer: Builder) -> tuple[NaturalGradient, Loss]:
        made, loss = way(model, optimizer)
        return made, several_forwards(loss, count)

    expected = build("LNGD", eager := Residual())
    optimizer, loss = often(Residual(), partial(build, "LNGD"))
    found = train(loss, optimizer, [16] * 8)
    for one, two in zip(found, train(several_forwards(loss_of(eager), count), expected, [16] * 8), strict=True):
        assert torch.equal(one, two)
    assert counters["test"]["graphs"] == GRAPHS[way] + (count - 1) * (2 if way is blocks_in_place_after else 1)


@pytest.mark.parametrize("way", FEW)
def test_more_forwards_than_four_before_a_backward_pass_keep_the_curvature_of_the_last_measuring_step(way):
    optimizer, loss = way(Residual(), partial(build, "LNGD"))
    train(several_forwards(loss, 5), optimizer, [20] * 2)
    kept = {key: value for key, value in optimizer.stats().items() if key.startswith("kappa")}
    train(several_forwards(loss, 5), optimizer, [20])
    assert {key: optimizer.stats()[key] for key in kept} == kept
    train(several_forwards(loss, 5), optimizer, [20])
    assert all(optimizer.stats()[key] != value for key, value in kept.items())


@pytest.mark.parametrize("way", FEW)
def test_a_forward_without_a_backward_pass_takes_no_samples_from_the_next(way):
    def looking(loss: Loss) -> Loss:
        def look_and_take(x: Tensor, y: Tensor) -> Tensor:
            loss(x, y)
            return loss(x, y)

        return look_and_take

    eager = plain()
    expected = train(looking(loss_of(eager)), build("LNGD", eager))
    optimizer, loss = way(plain(), partial(build, "LNGD"))
    for one, two in zip(train(looking(loss), optimizer), expected, strict=True):
        assert torch.equal(one, two)


PLACES = [*product((*FEW, blocks_before, blocks_in_place_after), ("reentrant", "non-reentrant"))]


@pytest.mark.parametrize(("way", "checkpointed"), PLACES)
def test_activation_checkpointing_in_or_around_what_is_compiled_trains_as_if_eager(way, checkpointed):
    assert_trains_as_if_eager(way, partial(Residual, checkpointed))


@pytest.mark.parametrize("way", [passed_compiled, compiled_after])
def test_activation_checkpointing_of_the_whole_compiled_model_trains_as_if_eager(way):
    def whole_model(model: nn.Module, optimizer: Builder) -> tuple[NaturalGradient, Loss]:
        made, loss = way(model, optimizer)
        return made, lambda x, y: checkpoint(loss, x, y, use_reentrant=False)

    assert_trains_as_if_eager(whole_model, plain)


@pytest.mark.parametrize("way", FEW)
def test_longer_inputs_than_any_before_cost_a_compilation_and_then_leave_their_samples(way):
    """All samples measure the rate, so a larger batch needs larger leaves; until the next step there are none."""
    optimizer, loss = way(
        Residual(),
        partial(
            build,
            "LNGD",
            step_size=LayerwiseRate(samples=None),
            schedule=Schedule(curvature_every=100, inverse_every=3, ramp=False),
        ),
    )
    train(loss, optimizer, [4, 4])
    kept = {key: value for key, value in optimizer.stats().items() if key.startswith("kappa")}
    train(loss, optimizer, [6])
    assert {key: optimizer.stats()[key] for key in kept} == kept
    train(loss, optimizer, [6])
    assert all(optimizer.stats()[key] != value for key, value in kept.items())


def test_two_models_that_one_compiled_loss_calls_train_as_if_eager():
    """As in a GAN: each is called in the other's steps, too, once without a gradient to come."""
    runs = []
    for compiled in (False, True):
        first, second = mlp(4, 6, 4, dtype=torch.float32), plain()
        one, two = build("LNGD", first), build("LNGD", second)

        def of_second(x: Tensor, y: Tensor, first: nn.Module = first, second: nn.Module = second) -> Tensor:
            return F.cross_entropy(second(x), y) + F.cross_entropy(second(first(x).detach()), 2 - y)

        def of_first(x: Tensor, y: Tensor, first: nn.Module = first, second: nn.Module = second) -> Tensor:
            return F.cross_entropy(second(first(x)), y)

        losses = [torch.compile(loss, backend=counting) if compiled else loss for loss in (of_second, of_first)]
        for seed in range(7):
            x, y = batch(16, 4, seed=seed, dtype=torch.float32)
            for loss, optimizer in zip(losses, (two, one), strict=True):
                optimizer.zero_grad()
                loss(x, y).backward()
                optimizer.step()
        runs.append(snapshot(first, one) | {f"second.{name}": value for name, value in snapshot(second, two).items()})
    assert differences(*runs) == []


def test_a_compiled_training_step_measures_and_steps_outside_of_any_graph():
    eager, model = Residual(), Residual()
    expected, optimizer = build("LNGD", eager), build("LNGD", model)
    step = torch.compile(partial(train_step, model, optimizer), backend=counting)
    for seed in range(7):
        x, y = batch(16, 4, seed=seed, dtype=torch.float32)
        assert torch.equal(step(x, y), train_step(eager, expected, x, y))
    assert differences(snapshot(eager, expected), snapshot(model, optimizer)) == []
    assert counters["test"]["graphs"] == 3  # the model, its loss, and what is returned of that


def test_parts_that_are_called_instead_of_the_model_train_as_if_eager():
    def parts(model: Residual) -> Callable[[Tensor], Tensor]:
        return lambda x: model.head(model.blocks[1](model.blocks[0](model.stem(x))))

    for way in (loss_after, blocks_in_place_after):
        eager, model = Residual(), Residual()
        optimizer, _ = way(model, partial(build, "LNGD"))
        loss = torch.compile(loss_of(parts(model)), backend=counting) if way is loss_after else loss_of(parts(model))
        for one, two in zip(train(loss, optimizer), train(loss_of(parts(eager)), build("LNGD", eager)), strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("way", FEW)
def test_evaluation_is_compiled_once_whatever_the_training_steps_measure(way):
    model = Residual()
    optimizer, loss = way(model, partial(build, "LNGD"))
    x, y = batch(16, 4, dtype=torch.float32)
    for _ in range(8):
        train(loss, optimizer, [16])
        model.eval()
        with torch.no_grad():
            loss(x, y)
        model.train()
    assert counters["test"]["graphs"] == GRAPHS[way] + 1


@pytest.mark.parametrize("way", FEW)
def test_a_compiled_transform_of_the_model_is_left_alone(way):
    model = plain()
    optimizer, loss = way(model, partial(build, "LNGD"))
    x, y = batch(16, 4, dtype=torch.float32)

    def per_sample() -> dict[str, Tensor]:
        def loss_of_one(weights: dict[str, Tensor], sample: Tensor, label: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(model, weights, (sample[None],)), label[None])

        weights = {name: p.detach() for name, p in model.named_parameters()}
        return vmap(grad(loss_of_one), in_dims=(None, 0, 0))(weights, x, y)

    for _ in range(4):
        train(loss, optimizer, [16])
        for one, two in zip(torch.compile(per_sample, backend="aot_eager")().values(), per_sample().values(), strict=True):
            torch.testing.assert_close(one, two)


@pytest.mark.parametrize("strict", [True, False])
def test_a_model_in_training_is_exported_without_a_trace_of_its_optimizer(strict):
    x, (bare, model) = batch(16, 4, dtype=torch.float32)[0], (plain(), plain())
    train(*reversed(passed_compiled(model, partial(build, "LNGD"))), [16, 16])
    exported = [torch.export.export(m, (x,), strict=strict) for m in (bare, model)]
    assert len({len(program.graph.nodes) for program in exported}) == 1


@pytest.mark.parametrize("way", [*FEW, in_place_after])
def test_a_forward_that_fails_leaves_torch_compile_as_it_was_and_training_goes_on(way):
    class Fragile(Residual):
        broken = False

        def forward(self, x: Tensor) -> Tensor:
            x = super().forward(x)
            if self.broken:
                raise ValueError("broken")
            return x

    model = Fragile()
    optimizer, loss = way(model, partial(build, "LNGD"))
    model.broken = True
    with pytest.raises(ValueError, match="broken"):
        train(loss, optimizer, [16])
    torch.compile(lambda t: t * 2, backend=counting)(torch.ones(2))
    assert counters["test"]["graphs"] == 1
    model.broken = False
    train(loss, optimizer)
    assert {block.updates for block in optimizer.blocks.values()} == {3}


@pytest.mark.parametrize("end", ["gone", "another is made"])
@pytest.mark.parametrize("way", [*FEW, blocks_in_place_before])
def test_an_interrupted_forward_leaves_no_setting_behind_once_its_optimizer_is_gone_or_another_made(way, end):
    """Hooks that are always called are not called then."""

    class Interrupted(Residual):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            raise KeyboardInterrupt

    optimizer, loss = way(Interrupted(), partial(build, "LNGD"))
    with pytest.raises(KeyboardInterrupt):
        train(loss, optimizer, [16])
    if end == "gone":
        del optimizer, loss
        gc.collect()
    else:
        LNGD(plain())
    torch.compile(lambda t: t * 2, backend=counting)(torch.ones(2))
    assert counters["test"]["graphs"] == 1


def test_threads_that_measure_at_the_same_time_leave_no_setting_behind():
    def measure() -> None:
        uncompiled = Uncompiled()
        for _ in range(1000):
            uncompiled.enter()
            uncompiled.leave()

    run_together([measure, measure])
    torch.compile(lambda t: t * 2, backend=counting)(torch.ones(2))
    assert counters["test"]["graphs"] == 1


@pytest.mark.parametrize("way", FEW)
def test_a_second_optimizer_on_the_same_model_measures_too(way):
    eager, model = plain(), plain()
    first = build("LNGD", eager)
    expected = train(loss_of(eager), first, [16] * 4)
    first.close()
    expected += train(loss_of(eager), build("LNGD", eager), [16] * 5)
    optimizer, loss = way(model, partial(build, "LNGD"))
    found = train(loss, optimizer, [16] * 4)
    optimizer.close()
    found += train(loss, build("LNGD", model), [16] * 5)
    for one, two in zip(found, expected, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("how", ["model", "in place", "loss"])
def test_fullgraph_where_the_graph_has_to_end_is_an_error_that_says_what_to_do(how):
    model = plain()
    optimizer, before = build("LNGD", model), copy.deepcopy(model.state_dict())
    if how == "model":
        loss = loss_of(torch.compile(model, backend=counting, fullgraph=True))
    elif how == "in place":
        model.compile(backend=counting, fullgraph=True)
        loss = loss_of(model)
    else:
        loss = torch.compile(loss_of(model), backend=counting, fullgraph=True)
    with pytest.raises(RuntimeError, match=r"build the optimizer from what torch\.compile\(model, fullgraph=True\) returned"):
        train(loss, optimizer, [16])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_recompile_limit_that_is_reached_leaves_no_measuring_step_in_a_graph():
    """What came before makes torch.compile give up earlier on frames of their own, whose end takes back what was done inside.

    In a process of its own, without the wrappers that check shapes, which are such frames, too.
    """
    script = (
        "from test_compiled import *\n"
        "for how in ('in place', 'loss'):\n"
        "    test_fullgraph_where_the_graph_has_to_end_is_an_error_that_says_what_to_do(how)\n"
        "torch._dynamo.reset()\n"
        "assert_trains_as_if_eager(loss_after, partial(Residual, 'non-reentrant'))"
    )
    environment = {**os.environ, "JAXTYPING_DISABLE": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)


@pytest.mark.parametrize("way", [passed_compiled, blocks_before, blocks_in_place_after])
def test_where_no_graph_has_to_end_none_does_in_a_run_that_forbids_it(way):
    with torch._dynamo.error_on_graph_break(True):
        assert_trains_as_if_eager(way, Residual)


@pytest.mark.parametrize("reset", [False, True])
def test_guards_that_are_left_out_are_an_error_that_says_what_to_do(reset):
    """Without a reset, the code of the measuring step would run for ever; with one, that of the others."""
    model = Residual()
    optimizer = build("LNGD", model)
    unguarded = torch.compile(model, backend="aot_eager", options={"guard_filter_fn": torch.compiler.keep_tensor_guards_unsafe})
    train(loss_of(unguarded), optimizer, [16])
    if reset:
        torch.compiler.reset()
    with pytest.raises(RuntimeError, match="without guard_filter_fn"):
        train(loss_of(unguarded), optimizer, [16] * 3)
