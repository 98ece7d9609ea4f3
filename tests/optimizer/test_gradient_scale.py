"""The loss scale: found from what happened to the gradients between the backward pass and the step."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lngd
from lngd import EKFAC, KFAC, LNGD, LayerwiseRate, NGPlus, Schedule
from lngd.optimizer import NaturalGradient
from lngd.optimizer.guards import GROWTH_INTERVAL, INITIAL, GradientScale
from reference import batch, differences, mlp, snapshot
from tiers import tiered

METHODS = {
    "LNGD": LNGD,
    "LNGD, empirical": lambda model, **options: LNGD(model, fisher="empirical", **options),
    "NGPlus": NGPlus,
    "KFAC": KFAC,
}


def trained(method, *, scaler: torch.amp.GradScaler | None = None, clip: float | None = None, steps: int = 8):
    """A run in float32; the weights and α_l of each step."""
    model = mlp(4, 6, 5, 3, dtype=torch.float32)
    optimizer = method(model, generator=torch.Generator().manual_seed(3))
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    rates = []
    for step in range(steps):
        x, y = batch(16, 4, seed=step, dtype=torch.float32)
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(x), y)).backward()
        if clip is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        scaler.step(optimizer)
        scaler.update()
        rates.append(torch.stack(list(optimizer.rates.values())))
    return torch.cat([p.detach().flatten() for p in model.parameters()]), torch.stack(rates)


@pytest.mark.parametrize("clip", [None, 1e-2, 0.3], ids=["no clipping", "every step clipped", "some steps clipped"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_grad_scaler_changes_neither_steps_nor_rates(method, clip):
    plain, scaled = trained(method, clip=clip), trained(method, clip=clip, scaler=torch.amp.GradScaler("cpu"))
    for one, other in zip(plain, scaled, strict=True):
        torch.testing.assert_close(other, one, rtol=2e-4, atol=1e-6)


def test_clipping_shortens_the_step_and_is_no_loss_scale():
    def newton(model, **options):
        return LNGD(model, step_size=LayerwiseRate(mu=0.0), **options)

    whole, clipped = trained(newton, steps=1), trained(newton, steps=1, clip=1e-2)
    torch.testing.assert_close(clipped[1], whole[1], rtol=1e-4, atol=0.0)  # α_l is the same, d is shorter
    start = torch.cat([p.detach().flatten() for p in mlp(4, 6, 5, 3, dtype=torch.float32).parameters()])
    assert (clipped[0] - start).norm() < 0.2 * (whole[0] - start).norm()


def test_an_overflow_skips_the_step_and_halves_the_scale():
    model = mlp(4, 6, 3, dtype=torch.float32)
    optimizer = LNGD(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before, seen = copy.deepcopy(model.state_dict()), []
    for step in range(4):
        x, y = batch(16, 4, seed=step, dtype=torch.float32)
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(x if step != 1 else x * float("inf")), y)).backward()
        scaler.step(optimizer)
        scaler.update()
        seen.append((optimizer.t, scaler.get_scale(), optimizer.stats()["kappa/0"]))
        if step == 0:
            before = copy.deepcopy(model.state_dict())
        if step == 1:
            assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert [steps for steps, _, _ in seen] == [1, 1, 2, 3]
    assert [scale for _, scale, _ in seen] == [1024.0, 512.0, 512.0, 512.0]
    assert all(torch.tensor(kappa).isfinite() and kappa < 1e3 for _, _, kappa in seen)
    assert optimizer.stats()["skipped"] == 0


def test_what_the_user_says_of_the_scale_is_believed():
    runs = []
    for told in (False, True):
        model = mlp(4, 6, 3, dtype=torch.float32)
        optimizer = LNGD(model, step_size="layerwise")
        x, y = batch(16, 4, dtype=torch.float32)
        (3.0 * F.cross_entropy(model(x), y)).backward()
        for p in model.parameters():
            p.grad /= 3
        if told:
            optimizer.grad_scale = 3.0
        optimizer.step()
        runs.append(optimizer.rates["0"])
    model = mlp(4, 6, 3, dtype=torch.float32)
    optimizer = LNGD(model, step_size="layerwise")
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    torch.testing.assert_close(runs[1], optimizer.rates["0"])
    assert runs[0] < 0.2 * runs[1]  # a third is no power of two: taken for clipping


def touched(scale: GradientScale, p: nn.Parameter, factor: float) -> float:
    """The loss scale after a backward pass whose gradient was multiplied with a factor afterwards."""
    p.grad = None
    (p * torch.tensor([1.0, -2.0, 3.0])).sum().backward()
    p.grad *= factor
    square = scale.of_squares(None)
    scale.forget()
    return 1.0 if square is None else square.rsqrt().item()


def test_only_a_power_of_two_is_a_loss_scale():
    p = nn.Parameter(torch.zeros(3))
    scale = GradientScale()
    scale.watch([p])
    assert touched(scale, p, 1.0) == 1
    assert touched(scale, p, 0.3) == 1
    assert touched(scale, p, 2.0**-10) == 1024
    assert touched(scale, p, 0.3 * 2.0**-10) == 1024  # clipped: the last one known
    assert touched(scale, p, 2.0**-11) == 2048


def test_a_scale_never_seen_unclipped_is_grad_scalers_own():
    p = nn.Parameter(torch.zeros(3))
    scale = GradientScale()
    scale.watch([p])
    found = [touched(scale, p, 0.3 / INITIAL) for _ in range(GROWTH_INTERVAL)]
    assert found[0] == found[-2] == INITIAL
    assert found[-1] == 2 * INITIAL
    p.grad = None
    (p * torch.ones(3)).sum().backward()
    scale.overflowed()
    assert touched(scale, p, 0.3 / INITIAL) == INITIAL


def test_a_zero_or_infinite_gradient_says_nothing_of_the_scale():
    p = nn.Parameter(torch.zeros(3))
    scale = GradientScale()
    scale.watch([p])
    assert touched(scale, p, 2.0**-10) == 1024
    assert touched(scale, p, 0.0) == 1024
    assert touched(scale, p, float("inf")) == 1024


def test_a_step_inside_an_autocast_region_runs_in_full_precision():
    weights = []
    for inside in (False, True):
        model = mlp(4, 6, 3, dtype=torch.float32)
        optimizer = LNGD(model, generator=torch.Generator().manual_seed(3))
        for step in range(3):
            x, y = batch(16, 4, seed=step, dtype=torch.float32)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            with torch.autocast("cpu", torch.bfloat16, enabled=inside):
                optimizer.step()
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


ALL = [kind for kind in vars(lngd).values() if isinstance(kind, type) and issubclass(kind, NaturalGradient)]


def mixed() -> nn.Sequential:
    """Layers with curvature and AdamW's part."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3))


def by_a_scaler(scale: float, *, unscale: bool = False):
    """A step as torch's documentation writes it, at a scale that stays."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10**6)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        if unscale:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1e6)
        scaler.step(optimizer)
        scaler.update()

    return step


def by_hand(scale: float):
    """As pipeline schedules and loops that count tokens do, between the backward pass and the step."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        (scale * loss).backward()
        torch._foreach_div_([p.grad for p in model.parameters()], scale)
        optimizer.step()

    return step


SCALED = {
    **{f"a scaler at {scale:g}": by_a_scaler(scale) for scale in (2.0**4, 2.0**10, 2.0**16)},
    "a scaler after unscale_ and a clipping that does not cut": by_a_scaler(2.0**10, unscale=True),
    "by hand": by_hand(2.0**7),
    "by hand, made longer": by_hand(2.0**-7),
}


@pytest.mark.parametrize("scaling", SCALED)
@tiered("method", ALL)
def test_a_run_at_a_loss_scale_is_the_run_without(method, scaling):
    runs = []
    for step in (by_a_scaler(1.0), SCALED[scaling]):
        model, rates = mixed(), []
        optimizer = method(model, generator=torch.Generator().manual_seed(3), schedule=Schedule(curvature_every=3))
        for seed in range(8):
            x, y = batch(16, 4, seed=seed, dtype=torch.float32)
            step(model, optimizer, F.cross_entropy(model(x), y))
            rates.append(torch.stack(list(optimizer.rates.values())))
        runs.append((torch.stack(rates), torch.cat([p.detach().flatten() for p in model.parameters()])))
    torch.testing.assert_close(runs[1][0], runs[0][0], rtol=1e-5, atol=0.0)
    torch.testing.assert_close(runs[1][1], runs[0][1], rtol=1e-5, atol=1e-7)


COUNTS = ("skipped", "loss_scale", "since_growth")
"""What the scaler's history may change."""


@tiered("order", ["zero_grad first", "zero_grad after the forward"], ("zero_grad first",))
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("when", [0, 1, 3])
@pytest.mark.parametrize(
    "method", [LNGD, METHODS["LNGD, empirical"], KFAC, EKFAC, NGPlus], ids=["LNGD", "empirical", "KFAC", "EKFAC", "NGPlus"]
)
def test_an_overflow_leaves_no_trace_at_whatever_step_it_comes(method, when, clip, order):
    """Steps 0 and 1 measure, 3 does not. torch does not call `step` then."""
    runs = []
    for overflows in (False, True):
        model, generator = mixed(), torch.Generator().manual_seed(3)
        optimizer = method(model, generator=generator)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=10**6)
        for step in range(6):
            if overflows and step == when:
                iteration(model, optimizer, scaler, 99, clip=clip, order=order, poison=True)
                if (draws := optimizer._capture.source.draws) is not None:
                    draws.drop()  # a zero_grad behind the next forward comes too late for its noise, which then is other
            iteration(model, optimizer, scaler, step, clip=clip, order=order)
        runs.append(snapshot(model, optimizer))
    assert differences(*runs, ignoring=COUNTS) == []


def iteration(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    seed: int,
    *,
    clip: bool,
    order: str,
    poison: bool = False,
) -> None:
    """One turn of a training loop; a poisoned one overflows in the backward pass."""
    x, y = batch(16, 4, seed=seed, dtype=torch.float32)
    if order == "zero_grad first":
        optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y) * (1e38 if poison else 1.0)
    if order != "zero_grad first":
        optimizer.zero_grad()
    scaler.scale(loss).backward()
    if clip:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1e6)
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize("method", [LNGD, NGPlus])
def test_the_scale_is_known_in_a_step_in_which_the_model_changes(method):
    """A layer is unfrozen: what the gradients were multiplied with must not be forgotten with the old plan."""
    runs = []
    for step in (by_a_scaler(1.0), by_a_scaler(2.0**12)):
        model = mixed()
        model[3].requires_grad_(False)
        optimizer = method(model, generator=torch.Generator().manual_seed(3))
        for seed in range(6):
            if seed == 3:
                model[3].requires_grad_(True)
            x, y = batch(16, 4, seed=seed, dtype=torch.float32)
            step(model, optimizer, F.cross_entropy(model(x), y))
        runs.append([torch.cat([p.detach().flatten() for p in model.parameters()]), *optimizer.rates.values()])
    for one, other in zip(*runs, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", [LNGD, METHODS["LNGD, empirical"], KFAC], ids=["LNGD", "empirical", "KFAC"])
def test_a_batch_whose_gradients_are_dropped_leaves_no_trace(method):
    """A loop that looks at its loss and goes on without a step."""
    runs = []
    for dropped in (False, True):
        model, generator = mixed(), torch.Generator().manual_seed(3)
        optimizer = method(model, generator=generator)
        for step in range(6):
            if dropped:
                drawn = optimizer._generator.get_state()
                x, y = batch(16, 4, seed=50 + step, dtype=torch.float32)
                (100 * F.cross_entropy(model(x), y)).backward()
                optimizer._generator.set_state(drawn)
            optimizer.zero_grad()
            x, y = batch(16, 4, seed=step, dtype=torch.float32)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        runs.append(snapshot(model, optimizer))
    assert differences(*runs, ignoring=COUNTS) == []
