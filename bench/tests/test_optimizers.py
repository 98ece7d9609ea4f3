from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lngd.optimizer import NaturalGradient
from lngd_bench.competitors.muon import Float32Muon, MuonWithAdamW, hidden_weights, orthogonalised
from lngd_bench.competitors.optimizers import OPTIMIZERS, Setting
from lngd_bench.tasks.models.gpt import GPT
from lngd_bench.tasks.models.plain import cnn, mlp
from lngd_bench.tasks.schedule import LINEAR, scheduler


def models() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    return {
        "mlp": (mlp(12, 8, 8, 4), torch.randn(6, 12)),
        "cnn": (cnn((2, 3, 4)), torch.randn(6, 1, 28, 28)),
        "gpt": (GPT(16, 8, 8, heads=2, layers=1), torch.arange(24).view(3, 8) % 16),
    }


def cross_entropy_of(logits: Tensor) -> Tensor:
    """Of arbitrary labels."""
    rows = logits.flatten(0, -2)
    return F.cross_entropy(rows, torch.arange(len(rows)) % rows.shape[-1])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("model_name", ["mlp", "cnn", "gpt"])
def test_every_competitor_moves_every_parameter(name: str, model_name: str) -> None:
    model, x = models()[model_name]
    before = {key: value.clone() for key, value in model.named_parameters()}
    optimizer = OPTIMIZERS[name].build(model, Setting(lr=0.01, mean_over="token" if model_name == "gpt" else "batch"))
    for _ in range(2):
        optimizer.zero_grad()
        cross_entropy_of(model(x)).backward()
        optimizer.step()
    still = [key for key, value in model.named_parameters() if torch.equal(value, before[key])]
    assert [key for key in still if not key.endswith("key.bias")] == []  # softmax cancels a key's bias


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_schedule_drives_every_param_group_alike(name: str) -> None:
    model, x = models()["cnn"]
    optimizer = OPTIMIZERS[name].build(model, Setting(lr=0.01))
    before = [group["lr"] for group in optimizer.param_groups]
    schedule = scheduler(optimizer, LINEAR, 40)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate / 2 for rate in before])
    cross_entropy_of(model(x)).backward()
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(before)


@pytest.mark.parametrize("name", ["kfac", "ekfac", "ngplus", "lngd", "lngd-paper"])
def test_an_interval_is_that_of_measurements_and_refreshes_and_changes_nothing_else(name: str) -> None:
    usual, chosen = (OPTIMIZERS[name].build(models()["mlp"][0], Setting(lr=0.01, interval=n)) for n in (None, 7))
    assert isinstance(usual, NaturalGradient)
    assert isinstance(chosen, NaturalGradient)
    assert chosen.recipe.schedule == replace(usual.recipe.schedule, curvature_every=7, inverse_every=7)


def test_a_search_may_try_any_rate_without_a_warning() -> None:
    for lr in (1e-4, 3.0):
        OPTIMIZERS["lngd"].build(models()["mlp"][0], Setting(lr=lr))
        OPTIMIZERS["lngd-spectral"].build(models()["mlp"][0], Setting(lr=lr))


def test_muon_has_the_hidden_weights_and_adamw_the_rest() -> None:
    model = cnn((2, 3, 4))
    convolutions = [module.weight for module in model if isinstance(module, nn.Conv2d)]
    linears = [module.weight for module in model if isinstance(module, nn.Linear)]
    assert {id(weight) for weight in hidden_weights(model)} == {id(w) for w in (*convolutions[1:], linears[0])}


def test_a_convolution_moves_as_its_matrix_would() -> None:
    weight = nn.Parameter(torch.randn(4, 18))
    reference = torch.optim.Muon([weight], 0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 4, 3), nn.Conv2d(4, 1, 3))
    with torch.no_grad():
        model[1].weight.copy_(weight.view(4, 2, 3, 3))
    optimizer = MuonWithAdamW(model, lr=0.1)
    model(torch.randn(2, 1, 9, 9)).square().mean().backward()
    weight.grad = model[1].weight.grad.flatten(1).clone()
    optimizer.step()
    reference.step()
    torch.testing.assert_close(model[1].weight.flatten(1), weight)


def test_muon_clears_the_gradients_of_the_model() -> None:
    model, x = models()["cnn"]
    optimizer = MuonWithAdamW(model, lr=0.1)
    model(x).sum().backward()
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_muon_in_float32_agrees_with_torchs_to_the_precision_of_bfloat16() -> None:
    start = torch.randn(8, 18)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    options = {"lr": 0.1, "weight_decay": 0.01, "adjust_lr_fn": "match_rms_adamw"}
    pairs = [(ours, Float32Muon([ours], **options)), (theirs, torch.optim.Muon([theirs], **options))]
    for step in range(3):
        gradient = torch.randn(8, 18, generator=torch.Generator().manual_seed(step))
        for weight, optimizer in pairs:
            weight.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours - start, theirs - start, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_five_iterations_bring_every_singular_value_near_one(shape: tuple[int, int]) -> None:
    direction = orthogonalised(torch.randn(shape), (3.4445, -4.7750, 2.0315), 5, 1e-7)
    values = torch.linalg.svdvals(direction)
    assert values.min() > 0.6
    assert values.max() < 1.3


@pytest.mark.parametrize(("name", "falls"), [("kfac", 1.0), ("kfac-scheduled", 10.0)])
def test_a_trust_region_that_binds_hides_the_schedule_unless_its_radius_is_scheduled(name: str, falls: float) -> None:
    lengths = []
    for last in (1e3, 1e2):
        torch.manual_seed(0)
        model, x = mlp(12, 8, 4), torch.randn(6, 12)
        optimizer = OPTIMIZERS[name].build(model, Setting(lr=1e3))
        for rate in (*[1e3] * 11, last):  # ten steps of warm-up
            for group in optimizer.param_groups:
                group["lr"] = rate
            before = [weight.detach().clone() for weight in model.parameters()]
            optimizer.zero_grad()
            cross_entropy_of(model(x)).backward()
            optimizer.step()
        moved = [(weight - start).norm() for weight, start in zip(model.parameters(), before, strict=True)]
        lengths.append(torch.stack(moved).norm().item())
    assert lengths[0] / lengths[1] == pytest.approx(falls, rel=1e-3)
