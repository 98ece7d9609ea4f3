"""One step of each rival against its formula in float64, written here from the paper."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from lngd_bench.competitors.muon import Float32Muon, MuonWithAdamW
from lngd_bench.competitors.normuon import CautiousMuon, HyperballMuon, NorMuon
from lngd_bench.competitors.optimizers import OPTIMIZERS, Setting
from lngd_bench.tasks.models.gpt import GPT

LR, SHAPE = 0.1, (6, 10)
OPTIONS = {"adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.0}


def given(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stepped(muon: type[Float32Muon], weight: Tensor, gradients: list[Tensor], **options: float) -> Tensor:
    parameter = nn.Parameter(weight.clone())
    optimizer = muon([parameter], LR, **{**OPTIONS, **options})
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


def newton_schulz(matrix: Tensor) -> Tensor:
    """Muon's five iterations on a matrix that is not taller than wide."""
    x = matrix / matrix.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def orthogonal_updates(gradients: list[Tensor]) -> list[Tensor]:
    """O of each step, from Nesterov's momentum 0.95."""
    average, found = torch.zeros(SHAPE, dtype=torch.float64), []
    for gradient in gradients:
        average = 0.95 * average + 0.05 * gradient.double()
        found.append(newton_schulz(0.05 * gradient.double() + 0.95 * average))
    return found


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_normuon_divides_every_row_by_its_own_moment_and_keeps_the_rms_of_adamw() -> None:
    weight, gradients = given(), [given(seed=1), given(seed=2)]
    expected, moments = weight.double(), torch.zeros(6, dtype=torch.float64)
    for update in orthogonal_updates(gradients):
        moments = 0.95 * moments + 0.05 * update.pow(2).mean(dim=1)
        row = update / (moments.sqrt()[:, None] + 1e-8)
        expected = expected - LR * 0.2 * (6 * 10) ** 0.5 * row / row.norm()
    close(stepped(NorMuon, weight, gradients), expected)


def test_the_first_step_of_normuon_moves_every_neuron_alike() -> None:
    step = stepped(NorMuon, given(), [given(seed=1)]) - given()
    torch.testing.assert_close(step.norm(dim=1), torch.full((6,), LR * 0.2 * 10**0.5), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize(("chosen", "used"), [(0.5, 0.5), (0.0, 0.1)])
def test_cautious_decay_takes_only_what_the_update_makes_smaller(chosen: float, used: float) -> None:
    weight, gradient = given(), given(seed=1)
    (update,) = orthogonal_updates([gradient])
    start = weight.double()
    agrees = torch.where(update.sign() == start.sign(), start, torch.zeros_like(start))
    expected = start - LR * (0.2 * 10**0.5 * update + used * agrees)
    close(stepped(CautiousMuon, weight, [gradient], weight_decay=chosen), expected)


def test_hyperball_ends_each_step_at_the_first_norm() -> None:
    weight, gradients = given(), [given(seed=1), given(seed=2)]
    expected, radius = weight.double(), weight.double().norm()
    for update in orthogonal_updates(gradients):
        moved = expected - LR * 0.2 * 10**0.5 * update
        expected = radius * moved / moved.norm()
    close(stepped(HyperballMuon, weight, gradients), expected)


def test_hyperball_leaves_a_matrix_that_began_at_zero_free() -> None:
    zero = torch.zeros(SHAPE)
    assert torch.equal(stepped(HyperballMuon, zero, [given(seed=1)]), stepped(Float32Muon, zero, [given(seed=1)]))


@pytest.mark.parametrize("name", ["muon", "muon-fp32", "normuon", "lngd", "lngd-spectral", "kfac"])
def test_rest_is_the_rate_of_adamw_in_units_of_the_default(name: str) -> None:
    model = GPT(16, 8, 8, heads=2, layers=1)
    usual, third = (rate_of_the_rest(name, model, rest) for rest in (None, 1 / 3))
    assert OPTIMIZERS[name].two_rates
    assert third == pytest.approx(usual / 3)


def rate_of_the_rest(name: str, model: nn.Module, rest: float | None) -> float:
    optimizer = OPTIMIZERS[name].build(model, Setting(lr=0.01, rest=rest))
    if isinstance(optimizer, MuonWithAdamW):
        return float(optimizer.param_groups[0]["lr"])
    group = optimizer.param_groups[0]
    return float(group["lr"] * group["adamw_lr_ratio"])


def steps_of(name: str, gradients: list[Tensor]) -> list[Tensor]:
    """How far each gradient moves a matrix, over the rate."""
    model = nn.Linear(gradients[0].shape[1], gradients[0].shape[0], bias=False)
    optimizer, places = OPTIMIZERS[name].build(model, Setting(lr=LR)), [model.weight.detach().clone()]
    for gradient in gradients:
        model.weight.grad = gradient.clone()
        optimizer.step()
        places.append(model.weight.detach().clone())
    return [(after - before).double() / LR for before, after in pairwise(places)]


def test_kl_shampoo_divides_by_the_roots_of_factors_that_weigh_each_other() -> None:
    """The first step only measures, the factors begin at I/10 and their eigenbases at I."""
    gradients = [given(seed=seed) for seed in (1, 2, 3)]
    first, second, third = steps_of("kl-shampoo", gradients)
    _, g, h = (gradient.double() for gradient in gradients)
    share = 0.05 / (1 - 0.95**2)
    left = (1 - share) * 0.1 + share * g.pow(2).sum(dim=1) / 0.1 / 10
    right = (1 - share) * 0.1 + share * g.pow(2).sum(dim=0) / 0.1 / 6
    assert not first.any()
    close(second, -0.1 * g / 0.1)
    close(third, -(0.09 * g + 0.1 * h) / torch.outer(left, right).sqrt())


def test_kl_soap_is_adam_between_the_eigenvectors() -> None:
    """The first step only measures; the second is Adam's first, all entries of which are of length one."""
    gradients = [given((6, 6), seed) for seed in (1, 2)]
    first, second = steps_of("kl-soap", gradients)
    u, _, v = torch.linalg.svd(gradients[0].double())
    assert not first.any()
    close(second, -u @ (u.T @ gradients[1].double() @ v.T).sign() @ v)


def test_psgd_learns_to_whiten() -> None:
    """It probes its factors at random, so only what they come to can be said: rows a factor of 10 apart move alike."""
    scale = torch.logspace(0, 1, 6)[:, None]
    steps = torch.stack(steps_of("psgd", [scale * given(seed=seed) for seed in range(200)])[-50:])
    rows = steps.square().mean(dim=(0, 2)).sqrt()
    assert rows.max() < 2 * rows.min()
