"""Gradients, forwards and passes that the hooks can't see, or that are none of the training's."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lngd import KFAC, LNGD, LayerwiseRate, SpectralLNGD
from reference import batch, mlp, train_step

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


@pytest.mark.parametrize("made", [by_functions, from_a_copy, from_a_forward_without_gradients], ids=lambda made: made.__name__)
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
    assert all(len(passes) <= 4 for passes in capture._guessed.values())
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


@pytest.mark.parametrize("step_size", ["constant", "kl_clip", "layerwise", "rms"])
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
