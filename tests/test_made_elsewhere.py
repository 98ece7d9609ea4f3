"""Gradients, forwards and passes that the hooks can't see, or that are none of the training's."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._functorch.aot_autograd import aot_module
from torch.fx.experimental.proxy_tensor import make_fx

from lngd import KFAC, LNGD, LayerwiseRate, NGPlus, SpectralLNGD
from reference import Branches, batch, differences, mlp, snapshot, train_step

METHODS = pytest.mark.parametrize("method", [LNGD, SpectralLNGD, KFAC], ids=lambda method: method.__name__)


def by_functions(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """torch.func, set by hand."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    gradients = torch.func.grad(lambda ps: F.cross_entropy(torch.func.functional_call(model, ps, x), y))(parameters)
    for name, p in model.named_parameters():
        p.grad = gradients[name]


def from_a_copy(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """As first-order meta-learning and a server of many clients do."""
    other = copy.deepcopy(model)
    F.cross_entropy(other(x), y).backward()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        p.grad = q.grad


def from_a_forward_without_gradients(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """A forward is seen, no gradient comes back through it."""
    with torch.no_grad():
        model(x)
    from_a_copy(model, x, y)


def into_gradients_that_are_there(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """In place."""
    gradients = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        p.grad.copy_(gradient)


def of_other_weights(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """The model's own forward, with adapted weights."""
    adapted = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    loss = F.cross_entropy(torch.func.functional_call(model, adapted, x), y)
    for p, gradient in zip(model.parameters(), torch.autograd.grad(loss, list(adapted.values())), strict=True):
        p.grad = gradient


MADE = (by_functions, from_a_copy, from_a_forward_without_gradients, into_gradients_that_are_there, of_other_weights)


@pytest.mark.parametrize("made", MADE, ids=lambda made: made.__name__)
@METHODS
def test_a_model_whose_gradients_are_made_elsewhere_is_trained_by_adamw_and_a_warning_says_why(method, made):
    model, (x, y) = mlp(4, 5, 3), batch(8, 4)
    optimizer, start = method(model), [p.clone() for p in model.parameters()]
    made(model, x, y)
    with pytest.warns(UserWarning, match=r"layer '[02]': AdamW trains it from now on.*(set by hand|without calling)"):
        optimizer.step()
    for _ in range(3):
        made(model, x, y)
        optimizer.step()
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), start, strict=True))
    assert {o.kind for o in optimizer.summary()} == {"fallback"}


@pytest.mark.parametrize("made", MADE, ids=lambda made: made.__name__)
@METHODS
def test_a_model_that_has_curvature_moves_with_gradients_that_are_made_elsewhere(method, made):
    model, (x, y) = mlp(4, 5, 3), batch(8, 4)
    optimizer = method(model)
    for seed in range(3):
        train_step(model, optimizer, *batch(8, 4, seed=seed))
    for _ in range(12):
        before = [p.clone() for p in model.parameters()]
        made(model, x, y)
        optimizer.step()
        assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def through_own_weights(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Second-order meta-learning: the adapted weights are functions of the model's."""
    own = dict(model.named_parameters())
    loss = F.cross_entropy(torch.func.functional_call(model, own, x), y)
    gradients = torch.autograd.grad(loss, list(own.values()), create_graph=True)
    adapted = {name: p - 0.1 * gradient for (name, p), gradient in zip(own.items(), gradients, strict=True)}
    F.cross_entropy(torch.func.functional_call(model, adapted, x), y).backward()


def by_shallow_copies(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Replicas that share the parameters, a part of the batch each."""
    for part in (slice(0, 3), slice(3, None)):
        replica = copy.copy(model)
        replica._modules = {name: copy.copy(module) for name, module in model.named_children()}
        F.cross_entropy(replica(x[part]), y[part], reduction="sum").div(len(x)).backward()


def and_a_workers(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Gradients of another process are added to the model's own."""
    other = copy.deepcopy(model)
    F.cross_entropy(other(2 * x), y).backward()
    F.cross_entropy(model(x), y).backward()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        p.grad = (p.grad + q.grad) / 2


@pytest.mark.parametrize("made", [through_own_weights, by_shallow_copies, and_a_workers], ids=lambda made: made.__name__)
@METHODS
def test_what_passes_through_the_models_own_layers_has_curvature(method, made):
    model, (x, y) = mlp(4, 5, 3), batch(8, 4)
    optimizer, start = method(model), [p.clone() for p in model.parameters()]
    for _ in range(4):
        optimizer.zero_grad()
        made(model, x, y)
        optimizer.step()
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), start, strict=True))
    assert {o.kind for o in optimizer.summary()} == {"curvature"}


@METHODS
def test_zeros_that_zero_grad_left_are_no_gradient_of_a_branch_that_was_not_used(method):
    runs = []
    for set_to_none in (True, False):
        model = Branches().double()
        optimizer = method(model, generator=torch.Generator().manual_seed(0))
        for p in model.parameters():
            p.grad = None if set_to_none else torch.zeros_like(p)
        for seed in range(6):
            model.use_left = seed < 3
            x, y = batch(8, 4, seed=seed)
            optimizer.zero_grad(set_to_none)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        assert {o.kind for o in optimizer.summary()} == {"curvature"}
        runs.append({name: block.updates for name, block in optimizer.blocks.items()})
    assert runs[0] == runs[1]


ACCUMULATED = pytest.mark.parametrize("method", [LNGD, SpectralLNGD, KFAC, NGPlus], ids=lambda method: method.__name__)


@ACCUMULATED
def test_a_micro_batch_whose_gradient_is_zero_counts_as_any(method):
    """On the host a look at the gradient tells what was dropped; zero from the start is not dropped."""
    runs = []
    for look in (False, True):
        model = mlp(4, 5, 3)
        optimizer = method(model, schedule=2, generator=torch.Generator().manual_seed(0))
        for seed in range(4):
            optimizer.zero_grad()
            for x, y, weight in ((*batch(8, 4, seed=seed), 0.0), (*batch(4, 4, seed=9 + seed), 1.0)):
                (weight * F.cross_entropy(model(x), y)).backward()
                if look:
                    assert model[0].weight.grad.norm() >= 0
            optimizer.step()
        assert {each.pending.samples for each in optimizer._layers.values()} == {0}
        runs.append(snapshot(model, optimizer))
    assert differences(*runs) == []


def scripted_part() -> nn.Module:
    return nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))), nn.Tanh(), nn.Linear(5, 3))


def traced_part() -> nn.Module:
    return nn.Sequential(torch.jit.trace(nn.Linear(4, 5), torch.ones(2, 4)), nn.Tanh(), nn.Linear(5, 3))


def scripted() -> nn.Module:
    return torch.jit.script(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:only .* of the entries")
@pytest.mark.parametrize("build", [scripted_part, traced_part, scripted], ids=lambda build: build.__name__)
@METHODS
def test_a_part_that_is_torchscript_is_trained_by_adamw(method, build):
    model = build()
    optimizer, start = method(model, schedule=1), [p.clone() for p in model.parameters()]
    for seed in range(3):
        train_step(model, optimizer, *batch(8, 4, seed=seed, dtype=torch.float32))
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), start, strict=True))
    assert all(o.kind == "curvature" for o in optimizer.summary() if o.name.startswith("2") and build is not scripted)
    optimizer.close()


RECORDED = {
    "make_fx": lambda model, x: make_fx(lambda z: model(z))(x)(x),
    "make_fx, symbolic": lambda model, x: make_fx(lambda z: model(z), tracing_mode="symbolic", _allow_non_fake_inputs=True)(x)(x),
    "AOTAutograd": lambda model, x: aot_module(model, fw_compiler=lambda graph, _inputs: graph)(x),
    "FX": lambda model, x: torch.fx.symbolic_trace(model)(x),
    "strict export": lambda model, x: torch.export.export(model, (x,), strict=True).module()(x),
    "non-strict export": lambda model, x: torch.export.export(model, (x,), strict=False).module()(x),
    "a trace of a layer": lambda model, x: model[2](model[1](torch.jit.trace(model[0], x)(x))),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:While compiling, we found certain side effects")  # jaxtyping's
@pytest.mark.parametrize("name", RECORDED)
@METHODS
def test_recording_a_watched_model_gives_its_output_and_leaves_no_trace(method, name):
    runs = []
    for recorded in (False, True):
        model = mlp(4, 5, 3)
        optimizer = method(model, schedule=1, generator=torch.Generator().manual_seed(0))
        for seed in range(3):
            x, y = batch(8, 4, seed=seed)
            if recorded:
                torch.testing.assert_close(RECORDED[name](model, x), model(x))
            train_step(model, optimizer, x, y)
        runs.append(snapshot(model, optimizer))
    assert differences(*runs) == []


@METHODS
def test_a_model_that_is_watched_can_be_traced_and_exported_and_trains_on(method):
    model, (x, y) = mlp(4, 5, 3), batch(8, 4)
    optimizer = method(model, schedule=1)
    train_step(model, optimizer, x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(model, x)
    torch.testing.assert_close(traced(x), model(x))
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))
    train_step(model, optimizer, x, y)
    assert {block.updates for block in optimizer.blocks.values()} == {2}


@pytest.mark.parametrize("copied", [False, True])
def test_torchscript_of_a_watched_model_is_one_sentence_that_says_what_to_do(copied):
    model = mlp(4, 5, 3)
    optimizer = LNGD(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with pytest.raises(RuntimeError, match=r"call optimizer\.close\(\)"):
            torch.jit.script(copy.deepcopy(model) if copied else model)
        optimizer.close()
        torch.jit.script(model)


def test_backward_passes_without_a_step_keep_nothing_that_grows():
    model, (x, y) = mlp(4, 5, 3), batch(8, 4)
    optimizer = LNGD(model, schedule=1)
    capture = optimizer._capture
    for _ in range(40):
        F.cross_entropy(model(x), y).backward()
        model.zero_grad()
        torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    assert all(len(samples) == 1 for samples in capture.rates.values())
    assert all(len(passes) <= 4 for passes in capture._ledger.guessed.values())
    assert len(capture.source.draws._ends) <= 8
    assert {each.pending.samples for each in optimizer._layers.values()} <= {0, 8}


@METHODS
def test_a_buffer_that_is_written_again_after_the_backward_pass_changes_nothing(method):
    """Loaders and CUDA graphs give the same memory for every batch; all samples are kept of one so small."""
    runs = []
    for again in (False, True):
        model, (x, y) = mlp(4, 5, 3), batch(8, 4)
        optimizer = method(model, schedule=1, generator=torch.Generator().manual_seed(0), fisher="empirical")
        for _ in range(3):
            buffer = x.clone()
            optimizer.zero_grad()
            F.cross_entropy(model(buffer), y).backward()
            if again:
                buffer.fill_(1e3)
            optimizer.step()
        runs.append([p.clone() for p in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))


@pytest.mark.parametrize("step_size", ["constant", "kl_clip", "invariant", LayerwiseRate(mu=0.0), "rms"], ids=str)
@pytest.mark.parametrize("fisher", ["layerwise", "sampled", "empirical"])
def test_a_sum_trains_as_the_mean_where_it_is_said_to_be_one(fisher, step_size):
    runs = []
    for reduction, mean_over in (("mean", "batch"), ("sum", "none")):
        model, generator = mlp(4, 5, 3), torch.Generator().manual_seed(0)
        optimizer = LNGD(model, lr=0.1, fisher=fisher, step_size=step_size, mean_over=mean_over, generator=generator)
        for seed in range(4):
            x, y = batch(8, 4, seed=seed)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y, reduction=reduction).backward()
            optimizer.step()
        runs.append([p.clone() for p in model.parameters()])
    for mean, of_sum in zip(*runs, strict=True):
        torch.testing.assert_close(of_sum, mean, rtol=1e-4, atol=1e-6)


@METHODS
def test_a_layer_that_is_called_with_a_nested_tensor_is_trained_by_adamw_and_a_warning_says_why(method):
    model = mlp(4, 5, dtype=torch.float32)
    optimizer, start = method(model, fisher="empirical"), model[0].weight.clone()
    x = torch.nested.nested_tensor([torch.randn(3, 4), torch.randn(5, 4)], layout=torch.jagged)
    for first in (True, False):
        optimizer.zero_grad()
        model(x).values().square().mean().backward()
        with pytest.warns(UserWarning, match="nested tensor") if first else warnings.catch_warnings():
            optimizer.step()
    assert not torch.equal(model[0].weight, start)


class Tripled(nn.Module):
    """What a hook can do, as a module."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return 3 * self.layer(x)


@pytest.mark.parametrize("put_on", ["before", "after"])
@METHODS
def test_a_users_hook_that_changes_a_layers_output_is_a_part_of_what_comes_behind_it(method, put_on):
    runs = []
    for hooked in (False, True):
        model = mlp(4, 5, 3)
        if hooked and put_on == "before":
            model[0].register_forward_hook(lambda _module, _args, output: 3 * output)
        if not hooked:
            model[0] = Tripled(model[0])
        optimizer = method(model, schedule=1, generator=torch.Generator().manual_seed(0))
        if hooked and put_on == "after":
            model[0].register_forward_hook(lambda _module, _args, output: 3 * output)
        for seed in range(3):
            train_step(model, optimizer, *batch(8, 4, seed=seed))
        runs.append([p.clone() for p in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))


@pytest.mark.parametrize("fisher", ["layerwise", "sampled", "empirical"])
def test_the_order_of_micro_batches_of_different_lengths_does_not_matter(fisher):
    """With a mean over tokens, all tokens of a step count for its scale, not those of one micro-batch."""
    (long, first), (short, second) = batch(4, 20, 4), batch(4, 2, 4, seed=1)
    rates = []
    for order in ((long, first), (short, second)), ((short, second), (long, first)):
        model = mlp(4, 5, 3)
        optimizer = LNGD(model, fisher=fisher, mean_over="token", schedule=1, step_size=LayerwiseRate(samples=None))
        for x, y in order:
            tokens = y.unsqueeze(1).expand(-1, x.shape[1])
            (F.cross_entropy(model(x).flatten(0, 1), tokens.flatten()) / 2).backward()
        optimizer.step()
        rates.append(torch.stack([torch.as_tensor(rate, dtype=torch.float64) for rate in optimizer.rates.values()]))
    tolerance = 1e-9 if fisher == "empirical" else 0.5  # the others draw in the order of the micro-batches
    torch.testing.assert_close(rates[0], rates[1], rtol=tolerance, atol=0)
