"""Loops that don't call the model as a whole, or call its layers on batches of different sizes."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lngd import KFAC, LNGD, Factors, FisherType, KLClip, LayerwiseRate, LNGDLr, Schedule
from reference import batch, mlp, train_step

PARTS = [FisherType.LAYERWISE, FisherType.EMPIRICAL]
SINGLE = torch.float32


class Wrapper(nn.Module):
    """Its own forward is rarely used, as in a LightningModule."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(4, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    named = {f"{n}.{k}": t for n, block in optimizer.blocks.items() for k, t in block.tensors().items()}
    return named | {f"rate {n}": rate for n, rate in optimizer.rates.items()}


@pytest.mark.parametrize("method", [LNGD, KFAC])
@pytest.mark.parametrize("fisher", PARTS)
def test_micro_batches_through_a_part_of_the_model_are_those_of_the_whole(fisher, method):
    runs = []
    for part in (False, True):
        model = Wrapper()
        optimizer = method(model, fisher=fisher, step_size=LayerwiseRate(samples=None), lr=0.5)
        for step in range(3):
            optimizer.zero_grad()
            for micro in range(4):
                x, y = batch(8, 4, seed=10 * step + micro)
                (F.cross_entropy((model.net if part else model)(x), y) / 4).backward()
            optimizer.step()
        runs.append(tensors(optimizer))
    assert set(runs[0]) == set(runs[1])
    for name, value in runs[0].items():
        torch.testing.assert_close(runs[1][name], value, msg=name)


def test_parts_of_a_model_are_refused_where_labels_are_drawn_even_after_a_whole_forward():
    model, (x, y) = Wrapper(), batch(8, 4)
    optimizer = KFAC(model, schedule=Schedule(curvature_every=1))
    train_step(model, optimizer, x, y)
    F.cross_entropy(model.net(x), y).backward()
    with pytest.raises(RuntimeError, match=r"call model\(x\) as a whole"):
        optimizer.step()


class TwoSizes(nn.Module):
    """One layer on the batch and on twice the batch."""

    def __init__(self, small_first: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.small_first = nn.Linear(4, 3).double(), small_first

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([x, -x])
        inputs = (x, both) if self.small_first else (both, x)
        found = {len(part): self.layer(part) for part in inputs}
        return found[len(x)] + found[len(both)][: len(x)] + found[len(both)][len(x) :]


@pytest.mark.parametrize("fisher", FisherType)
def test_calls_on_batches_of_different_sizes_count_alike_in_any_order(fisher):
    runs = []
    for small_first in (False, True):
        model, (x, y) = TwoSizes(small_first), batch(8, 4)
        optimizer = LNGD(model, fisher=fisher, generator=torch.Generator().manual_seed(0))
        train_step(model, optimizer, x, y)
        runs.append(optimizer.blocks["layer"].phi.trace())
    torch.testing.assert_close(*runs)


@pytest.mark.parametrize("step_size", [KLClip(), LayerwiseRate(mu=0.0)])
@pytest.mark.parametrize("method", [LNGDLr, KFAC])
def test_a_sum_over_samples_takes_the_same_steps_as_their_mean(method, step_size):
    runs = []
    for reduction, mean_over in (("mean", "batch"), ("sum", "none")):
        model = mlp(4, 6, 3)
        options = {"mean_over": mean_over, "factors": Factors(damping_bounds=(0.0, 1e9)), "lr": 0.05, "warmup": 0}
        optimizer = method(model, step_size=step_size, **options)
        for step in range(5):
            x, y = batch(16, 4, seed=step)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y, reduction=reduction).backward()
            optimizer.step()
        runs.append([p.detach() for p in model.parameters()])
    for one, other in zip(*runs, strict=True):
        torch.testing.assert_close(one, other)


def test_a_checkpoint_of_another_fisher_type_is_refused():
    model, other, (x, y) = mlp(4, 6, 3), mlp(4, 6, 3), batch(8, 4)
    optimizer = LNGD(model)
    train_step(model, optimizer, x, y)
    with pytest.raises(ValueError, match="fisher=layerwise, this optimizer has sampled"):
        LNGD(other, fisher="sampled").load_state_dict(optimizer.state_dict())


def test_an_optimizer_is_freed_with_its_last_reference():
    """Curvature is large: it must not wait for the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        model, (x, y) = mlp(4, 6, 3), batch(8, 4)
        optimizer = KFAC(model)
        train_step(model, optimizer, x, y)
        block = weakref.ref(optimizer.blocks["0"])
        del optimizer
        assert block() is None
    finally:
        gc.enable()


def test_a_sparse_gradient_is_refused_by_name():
    model = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Flatten(), nn.Linear(8, 3))
    optimizer = LNGD(model)
    F.cross_entropy(model(torch.tensor([[0, 1], [2, 3]])), torch.tensor([0, 1])).backward()
    with pytest.raises(RuntimeError, match=r"'0\.weight' has a sparse gradient"):
        optimizer.step()
