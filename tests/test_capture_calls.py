"""Which calls of a layer count: those at which the gradient of the user's own backward pass arrives, once."""

import gc
import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lngd import KFAC, LNGD, FisherType, NGPlus, Schedule, SpectralLNGD
from lngd.optimizer.curved_layer import MEETS_TARGETS, SEES_DATA
from lngd.sampling import Call
from lngd.torch_private import is_alias
from recorded import Recorded, layers_of, same
from reference import batch, differences, mlp, snapshot, train_step
from threads import run_together
from tiers import tiered

METHODS = {"LNGD": LNGD, "SpectralLNGD": SpectralLNGD, "KFAC": KFAC, "NGPlus": NGPlus}
every_fisher = pytest.mark.parametrize("fisher", FisherType)
every_method = pytest.mark.parametrize("kind", METHODS)


class Normed(nn.Module):
    """A low-rank pair whose product's norm is wanted: an identity matrix goes through it, and the loss does not see it."""

    def __init__(self, *, normed: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.down, self.up, self.normed = nn.Linear(4, 2, bias=False), nn.Linear(2, 1, bias=False), normed
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        norm = 1.0
        if self.normed:
            norm = self.up(self.down(torch.eye(4, dtype=x.dtype))).T.detach().norm()
        found = self.up(self.down(x)) / norm
        return torch.cat([found, torch.zeros_like(found)], -1)


@every_fisher
@pytest.mark.parametrize("n", [4, 7])
def test_what_the_loss_does_not_depend_on_is_no_data(n, fisher):
    x, y = batch(n, 4, classes=2)
    recorded = Recorded(model := Normed(normed=True), fisher)
    F.cross_entropy(model(x), y).backward()
    down, up = recorded.step()
    assert (down.name, up.name) == ("down", "up")
    assert [torch.equal(call, x) for call in down.x] == [True]
    assert [torch.equal(call, model.down(x)) for call in up.x] == [True]


@pytest.mark.parametrize("method", [LNGD, SpectralLNGD])
def test_an_identity_matrix_that_goes_through_an_adapter_changes_no_factor(method):
    """One output: the squares of g do not depend on which signs were drawn."""
    factors, (x, y) = [], batch(6, 4, classes=2)
    for normed in (False, True):
        model = Normed(normed=normed)
        optimizer = method(model)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        factors.append((optimizer.blocks["down"].phi, optimizer.blocks["down"].psi))
    torch.testing.assert_close(*factors)


class Borrowed(nn.Module):
    """A layer is called beside the loss, which uses its weight without calling it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.beside = self.body(x).detach()
        return self.head(F.linear(x, self.body.weight, self.body.bias).tanh())


@every_method
def test_a_layer_of_which_no_call_reaches_the_loss_falls_back_with_a_reason_and_trains(kind):
    model, (x, y) = Borrowed(), batch(8, 4, dtype=torch.float32)
    optimizer, before = METHODS[kind](model), model.body.weight.detach().clone()
    reason = "the model's output, from which labels are drawn" if kind == "KFAC" else "no gradient came to its calls"
    with pytest.warns(UserWarning, match=f"layer 'body': AdamW trains it from now on.*{reason}"):
        train_step(model, optimizer, x, y)
    train_step(model, optimizer, x, y)
    assert set(optimizer.blocks) == {"head"}
    assert {o.name: o.reason for o in optimizer.summary()}["body.weight"]
    assert not torch.equal(model.body.weight, before)


def waiting_calls() -> list[Call]:
    """Of all models."""
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is Call]


@every_fisher
def test_a_forward_without_a_backward_pass_measures_nothing_and_is_not_kept(fisher):
    model, (x, y), before = mlp(4, 5, 3), batch(8, 4), len(waiting_calls())
    recorded = Recorded(model, fisher)
    for _ in range(3):
        model(3 * x)
    assert len(waiting_calls()) == before
    F.cross_entropy(model(x), y).backward()
    found = recorded.step()
    assert [each.name for each in found] == ["0", "2"]
    assert torch.equal(found[0].x[0], x)


@every_fisher
def test_measurements_are_handed_on_in_the_backward_pass_and_once(fisher):
    model, (x, y) = mlp(4, 5, 3), batch(8, 4)
    recorded = Recorded(model, fisher)
    loss = F.cross_entropy(model(x), y)
    assert recorded.handed == []
    for _ in range(2):
        loss.backward(retain_graph=True)
    if fisher is not FisherType.EMPIRICAL:  # which adds up until the step
        assert [each.name for each in recorded.handed] == ["2", "0"]
    assert recorded.names() == ["0", "2"]
    loss.backward()
    assert recorded.names() == []


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.head = nn.Linear(4, 4).double(), nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        self.first = self.layer(x)
        return self.head(self.layer(self.first.tanh()).tanh())


@every_fisher
def test_the_calls_of_one_forward_are_handed_on_together_in_their_order(fisher):
    model, (x, y) = Twice(), batch(8, 4)
    recorded = Recorded(model, fisher)
    F.cross_entropy(model(x), y).backward()
    calls = [each for each in recorded.step() if each.name == "layer"]
    assert len(calls) == (2 if fisher is FisherType.LAYERWISE else 1), "with noise of its own, each call is one"
    assert torch.equal(calls[0].x[0], x)
    assert torch.equal([call for each in calls for call in each.x][1], model.first.tanh())


@every_fisher
def test_two_forwards_before_one_backward_pass_are_two_micro_batches(fisher):
    model, (x, y) = Twice(), batch(8, 4)
    recorded = Recorded(model, fisher)
    (F.cross_entropy(model(x[:3]), y[:3]) + F.cross_entropy(model(x[3:]), y[3:])).backward()
    found = [(each.name, each.batch, each.forward_id) for each in recorded.step()]
    expected = [("head", 3, 1), ("head", 5, 2), ("layer", 3, 1), ("layer", 5, 2)]
    assert list(dict.fromkeys(found)) == expected


Look = Callable[[nn.Module, Tensor, Tensor], None]


def gradient_norm(model: nn.Module, _x: Tensor, loss: Tensor) -> None:
    torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)


def saliency(_model: nn.Module, x: Tensor, loss: Tensor) -> None:
    torch.autograd.grad(loss, x, retain_graph=True)


def another_backward(_model: nn.Module, _x: Tensor, loss: Tensor) -> None:
    (3 * loss).backward(retain_graph=True)


def nothing(_model: nn.Module, _x: Tensor, _loss: Tensor) -> None:
    """The forward waits for its backward pass."""


LOOKS = [nothing, gradient_norm, saliency, another_backward]


@pytest.mark.parametrize("look", LOOKS)
@every_fisher
def test_zeroing_gradients_between_forward_and_backward_drops_what_has_arrived_and_nothing_else(fisher, look):
    runs, rates = [], []
    for looked in (False, True):
        model, (x, y) = Twice(), batch(8, 4)
        recorded = Recorded(model, fisher, rate_samples=4)
        x.requires_grad_(True)
        loss = F.cross_entropy(model(x), y)
        if looked:
            look(model, x, loss)
            model.zero_grad()
            recorded.zero_grad()
        loss.backward()
        rates.append({name: len(samples) for name, samples in recorded.capture.gather().items()})
        runs.append(recorded.step())
    assert same(*runs)
    assert rates[0] == rates[1] == {"layer": 2, "head": 1}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("kind", ["LNGD", "SpectralLNGD", "KFAC", "NGPlus"])
def test_looking_at_gradients_before_they_are_zeroed_changes_no_training(kind, look):
    runs = []
    for looked in (False, True):
        model, (x, y) = mlp(4, 6, 3), batch(8, 4)
        optimizer = METHODS[kind](model, generator=torch.Generator().manual_seed(5))
        for _ in range(4):
            x = x.detach().requires_grad_(True)
            loss = F.cross_entropy(model(x), y)
            if looked:
                look(model, x, loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        runs.append(snapshot(model, optimizer))
    assert differences(*runs) == []


@every_fisher
def test_an_attack_before_the_training_step_leaves_no_sample(fisher):
    model, (x, y) = mlp(4, 5, 3), batch(8, 4)
    recorded = Recorded(model, fisher)
    attacked = x.clone().requires_grad_(True)
    for _ in range(3):
        torch.autograd.grad(F.cross_entropy(model(attacked), y), attacked)
    recorded.zero_grad()
    F.cross_entropy(model(x), y).backward()
    assert {name: len(samples) for name, samples in recorded.capture.gather().items()} == {"0": 1, "2": 1}
    found = recorded.step()
    assert [each.name for each in found] == ["0", "2"]
    assert torch.equal(found[0].x[0], x)


def test_a_discriminator_does_not_learn_from_the_generators_step():
    runs = []
    for in_eval in (True, False):
        torch.manual_seed(1)
        maker, judge = mlp(4, 6, 4), mlp(4, 6, 5, 2)
        ours, theirs = LNGD(judge, generator=torch.Generator().manual_seed(5)), torch.optim.SGD(maker.parameters(), lr=0.1)
        (x, y), (z, _) = batch(8, 4, classes=2), batch(8, 4, seed=1)
        for _ in range(4):
            judge.train(not in_eval).requires_grad_(False)
            theirs.zero_grad()
            F.cross_entropy(judge(maker(z)), torch.ones_like(y)).backward()
            theirs.step()
            judge.train().requires_grad_(True)
            ours.zero_grad()
            (F.cross_entropy(judge(x), y) + F.cross_entropy(judge(maker(z).detach()), 1 - y)).backward()
            ours.step()
        runs.append({**dict(judge.state_dict()), **{f"rate {name}": rate for name, rate in ours.rates.items()}})
    for name, value in runs[0].items():
        torch.testing.assert_close(runs[1][name], value, msg=name)


def storage(t: Tensor) -> int:
    return t.untyped_storage().nbytes()


@pytest.mark.parametrize("elsewhere", [False, True])
@every_fisher
def test_between_forward_and_backward_nothing_is_held_of_inputs_that_autograd_does_not_hold(fisher, elsewhere):
    """Where it holds them elsewhere, no more than the sub-batch."""
    model, (x, y), before = mlp(4, 50, 3), batch(64, 4), {id(call) for call in waiting_calls()}
    recorded = Recorded(model, fisher, rate_samples=2, curvature_samples=8, least_rows=0)
    with torch.autograd.graph.save_on_cpu() if elsewhere else nullcontext():
        loss = F.cross_entropy(model(x), y)
    waiting = {call.name: call for call in waiting_calls() if id(call) not in before}
    assert waiting.keys() == {"0", "2"}
    for call in waiting.values():
        if fisher is FisherType.LAYERWISE:  # it is measured
            assert call.x.numel() == 0
            assert call.g is None
        else:
            assert storage(call.x) == (8 if elsewhere else 64) * call.x[0].numel() * 8
            assert call.g is None if fisher is FisherType.EMPIRICAL else storage(call.g) == 8 * call.g[0].numel() * 8
    if fisher is not FisherType.LAYERWISE:
        assert is_alias(waiting["0"].x, x) is not elsewhere
    del waiting, call
    loss.backward()
    assert len(waiting_calls()) == len(before)
    for each in recorded.step():
        assert (each.batch, len(each.x[0]), len(each.g[0])) == (64, 8, 8)


@every_fisher
def test_an_input_that_autograd_does_not_keep_may_be_written_to(fisher):
    torch.manual_seed(3)
    model, x = (
        nn.Sequential(nn.Conv1d(4, 3, 3, padding=1, padding_mode="circular")).double(),
        torch.randn(5, 4, 6, dtype=torch.float64),
    )
    recorded, before = Recorded(model, fisher, rate_samples=2), x.clone()
    loss = model(x).square().sum()
    x.zero_()
    loss.backward()
    assert torch.equal(recorded.capture.gather()["0"][0].x, before[::3])
    assert torch.equal(recorded.step()[0].x[0], before)


def test_under_autocast_what_the_layer_multiplies_is_measured_and_its_input_may_be_written_to():
    torch.manual_seed(3)
    model, x = nn.Sequential(nn.Linear(4, 3)), torch.randn(5, 4)
    recorded, before = Recorded(model, "empirical", rate_samples=2), x.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(x).square().sum()
    x.zero_()
    loss.backward()
    assert torch.equal(recorded.step()[0].x[0], before)


@every_fisher
def test_once_the_backward_pass_is_over_the_batch_may_be_written_to(fisher):
    """A layer's other call, whose gradient never comes, makes the first one wait for the step."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.layer = nn.Linear(4, 3).double()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer(x), self.layer(x.cos())

    model, (x, y) = Twice(), batch(8, 4)
    recorded, before = Recorded(model, fisher, rate_samples=2), x.clone()
    one, other = model(x)
    F.cross_entropy(one, y).backward()
    if fisher is not FisherType.SAMPLED:  # which has looked whether the output depends on it
        assert not recorded.handed
    x.zero_()
    (found,) = recorded.step()
    assert torch.equal(found.x[0], before)
    assert other.requires_grad


@pytest.mark.parametrize(("positions", "taken"), [(1, 32), (4, 16), (16, 8)])
@every_fisher
def test_a_sub_batch_has_as_many_samples_as_are_wanted_or_make_enough_rows(fisher, positions, taken):
    torch.manual_seed(1)
    model, x = nn.Sequential(nn.Linear(4, 3)).double(), batch(32, positions, 4)[0]
    recorded = Recorded(model, fisher, curvature_samples=8, least_rows=64)
    model(x).square().mean().backward()
    (found,) = recorded.step()
    assert len(found.x[0]) == len(found.g[0]) == taken
    assert torch.equal(found.x[0], x[:: 32 // taken])


class Longer(nn.Module):
    """A layer sees the same samples with few positions and with many."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).mean(1) + self.layer(torch.cat([x, x.sin(), x.cos()], 1)).mean(1)


@pytest.mark.parametrize("fisher", [FisherType.EMPIRICAL, FisherType.SAMPLED])
def test_calls_that_add_up_have_the_same_samples_however_many_positions_they_have(fisher):
    model, (x, y) = Longer(), batch(32, 4, 4)
    recorded = Recorded(model, fisher, curvature_samples=2, least_rows=64)
    F.cross_entropy(model(x), y).backward()
    (found,) = recorded.step()
    assert [len(call) for call in found.x] == [len(call) for call in found.g] == [16, 16]
    assert torch.equal(found.x[1][:, :4], found.x[0])


class Wrapped(nn.Module):
    """A model of everything that checkpointing may disturb."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.one, self.norm, self.two = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.one(x)).relu()
        return self.head(self.two(self.two(h).tanh()).tanh())


Run = Callable[[nn.Module, Tensor], Tensor]
RUNS: dict[str, Run] = {
    "plain": lambda model, x: model(x),
    "non-reentrant": lambda model, x: checkpoint(model, x, use_reentrant=False),
    "reentrant": lambda model, x: checkpoint(model, x, use_reentrant=True),
}


@pytest.mark.parametrize("disturbed", [False, True])
@tiered("parts", [1, 2], [2])
@pytest.mark.parametrize("how", ["non-reentrant", "reentrant"])
@every_fisher
@tiered("kind", METHODS)
def test_checkpointing_the_whole_model_gives_the_same_bits(kind, fisher, how, parts, disturbed):
    """Micro-batches and evaluation between forward and backward included; both kinds of step."""
    runs, (x, y) = [], batch(8, 4, dtype=torch.float32)
    for run in ("plain", how):
        model = Wrapped()
        generator = torch.Generator().manual_seed(5)
        optimizer = METHODS[kind](model, fisher=fisher, generator=generator, schedule=2)
        for _ in range(3):
            optimizer.zero_grad()
            for part, labels in zip(x.chunk(parts), y.chunk(parts), strict=True):
                loss = F.cross_entropy(RUNS[run](model, part.clone().requires_grad_()), labels) / parts
                if disturbed:
                    with torch.no_grad():
                        model(3 * x)
                loss.backward()
            optimizer.step()
        assert {outcome.reason for outcome in optimizer.summary() if outcome.layer} <= {"", SEES_DATA, MEETS_TARGETS}
        runs.append(snapshot(model, optimizer))
    assert differences(*runs) == []


def test_two_models_in_two_threads_train_as_each_alone():
    def make(seed: int) -> tuple[nn.Module, LNGD]:
        torch.manual_seed(seed)
        model = nn.Sequential(*[layer for _ in range(4) for layer in (nn.Linear(8, 8), nn.Tanh())], nn.Linear(8, 3))
        return model, LNGD(model, generator=torch.Generator().manual_seed(seed), schedule=Schedule(curvature_every=1))

    def train(model: nn.Module, optimizer: LNGD, seed: int) -> None:
        x, y = batch(512, 8, seed=seed, dtype=torch.float32)
        for _ in range(20):
            train_step(model, optimizer, x, y)

    alone, together = {seed: make(seed) for seed in (1, 2)}, {seed: make(seed) for seed in (1, 2)}
    for seed, made in alone.items():
        train(*made, seed)
    run_together(partial(train, *made, seed) for seed, made in together.items())
    for seed in (1, 2):
        assert differences(snapshot(*alone[seed]), snapshot(*together[seed])) == []


def test_a_pass_of_our_own_in_one_thread_is_not_seen_in_another():
    """One thread stands in the middle of its own pass while the other trains."""
    inside, done, seen = threading.Event(), threading.Event(), []

    class Waiting(torch.autograd.Function):
        @staticmethod
        def forward(_ctx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(_ctx, gradient: Tensor) -> Tensor:
            inside.set()
            done.wait()
            return gradient

    class Slow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Waiting.apply(x)

    slow = nn.Sequential(nn.Linear(4, 5), Slow(), nn.Linear(5, 3)).double()
    recorded = Recorded(slow, "layerwise")
    x, y = batch(8, 4)

    def forward() -> None:
        slow(x)

    thread = threading.Thread(target=forward)
    thread.start()
    inside.wait()
    try:
        model = mlp(4, 5, 3)
        beside = Recorded(model, "layerwise")
        F.cross_entropy(model(x), y).backward()
        seen = beside.names()
    finally:
        done.set()
        thread.join()
    assert seen == ["0", "2"]
    assert recorded.names() == []


class Solved(torch.autograd.Function):
    """Runs a module inside and a backward pass of its own through it, as implicit layers do."""

    @staticmethod
    def forward(ctx, x: Tensor, inner: nn.Module, _weight: Tensor) -> Tensor:
        with torch.enable_grad():
            ctx.x = x.detach().requires_grad_()
            ctx.y = inner(ctx.x).tanh()
        ctx.inner = inner
        return ctx.y.detach()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = torch.autograd.grad(ctx.y, (ctx.x, ctx.inner.weight), gradient, retain_graph=True)
        return x, None, weight


@every_fisher
def test_a_backward_pass_inside_a_backward_pass_is_the_users_only_if_the_outer_one_is(fisher):
    """Two captures on one model: the passes of the one, and what they run inside, are nothing to the other."""

    class Implicit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.first, self.inner, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(Solved.apply(self.first(x).tanh(), self.inner, self.inner.weight))

    model, (x, y) = Implicit(), batch(8, 4)
    captures = [Recorded(model, each) for each in (fisher, *FisherType)]
    loss = F.cross_entropy(model(x), y)
    assert all(recorded.capture.gather() == {} for recorded in captures)
    loss.backward()
    for recorded in captures:
        assert {name: len(samples) for name, samples in recorded.capture.gather().items()} == {"first": 1, "inner": 1, "head": 1}
        assert {"first", "head"} <= set(recorded.names())


def test_a_model_that_keeps_its_output_is_freed():
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.kept = self.two(self.one(x).tanh())
            return self.kept

    model, (x, y) = Keeping(), batch(8, 4, dtype=torch.float32)
    optimizer = LNGD(model)
    for _ in range(3):
        train_step(model, optimizer, x, y)
    gone = weakref.ref(model)
    del model, optimizer
    gc.collect()
    assert gone() is None


@every_fisher
def test_gradients_that_have_a_graph_of_their_own_are_not_held_with_it(fisher):
    model, (x, y) = mlp(4, 5, 3), batch(8, 4)
    recorded = Recorded(model, fisher)
    grads = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()), create_graph=True)
    sum(g.square().sum() for g in grads).backward()
    rates = [sample for samples in recorded.capture.gather().values() for sample in samples]
    assert not any(t.requires_grad for sample in rates for t in (sample.x, sample.g))
    assert not any(t.requires_grad for each in recorded.step() for t in (*each.x, *each.g))


def test_layers_may_be_watched_later_and_no_more():
    model, (x, y) = mlp(4, 5, 6, 3), batch(8, 4)
    layers = layers_of(model)
    recorded = Recorded(model, "layerwise")
    recorded.capture.watch({name: layers[name] for name in ("0", "4")})

    def step() -> list[str]:
        F.cross_entropy(model(x), y).backward()
        return recorded.names()

    assert step() == ["0", "4"]
    assert not model[2]._forward_hooks
    assert not model[2]._forward_pre_hooks
    recorded.capture.watch({name: layers[name] for name in ("2", "4")})
    assert step() == ["2", "4"]
    assert not model[0]._forward_hooks
    recorded.capture.watch({})
    assert step() == []


def test_what_was_captured_of_layers_that_stay_is_kept_when_others_come():
    model, (x, y) = mlp(4, 5, 6, 3), batch(8, 4)
    layers = layers_of(model)
    recorded = Recorded(model, "empirical")
    F.cross_entropy(model(x), y).backward(retain_graph=True)  # another pass may come, so nothing is handed on yet
    model[4] = nn.Linear(6, 3).double()
    recorded.capture.watch({"0": layers["0"], "4": layers_of(model)["4"]})
    assert recorded.capture.gather().keys() == {"0"}
    assert recorded.names() == ["0"]
    F.cross_entropy(model(x), y).backward()
    assert recorded.capture.gather().keys() == {"0", "4"}
    assert recorded.names() == ["0", "4"]


def test_a_gradient_that_comes_to_a_module_no_longer_watched_is_dropped():
    model, (x, y) = mlp(4, 5, 3), batch(8, 4)
    recorded = Recorded(model, "empirical")
    loss = F.cross_entropy(model(x), y)
    model[2] = nn.Linear(5, 3).double()
    recorded.capture.watch(layers_of(model))
    loss.backward()
    assert recorded.capture.gather().keys() == {"0"}
    assert recorded.names() == ["0"]


def test_the_running_averages_of_a_module_that_came_later_are_left_alone_too():
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.first, self.norm, self.second, self.head = nn.Linear(3, 3), nn.Identity(), nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(checkpoint(lambda h: self.second(self.norm(h)), self.first(x), use_reentrant=False))

    counts, (x, y) = [], batch(4, 3, classes=2, dtype=torch.float32)
    for watched in (False, True):
        model = Late()
        recorded = Recorded(model, "layerwise") if watched else None
        model.norm = nn.BatchNorm1d(3)
        if recorded is not None:
            recorded.capture.watch(layers_of(model))
        F.cross_entropy(model(x), y).backward()
        counts.append(model.norm.num_batches_tracked.item())
        assert recorded is None or recorded.names() == ["first", "head", "second"]
    assert counts == [2, 2]


def test_a_model_that_is_a_layer_itself_may_be_watched_later():
    model, (x, y) = nn.Linear(4, 3).double(), batch(8, 4)
    recorded = Recorded(model, "sampled")
    recorded.capture.watch({})
    recorded.capture.watch(layers_of(model))
    F.cross_entropy(model(x), y).backward()
    assert recorded.names() == [""]


def test_no_hook_is_left_when_a_capture_is_closed():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    recorded = Recorded(model, "layerwise")
    recorded.capture.watch({"2": layers_of(model)["2"]})
    recorded.capture.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class CheckpointedMiddle(nn.Module):
    """Three layers, the second in a checkpointed part."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.layers, self.reentrant = mlp(4, 5, 6, 3), reentrant

    def forward(self, x: Tensor) -> Tensor:
        middle = checkpoint(self.layers[1:3], self.layers[0](x), use_reentrant=self.reentrant)
        return self.layers[3:](middle)


@every_fisher
@pytest.mark.parametrize("reentrant", [True, False])
def test_every_layer_of_a_checkpointed_part_is_measured_in_every_micro_batch(reentrant, fisher):
    """Noise on the output of the part's last layer is drawn after its backward pass, when the next forward may have begun."""
    model = CheckpointedMiddle(reentrant=reentrant)
    optimizer, samples = LNGD(model, schedule=1, fisher=fisher), dict.fromkeys(("layers.0", "layers.2", "layers.4"), 0)
    for name, each in optimizer._layers.items():
        measured = each.measured

        def counted(calls, n, *rest, name=name, measured=measured):
            add = measured(calls, n, *rest)

            def count() -> None:
                samples[name] += n
                add()

            return count

        each.measured = counted
    for n in (3, 4):
        x, y = batch(n, 4)
        F.cross_entropy(model(x), y).backward()
    optimizer.step()
    assert set(samples.values()) == {7}
