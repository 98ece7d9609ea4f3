"""The optimizer in the loops that users write."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import lr_scheduler

from lngd import LNGD, PAPER, Layerwise, LayerwiseRate, LNGDSample, Schedule
from reference import Branches, batch, differences, mlp, snapshot, train_step
from syncs import UNTIL_ORDINARY, CountSyncs

SINGLE = torch.float32


def small() -> tuple[nn.Sequential, Tensor, Tensor]:
    x, y = batch(16, 4, dtype=SINGLE)
    return mlp(4, 6, 3, dtype=SINGLE), x, y


def mixed() -> nn.Sequential:
    """Curvature and fallback."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 3))


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda _: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 4]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 8),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 8),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.5, step_size_up=3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.5, total_steps=10),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.LinearLR(o), lr_scheduler.ConstantLR(o)], [3]),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.LinearLR(o), lr_scheduler.StepLR(o, 3)]),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_of_torch_drives_the_run(name):
    model, (x, y) = mixed(), batch(16, 4, dtype=SINGLE)
    optimizer = LNGD(model, lr=0.2, adamw_lr_ratio=0.01)
    scheduler = SCHEDULERS[name](optimizer)
    seen = []
    for _ in range(8):
        train_step(model, optimizer, x, y)
        scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
        seen.append(tuple(group["lr"] for group in optimizer.param_groups))
    assert len(set(seen)) > 1
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_rate_of_zero_moves_nothing():
    model, x, y = small()
    before = [p.detach().clone() for p in model.parameters()]
    train_step(model, LNGD(model, lr=0.0, weight_decay=0.1), x, y)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_warmup_raises_the_rate_linearly():
    ways = []
    for warmup in (0, 10):
        model, x, y = small()
        before = model[0].weight.detach().clone()
        train_step(model, LNGD(model, warmup=warmup), x, y)
        ways.append(model[0].weight.detach() - before)
    torch.testing.assert_close(ways[1], ways[0] / 10, rtol=1e-3, atol=1e-6)


def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned():
    model, x, y = small()
    optimizer = LNGD(model)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    plain, _, _ = small()
    expected = train_step(plain, LNGD(plain), x, y)
    assert torch.equal(optimizer.step(closure).detach(), expected)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), plain.parameters(), strict=True))


def test_a_step_without_any_gradient_is_an_error_and_changes_nothing():
    model, x, y = small()
    optimizer = LNGD(model)
    before = snapshot(model, optimizer)
    with pytest.raises(RuntimeError, match=r"without a gradient.*loss\.backward\(\)"):
        optimizer.step()
    assert differences(before, snapshot(model, optimizer)) == []
    train_step(model, optimizer, x, y)


def test_a_look_at_one_sample_changes_nothing():
    runs = []
    for looks in (False, True):
        model, x, y = small()
        optimizer = LNGD(model)
        for _ in range(3):
            if looks:
                model(x[0])
                model.eval()(x[0])
                with torch.no_grad():
                    model.train()(x[0])
            train_step(model, optimizer, x, y)
        runs.append(snapshot(model, optimizer))
    assert differences(*runs) == []


@pytest.mark.parametrize("set_to_none", [True, False])
def test_either_kind_of_zero_grad_trains_the_same(set_to_none):
    runs = []
    for kind in (True, set_to_none):
        model, x, y = small()
        optimizer = LNGD(model)
        for _ in range(4):
            optimizer.zero_grad(set_to_none=kind)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        runs.append(snapshot(model, optimizer))
    assert differences(*runs) == []


@pytest.mark.parametrize("sizes", [(8, 8, 8, 8), (4, 12, 16)])
@pytest.mark.parametrize(
    "recipe",
    [
        {"step_size": LayerwiseRate(samples=None)},
        {"momentum_on": "update", "step_size": LayerwiseRate(smoothing=0.0, samples=None)},
        {"step_size": "graft", "lr": 1e-3},
    ],
)
def test_micro_batches_are_one_batch(recipe, sizes):
    runs = []
    for parts in ((32,), sizes):
        model, (x, y) = mlp(4, 6, 5, 3), batch(32, 4)
        optimizer = LNGD(model, schedule=2, **recipe)
        for _ in range(4):
            optimizer.zero_grad()
            for part, labels in zip(x.split(parts), y.split(parts), strict=True):
                (F.cross_entropy(model(part), labels) * len(part) / 32).backward()
            optimizer.step()
        statistics = [t for block in optimizer.blocks.values() for t in block.tensors().values()]
        runs.append([*statistics, *optimizer.rates.values(), *(p.detach() for p in model.parameters())])
    for one, many in zip(*runs, strict=True):
        torch.testing.assert_close(one, many, rtol=1e-8, atol=1e-10)


def no_grad_forward(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        model(x)


def eval_forward(model: nn.Module, x: Tensor) -> None:
    model.eval()
    model(x)
    model.train()


def eval_no_grad_forward(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        eval_forward(model, x)


BETWEEN = [no_grad_forward, eval_forward, eval_no_grad_forward]


@pytest.mark.parametrize("between", BETWEEN)
def test_forwards_that_do_not_train_change_nothing(between):
    runs = []
    for disturbed in (False, True):
        model, x, y = small()
        optimizer = LNGD(model, schedule=1, fisher=Layerwise(noise="gaussian"), generator=torch.Generator().manual_seed(0))
        for _ in range(3):
            optimizer.zero_grad()
            if disturbed:
                between(model, 3 * x[:5])
            loss = F.cross_entropy(model(x), y)
            if disturbed:
                between(model, 3 * x[:5])
            loss.backward()
            if disturbed:
                between(model, 3 * x[:5])
            optimizer.step()
        runs.append(snapshot(model, optimizer))
    assert differences(*runs) == []


def test_a_forward_that_was_interrupted_leaves_nothing_behind():
    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.one, self.two, self.fail = nn.Linear(4, 5), nn.Linear(5, 3), False

        def forward(self, x: Tensor) -> Tensor:
            h = self.one(x).tanh()
            if self.fail:
                raise KeyboardInterrupt
            return self.two(h)

    runs = []
    for interrupted in (False, True):
        model, (x, y) = Fragile(), batch(16, 4, dtype=SINGLE)
        optimizer = LNGD(model)
        if interrupted:
            model.fail = True
            with pytest.raises(KeyboardInterrupt):
                model(x)
            model.fail = False
        for _ in range(2):
            train_step(model, optimizer, x, y)
        runs.append(snapshot(model, optimizer))
    assert differences(*runs) == []


def test_a_module_that_a_step_does_not_use_stays_where_it_is():
    model, (x, y) = Branches(), batch(16, 4, dtype=SINGLE)
    optimizer = LNGD(model)
    for _ in range(3):
        train_step(model, optimizer, x, y)
    right, left = model.right.weight.detach().clone(), model.left.weight.detach().clone()
    assert "right" not in optimizer.rates
    model.use_left = False
    for _ in range(3):
        train_step(model, optimizer, x, y)
    assert torch.equal(model.left.weight, left)
    assert not torch.equal(model.right.weight, right)
    assert optimizer.blocks["right"].ready
    assert set(optimizer.blocks) == {"left", "right", "head"}


def test_an_empty_batch_does_not_break_the_next_one():
    model, x, y = small()
    optimizer = LNGD(model)
    optimizer.zero_grad()
    (model(x[:0]).sum() + F.cross_entropy(model(x), y)).backward()
    optimizer.step()
    assert all(p.isfinite().all() for p in model.parameters())
    assert all(rate > 0 for rate in optimizer.rates.values())


def test_a_double_backward_through_one_graph_counts_once_as_samples():
    rates = []
    for halves in (False, True):
        model, (x, y) = mlp(4, 6, 3), batch(16, 4)
        optimizer = LNGD(model, step_size=LayerwiseRate(samples=None))
        loss = F.cross_entropy(model(x), y)
        for weight in (0.25, 0.75) if halves else (1.0,):
            (weight * loss).backward(retain_graph=True)
        optimizer.step()
        rates.append(torch.stack([*optimizer.rates.values()]))
    torch.testing.assert_close(rates[0], rates[1])


def test_a_copied_model_trains_on_its_own():
    model, x, y = small()
    optimizer = LNGD(model)
    train_step(model, optimizer, x, y)
    clone = copy.deepcopy(model)
    before = snapshot(model, optimizer)
    other = LNGD(clone)
    for _ in range(2):
        train_step(clone, other, x, y)
    assert differences(before, snapshot(model, optimizer)) == []
    assert other.blocks["0"].updates == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_training_lowers_the_loss_in_any_dtype(dtype):
    model, (x, y) = mixed().to(dtype), batch(32, 4, dtype=dtype)
    optimizer = LNGD(model)
    losses = [train_step(model, optimizer, x, y).item() for _ in range(40)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert all(block.phi.dtype == torch.promote_types(dtype, torch.float32) for block in optimizer.blocks.values())


def test_autocast_trains_and_keeps_statistics_in_float32():
    model, (x, y) = mixed(), batch(32, 4, dtype=SINGLE)
    optimizer = LNGD(model)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert optimizer.blocks["0"].phi.dtype == torch.float32


def test_the_measurements_come_at_their_steps_and_refreshes_at_theirs():
    model, x, y = small()
    optimizer = LNGD(model, schedule=Schedule(curvature_every=4, inverse_every=3, ramp=False, refresh_over=1))
    updates, refreshed, last = [], [], None
    for step in range(13):
        train_step(model, optimizer, x, y)
        updates.append(optimizer.blocks["0"].updates)
        inverse = optimizer.blocks["0"].phi_inverse
        if last is None or not torch.equal(inverse, last):
            refreshed.append(step)
        last = inverse
    assert updates == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4]
    assert refreshed == [0, 6, 9, 12]


SYNC_FREE = {
    "default": (LNGD, {}),
    "sample": (LNGDSample, {}),
    "graft": (LNGD, {"step_size": "graft", "lr": 1e-3}),
    "paper": (LNGD, {"lr": 0.01, **PAPER}),
    "decay": (LNGD, {"weight_decay": 0.1}),
}
SKIP_COUNTERS_OWN = 1
"""The host copy of the skip count is read at every step: it is a host tensor, and reading it waits for nothing."""


@pytest.mark.parametrize("kind", SYNC_FREE)
def test_an_ordinary_step_waits_for_nothing(kind):
    method, options = SYNC_FREE[kind]
    model, (x, y) = mixed(), batch(16, 4, dtype=SINGLE)
    optimizer = method(model, **options)
    for _ in range(UNTIL_ORDINARY):
        train_step(model, optimizer, x, y)
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    with CountSyncs() as counter:
        optimizer.step()
    assert len(counter.found) <= SKIP_COUNTERS_OWN


def test_the_forward_of_an_ordinary_step_waits_for_nothing():
    model, (x, y) = mixed(), batch(16, 4, dtype=SINGLE)
    optimizer = LNGD(model)
    for _ in range(UNTIL_ORDINARY):
        train_step(model, optimizer, x, y)
    optimizer.zero_grad()
    with CountSyncs() as counter:
        F.cross_entropy(model(x), y).backward()
    assert counter.found == []


def test_stats_are_plain_numbers():
    model, x, y = small()
    optimizer = LNGD(model, step_size="layerwise")
    train_step(model, optimizer, x, y)
    stats = optimizer.stats()
    assert {type(value) for value in stats.values()} == {float}
    assert stats["steps"] == 1
    assert stats["skipped"] == 0
    assert stats["rate/0"] == optimizer.rates["0"].item()
    assert stats["rate/2"] == pytest.approx(1 / stats["kappa/2"], rel=1e-3)


def test_the_noise_generator_starts_from_the_global_seed_and_is_the_optimizers_own():
    runs = []
    for _ in range(2):
        torch.manual_seed(7)
        model, x, y = small()
        torch.manual_seed(7)
        optimizer = LNGD(model, fisher=Layerwise(noise="gaussian"))
        train_step(model, optimizer, x, y)
        runs.append(optimizer.blocks["0"].phi)
    assert torch.equal(*runs)
