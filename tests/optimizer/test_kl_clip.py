"""The trust region of the K-FAC family: no step is longer than √κ in the norm of the damped Fisher matrix."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lngd import EKFAC, KFAC, LNGD, THOR, TKFAC, Constant, Factors, FisherType, KLClip, LNGDLr, NGPlus
from lngd.layers import LinearLayer
from lngd.linalg import Damping
from lngd.optimizer import NaturalGradient
from lngd.step_size import Averages, Directions
from reference import Branches, batch, mlp, train_step
from tiers import tiered

DOUBLE = torch.float64
METHODS = {"LNGD": LNGD, "LNGDLr": LNGDLr, "KFAC": KFAC, "EKFAC": EKFAC, "TKFAC": TKFAC, "NGPlus": NGPlus, "THOR": THOR}
EVERY_STEP = {"damping": 0.3, "schedule": 1, "warmup": 0, "keep_norms": False, "factors": Factors(8192, raw_damping=1.0)}
every_method = tiered("kind", METHODS)


def move(slope: float, lr: float = 1.0) -> Directions:
    """A step along a single coordinate with ⟨d, M⟩ = slope."""
    one = torch.ones(1, 1, dtype=DOUBLE)
    return Directions(
        layers=[LinearLayer(nn.Linear(1, 1, bias=False, dtype=DOUBLE), with_bias=False)],
        averages=Averages([[one]], [[slope * one]], [slope * one], [(slope * one).flatten()]),
        directions=[one],
        samples=[()],
        memory={},
        tensors={},
        accept=torch.tensor(True),
        squared_scale=None,
        mean_over="batch",
        lr=lr,
    )


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ([move(4.0)], 0.5),
        ([move(0.25)], 1.0),
        ([move(1.0)], 1.0),
        ([move(9.0), move(16.0)], 0.2),
        ([move(4.0, lr=3.0), move(1.0, lr=8.0)], 0.1),
        ([move(4.0, lr=0.0)], 1.0),
        ([move(0.0), move(0.0)], 1.0),
        ([move(math.nan)], 1.0),
        ([move(math.inf), move(9.0), move(16.0)], 0.2),
    ],
)
def test_the_factor_is_that_of_all_layers_together(moves, expected):
    rule = KLClip(1.0)
    assert rule.joint
    assert rule.common(moves).item() == pytest.approx(expected)
    slopes = [m.slope.item() for m in moves]
    assert [rule.alpha(m).item() for m in moves] == [float(math.isfinite(slope)) for slope in slopes]


def weights(model: nn.Module, name: str) -> Tensor:
    """Weight and bias as one matrix."""
    module = model.get_submodule(name)
    return torch.cat([module.weight, module.bias[:, None]], 1).detach().clone()


def step_and_length(model: nn.Module, optimizer: NaturalGradient, x: Tensor, y: Tensor) -> float:
    """Trains a step; Σ_l ΔW F̂ ΔW by the dense damped blocks that the step used."""
    before = {name: weights(model, name) for name in optimizer.blocks}
    train_step(model, optimizer, x, y)
    total = 0.0
    for name, block in optimizer.blocks.items():
        moved = (weights(model, name) - before[name]).flatten()
        group = optimizer.param_groups[0]
        total += (moved @ block.dense(Damping(group["damping"], Factors().damping_bounds)) @ moved).item()
    return total


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("kl", [1e-4, 1e-2])
@every_method
def test_a_long_step_is_cut_to_the_trust_region_exactly(kind, kl, momentum):
    model = mlp(4, 6, 5, 3)
    optimizer = METHODS[kind](model, lr=30.0, step_size=KLClip(kl), momentum=momentum, **EVERY_STEP)
    for step in range(1 if kind == "THOR" else 4):  # THOR's trace rule keeps inverses of older blocks
        assert step_and_length(model, optimizer, *batch(16, 4, seed=step)) == pytest.approx(kl, rel=1e-9)
        rates = torch.stack([*optimizer.rates.values()])
        assert (rates == rates[0]).all()
        assert 0 < rates[0] < 1


@every_method
def test_a_short_step_is_left_alone(kind):
    runs = []
    for step_size in (KLClip(1e3), Constant()):
        model = mlp(4, 6, 3)
        optimizer = METHODS[kind](model, lr=0.01, generator=torch.Generator().manual_seed(0), step_size=step_size, **EVERY_STEP)
        for step in range(3):
            train_step(model, optimizer, *batch(16, 4, seed=step))
        assert all(rate == 1 for rate in optimizer.rates.values())
        runs.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*runs, strict=True))


@pytest.mark.parametrize("warmup", [0, 10])
def test_the_warm_up_shortens_a_step_before_it_is_clipped(warmup):
    model = mlp(4, 6, 3)
    optimizer = KFAC(model, lr=30.0, **{**EVERY_STEP, "warmup": warmup})
    assert step_and_length(model, optimizer, *batch(16, 4)) == pytest.approx(1e-3, rel=1e-9)


def test_layers_with_rates_of_their_own_share_one_trust_region():
    model = mlp(4, 6, 5, 3)
    groups = [{"params": model[k].parameters(), "lr": lr} for k, lr in ((0, 1.0), (2, 30.0), (4, 7.0))]
    optimizer = KFAC(model, groups, **EVERY_STEP)
    assert step_and_length(model, optimizer, *batch(16, 4)) == pytest.approx(1e-3, rel=1e-9)


@pytest.mark.parametrize("bias_rate", [3.0, 300.0])
def test_weights_and_biases_with_rates_of_their_own_stay_in_the_trust_region(bias_rate):
    model = mlp(4, 6, 5, 3)
    biases = [p for name, p in model.named_parameters() if "bias" in name]
    rest = [p for name, p in model.named_parameters() if "bias" not in name]
    optimizer = KFAC(model, [{"params": rest}, {"params": biases, "lr": bias_rate}], lr=30.0, **EVERY_STEP)
    assert step_and_length(model, optimizer, *batch(16, 4)) <= 1e-3 * (1 + 1e-9)


@every_method
def test_a_zero_gradient_moves_nothing(kind):
    model, (x, y) = mlp(4, 6, 3), batch(16, 4)
    optimizer = METHODS[kind](model, step_size="kl_clip", **EVERY_STEP)
    for _ in range(2):
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        (0 * F.cross_entropy(model(x), y)).backward()
        optimizer.step()
        assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
        assert all(rate.isfinite() for rate in optimizer.rates.values())
    train_step(model, optimizer, x, y)
    assert all(p.isfinite().all() for p in model.parameters())
    assert optimizer.stats()["skipped"] == 0


def test_only_layers_that_move_share_the_trust_region():
    model = Branches().double()
    optimizer = KFAC(model, lr=30.0, **EVERY_STEP)
    for step in range(4):
        model.use_left = step % 2 == 0
        x, y = batch(16, 4, seed=step)
        optimizer.zero_grad()
        train_step(model, optimizer, x, y)
    before = {name: weights(model, name) for name in optimizer.blocks}
    model.use_left = True
    train_step(model, optimizer, x, y)
    total = 0.0
    for name, block in optimizer.blocks.items():
        moved = (weights(model, name) - before[name]).flatten()
        total += (moved @ block.dense(Damping(0.3, (1e-5, math.inf))) @ moved).item()
    assert total == pytest.approx(1e-3, rel=1e-9)
    assert torch.equal(before["right"], weights(model, "right"))


@pytest.mark.parametrize("kl", [1e-4, 1e-3, 1e-2])
def test_the_predictions_move_by_about_half_of_kappa(kl):
    """One layer and little damping: F̂ is nearly the Fisher matrix, and KL = ½ ΔW F ΔW."""
    model, (x, y) = mlp(4, 3), batch(500, 4)
    options = {**EVERY_STEP, "damping": 1e-3, "fisher": FisherType.SAMPLED}
    optimizer = KFAC(model, lr=1e3, step_size=KLClip(kl), **options)
    before = model(x).detach().log_softmax(1)
    train_step(model, optimizer, x, y)
    after = model(x).detach().log_softmax(1)
    divergence = (before.exp() * (before - after)).sum(1).mean().item()
    assert divergence == pytest.approx(kl / 2, rel=0.35)
