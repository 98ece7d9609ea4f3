"""Rows: numbers that go wrong."""

import math
import re
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compatibility.runs import OFTEN, assert_healthy, assert_trains, batches, changed, learnable, plain, seeded, start
from compatibility.table import group
from lngd import Factors, Schedule
from lngd.methods import Method
from reference import differences

safety = group("Numerical safety")

COUNTS = ("steps", "skipped", "measuring", "owed", "portions", "generator")
"""What a skipped step may change: counts, and what was drawn in its forward."""
SKIPPED = (
    "skipped, counted, nothing lost: weights, statistics, averages bit-equal, one warning, the run goes on and the loss falls"
)
Backward = Callable[[nn.Module, Tensor, Tensor], None]


def nan_input(model: nn.Module, x: Tensor, y: Tensor) -> None:
    x = x.clone()
    x[3, 1] = math.nan
    F.cross_entropy(model(x), y).backward()


def infinite_loss(model: nn.Module, x: Tensor, y: Tensor) -> None:
    (F.cross_entropy(model(x), y) * math.inf).backward()


def infinite_gradient(model: nn.Module, x: Tensor, y: Tensor) -> None:
    F.cross_entropy(model(x), y).backward()
    model[0].weight.grad[2, 1] = -math.inf


def half_overflow(model: nn.Module, x: Tensor, y: Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.float16):
        F.cross_entropy(model(1e5 * x), y).backward()


def skips(method: type[Method], backward: Backward) -> None:
    """Bad batches at steps of every kind: measuring and refreshing, and neither, the first step among them."""
    run, (x, y), bad = start(method, plain(), warmup=3, schedule=3), learnable(32, 4), {0, 3, 5, 7}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(11):
            if step not in bad:
                run.step(x, y)
                continue
            run.optimizer.zero_grad()
            backward(run.model, x, y)
            before = run.snapshot()
            run.optimizer.step()
            assert changed(before, run, COUNTS) == [], f"at step {step}"
    assert len(caught) == 1
    assert "skipped" in str(caught[0].message)
    assert_healthy(run, skipped=len(bad))
    assert run.losses[-1] < 0.98 * run.losses[0]
    assert_a_bad_first_step_is_as_if_it_had_not_been(method, backward)


def assert_a_bad_first_step_is_as_if_it_had_not_been(method: type[Method], backward: Backward) -> None:
    """What its forward drew from the optimizer's generator aside."""
    runs, (x, y) = [], learnable(16, 4)
    for bad in (False, True):
        run = start(method, plain(), warmup=0, schedule=Schedule(ramp=False))
        if bad:
            backward(run.model, x, y)
            with pytest.warns(UserWarning, match="skipped"):
                run.optimizer.step()
            seeded(run.generator)
        runs.append(run.steps([(x, y)]))
    one, two = (run.model.state_dict() for run in runs)
    assert differences(one, two) == []


@safety("NaN batch", SKIPPED)
def nan_batch(method: type[Method]) -> None:
    skips(method, nan_input)


@safety("Infinite loss", SKIPPED)
def inf_loss(method: type[Method]) -> None:
    skips(method, infinite_loss)


@safety("Infinite gradient", SKIPPED)
def inf_gradient(method: type[Method]) -> None:
    skips(method, infinite_gradient)


@safety("float16 overflow without a scaler", SKIPPED)
def float16_overflow(method: type[Method]) -> None:
    skips(method, half_overflow)


@safety("Batch of one", "every parameter moves, the loss falls, nothing is skipped")
def batch_of_one(method: type[Method]) -> None:
    x, y = learnable(1, 4)
    assert_trains(method, plain(), x, y, curved={"0", "3", "5"})


@safety("Empty batch", "counts as no sample: a first step on it moves nothing, what follows is bit-equal to a run without it")
def empty_batch(method: type[Method]) -> None:
    runs = []
    for empty in (False, True):
        model = nn.Sequential(*plain()[2:])  # without the layers that AdamW counts steps of
        run = start(method, model, warmup=0, momentum=0.0, schedule=Schedule(ramp=False))
        if empty:
            before = {name: p.detach().clone() for name, p in model.named_parameters()}
            run.optimizer.zero_grad()
            F.cross_entropy(model(torch.empty(0, 6)), torch.empty(0, dtype=torch.int64), reduction="sum").backward()
            run.optimizer.step()
            assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
            seeded(run.generator)
        runs.append(run.steps(batches(1, 6)))
    one, two = ([p.detach() for p in run.model.parameters()] for run in runs)
    assert all(torch.equal(p, q) for p, q in zip(one, two, strict=True))
    assert_healthy(runs[1], skipped=0)


@safety("Constant inputs", "factors of rank one: every parameter moves, the loss falls, nothing is skipped, no warning")
def constant_inputs(method: type[Method]) -> None:
    assert_trains(method, plain(), torch.full((16, 4), 2.0), torch.zeros(16, dtype=torch.int64), curved={"0", "3", "5"})


@safety("Dead layer", "a ReLU that never fires: its layer stays bit-equal and finite, the bias behind it learns, no warning")
def dead_layer(method: type[Method]) -> None:
    model = dying()
    model[0].bias.data.fill_(-100.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run = start(method, model, warmup=0).steps([(learnable(16, 4)[0], torch.zeros(16, dtype=torch.int64))] * 8)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"2.bias"}
    assert run.losses[-1] < 0.97 * run.losses[0]
    assert_healthy(run, skipped=0)


def dying() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def scaled_inputs(method: type[Method], scale: float) -> None:
    """Six steps on scaled inputs, then ordinary ones."""
    run, (x, y) = start(method, plain(), warmup=3, **OFTEN), learnable(32, 4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(6):
            loss = run.step(scale * x, y)
            assert not loss.isfinite() or all(p.isfinite().all() for p in run.model.parameters())
        ordinary = run.step(x, y)
        run.steps([(x, y)] * 6)
    assert [str(w.message) for w in caught if not re.search(r"skipped|layer '\d'", str(w.message))] == []
    assert_healthy(run)
    assert run.losses[-1] < 0.98 * ordinary


@safety("Inputs of 1e-30", "no parameter becomes infinite or NaN, and on ordinary inputs the loss then falls")
def tiny_inputs(method: type[Method]) -> None:
    scaled_inputs(method, 1e-30)


@safety("Inputs of 1e+30", "no parameter becomes infinite or NaN, and on ordinary inputs the loss then falls")
def huge_inputs(method: type[Method]) -> None:
    scaled_inputs(method, 1e30)


@safety(
    "Cholesky failure",
    "a layer dies without any damping: its last inverse is kept bit-equal, weights stay finite, a warning or an error names it",
)
def cholesky_failure(method: type[Method]) -> None:
    options = {"damping": 0.0, "factors": Factors(damping_bounds=(0.0, math.inf)), "decay": 0.0, "schedule": 1}
    (x, y), (other, labels), *more = batches(6, 4, n=32)
    run, said = start(method, dying(), **options), []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.steps([(x, y), (10 * other, labels)])  # far from the first, or THOR settles on the inverse that it has
        block = run.optimizer.blocks["0"]
        assert block.ready
        kept = {name: getattr(block, name).clone() for name in block.inverses if name.endswith(("_inverse", "_basis"))}
        assert kept
        with torch.no_grad():
            run.model[0].bias.fill_(-100.0)
        caught.clear()
        try:
            run.steps(more)
        except RuntimeError as error:
            said.append(str(error))
    said += [str(w.message) for w in caught]
    assert any("'0'" in message for message in said)
    assert [message for message in said if not re.search(r"layer '\d'", message)] == []
    assert all(torch.equal(getattr(block, name), t) for name, t in kept.items())
    assert all(p.isfinite().all() for p in run.model.parameters())
