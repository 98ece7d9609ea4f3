"""The loss scale: found from what happened to the gradients between the backward pass and the step."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lngd import KFAC, LNGD, LayerwiseRate, NGPlus
from lngd.optimizer.guards import GROWTH_INTERVAL, INITIAL, GradientScale
from reference import batch, mlp

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
        optimizer = LNGD(model)
        x, y = batch(16, 4, dtype=torch.float32)
        (3.0 * F.cross_entropy(model(x), y)).backward()
        for p in model.parameters():
            p.grad /= 3
        if told:
            optimizer.grad_scale = 3.0
        optimizer.step()
        runs.append(optimizer.rates["0"])
    model = mlp(4, 6, 3, dtype=torch.float32)
    optimizer = LNGD(model)
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
