"""What torch's schedulers, and users by hand, do to a group is what the next step does: for the layers and for AdamW's part."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

from lngd import KFAC, LNGD, Factors, SpectralLNGD
from reference import batch, differences, mlp, snapshot, through_a_file, train_step

STEPS, RATIO = 9, 0.05
RATES = 0.4, 0.2


class Net(nn.Module):
    """Two parts, each with a layer that has curvature and one that has none."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh())
        self.head = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def groups(model: Net) -> list[dict[str, Any]]:
    return [{"params": list(part.parameters()), "lr": lr} for part, lr in zip((model.body, model.head), RATES, strict=True)]


def build(method: type = LNGD) -> tuple[Net, torch.optim.Optimizer]:
    model = Net()
    options = {"adamw_lr_ratio": RATIO, "weight_decay": 0.1, "warmup": 0, "generator": torch.Generator().manual_seed(0)}
    return model, method(model, groups(model), **options)


Drive = Callable[[torch.optim.Optimizer], Callable[[int], None]]


def stepping(build_scheduler: Callable[[torch.optim.Optimizer], Any]) -> Drive:
    """Steps a scheduler of torch."""

    def start(optimizer: torch.optim.Optimizer) -> Callable[[int], None]:
        scheduler = build_scheduler(optimizer)
        metrics = [1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []
        return lambda _step: scheduler.step(*metrics)

    return start


def by_hand(optimizer: torch.optim.Optimizer) -> Callable[[int], None]:
    def change(step: int) -> None:
        for number, group in enumerate(optimizer.param_groups):
            group["lr"] = 0.3 / (step + 2 + number)

    return change


DRIVEN: dict[str, Drive] = {
    "LambdaLR with two lambdas": stepping(lambda o: lr_scheduler.LambdaLR(o, [lambda k: 0.9**k, lambda k: 1 / (k + 1)])),
    "MultiplicativeLR with two lambdas": stepping(lambda o: lr_scheduler.MultiplicativeLR(o, [lambda _: 0.9, lambda _: 0.5])),
    "OneCycleLR with a number": stepping(lambda o: lr_scheduler.OneCycleLR(o, 0.5, total_steps=12)),
    "OneCycleLR with a list": stepping(lambda o: lr_scheduler.OneCycleLR(o, [0.5, 0.1], total_steps=12)),
    "OneCycleLR without its momentum cycle": stepping(
        lambda o: lr_scheduler.OneCycleLR(o, 0.5, total_steps=12, cycle_momentum=False)
    ),
    "CyclicLR with a number": stepping(lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.5, step_size_up=3)),
    "CyclicLR with lists": stepping(
        lambda o: lr_scheduler.CyclicLR(o, [0.1, 0.2], [0.5, 0.3], step_size_up=3, base_momentum=[0.7, 0.5], max_momentum=0.95)
    ),
    "ReduceLROnPlateau with a list": stepping(
        lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=1, min_lr=[0.15, 0.01])
    ),
    "SWALR with a number": stepping(lambda o: SWALR(o, swa_lr=0.05, anneal_epochs=4)),
    "SWALR with a list": stepping(lambda o: SWALR(o, swa_lr=[0.05, 0.01], anneal_epochs=4)),
    "CosineAnnealingWarmRestarts": stepping(lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4)),
    "SequentialLR": stepping(
        lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 4), lr_scheduler.StepLR(o, 2)], [4])
    ),
    "by hand": by_hand,
}
every_drive = pytest.mark.parametrize("name", DRIVEN)


def numbers(optimizer: torch.optim.Optimizer) -> list[tuple[float, float]]:
    return [(group["lr"], group["momentum"]) for group in optimizer.param_groups]


@every_drive
def test_the_groups_get_the_numbers_that_a_schedulers_own_optimizers_groups_get(name):
    model, optimizer = build()
    plain = Net()
    sgd = torch.optim.SGD(groups(plain), momentum=0.9)
    change, plain_change, seen = DRIVEN[name](optimizer), DRIVEN[name](sgd), []
    for step in range(STEPS):
        assert numbers(optimizer) == numbers(sgd)
        seen.append(numbers(sgd))
        train_step(model, optimizer, *batch(16, 4, seed=step))
        train_step(plain, sgd, *batch(16, 4, seed=step))
        change(step)
        plain_change(step)
    assert len({lr for each in seen for lr, _ in each}) > 2


def without_curvature(model: Net) -> list[nn.Parameter]:
    return [*model.body[1].parameters(), *model.head[1].parameters()]


@every_drive
def test_adamws_part_is_torchs_adamw_at_lr_times_the_ratio_of_its_own_group(name):
    model, optimizer = build()
    change, copied = DRIVEN[name](optimizer), copy.deepcopy(without_curvature(model))
    adamw = torch.optim.AdamW([{"params": copied[:2]}, {"params": copied[2:]}], weight_decay=0.1)
    for step in range(STEPS):
        optimizer.zero_grad()
        x, y = batch(16, 4, seed=step)
        F.cross_entropy(model(x), y).backward()
        for p, own in zip(copied, without_curvature(model), strict=True):
            p.grad = own.grad.clone()
        for theirs, mine in zip(adamw.param_groups, optimizer.param_groups, strict=True):
            theirs["lr"] = mine["lr"] * RATIO
        adamw.step()
        optimizer.step()
        for p, own in zip(copied, without_curvature(model), strict=True):
            torch.testing.assert_close(own, p, rtol=1e-12, atol=1e-14)
        change(step)


@pytest.mark.parametrize("method", [LNGD, KFAC])
@every_drive
def test_a_schedulers_run_is_the_run_in_which_somebody_writes_the_same_numbers(name, method):
    model, optimizer = build(method)
    change, written, ends = DRIVEN[name](optimizer), [], []
    for step in range(STEPS):
        written.append(numbers(optimizer))
        train_step(model, optimizer, *batch(16, 4, seed=step))
        change(step)
    ends.append(model)
    model, optimizer = build(method)
    for step in range(STEPS):
        for group, (lr, momentum) in zip(optimizer.param_groups, written[step], strict=True):
            group["lr"], group["momentum"] = lr, momentum
        train_step(model, optimizer, *batch(16, 4, seed=step))
    assert all(torch.equal(p, q) for p, q in zip(ends[0].parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("name", ["CyclicLR with a number", "CyclicLR with lists", "OneCycleLR with a number"])
def test_a_cycle_of_the_momentum_moves_the_momentum_that_is_used(name):
    ends = []
    for fixed in (False, True):
        model, optimizer = build()
        change, seen = DRIVEN[name](optimizer), set()
        for step in range(STEPS):
            seen |= {group["momentum"] for group in optimizer.param_groups}
            for group in optimizer.param_groups:
                group["momentum"] = 0.9 if fixed else group["momentum"]
            train_step(model, optimizer, *batch(16, 4, seed=step))
            change(step)
        assert len(seen) > 3
        ends.append(model)
    assert not torch.equal(ends[0].body[0].weight, ends[1].body[0].weight)


@every_drive
def test_a_scheduled_run_resumes_bit_equal_with_what_the_scheduler_left_in_the_groups(name):
    model, optimizer = build()
    change = DRIVEN[name](optimizer)
    for step in range(4):
        train_step(model, optimizer, *batch(16, 4, seed=step))
        change(step)
    other, resumed = build()
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    assert [set(group) for group in resumed.param_groups] == [set(group) for group in optimizer.param_groups]
    for m, o in ((model, optimizer), (other, resumed)):
        train_step(m, o, *batch(16, 4, seed=4))
    assert differences(snapshot(model, optimizer), snapshot(other, resumed)) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lr", [0.5, 0.1, 7e-3])
@pytest.mark.parametrize("options", [{}, {"momentum_on": "update"}, {"weight_decay": 0.1, "warmup": 0}], ids=str)
@pytest.mark.parametrize("method", [LNGD, SpectralLNGD, KFAC])
def test_a_tensor_lr_trains_like_the_number_in_it_bit_for_bit(method, options, lr, dtype):
    ends, tensor = [], torch.tensor(lr / 5 if method is SpectralLNGD else lr, dtype=dtype)
    for given in (float(tensor), tensor):
        model = Net()
        optimizer = method(model, lr=given, generator=torch.Generator(), **options)
        scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
        for step in range(4):
            train_step(model, optimizer, *batch(16, 4, seed=step))
            if step == 1:
                scheduler.step()
        ends.append(model)
    assert all(torch.equal(p, q) for p, q in zip(*(m.parameters() for m in ends), strict=True))


OPTIONS = {"damping": 30.0, "momentum": 0.1, "decay": 0.1, "weight_decay": 0.5, "adamw_lr_ratio": 3.0, "adamw_betas": (0.1, 0.2)}


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_changed_in_a_group_is_used_from_the_next_step_on_and_in_that_group_only(option):
    """Every step measures and refreshes, so that each option shows at once."""
    runs = []
    for changed in (None, 0, 1):
        model = Net()
        optimizer = LNGD(model, groups(model), schedule=1, generator=torch.Generator().manual_seed(0))
        for step in range(3):
            train_step(model, optimizer, *batch(16, 4, seed=step))
        if changed is not None:
            optimizer.param_groups[changed][option] = OPTIONS[option]
        train_step(model, optimizer, *batch(16, 4, seed=3))
        runs.append([torch.cat([p.detach().flatten() for p in part.parameters()]) for part in (model.body, model.head)])
    plain, first, second = runs
    assert [torch.equal(p, q) for p, q in zip(plain, first, strict=True)] == [False, True]
    assert [torch.equal(p, q) for p, q in zip(plain, second, strict=True)] == [True, False]


def test_damping_and_decay_of_a_group_make_its_layers_inverses():
    """Φ, Ψ ← ϵ·old + (1−ϵ)·new with the ϵ of that moment, and the inverse with the damping of that moment."""
    model, x, y = mlp(4, 6, 3), *batch(16, 4, seed=1)
    optimizer = LNGD(model, schedule=1, damping=0.3, decay=0.95, factors=Factors(raw_damping=1.0))
    train_step(model, optimizer, *batch(16, 4))
    optimizer.param_groups[0] |= {"damping": 2.0, "decay": 0.0}
    alone = copy.deepcopy(model)
    measured = LNGD(alone)
    train_step(alone, measured, x, y)
    train_step(model, optimizer, x, y)
    phi, identity = optimizer.blocks["0"].phi, torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(phi, measured.blocks["0"].phi)
    damped = phi + 2.0 * phi.trace() / len(phi) * identity
    torch.testing.assert_close(optimizer.blocks["0"].phi_inverse @ damped, identity)
