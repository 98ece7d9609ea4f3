"""`python -m lngd_bench.studies.language` in a few steps on three blobs, and its tuning rule on losses made up."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from lngd import SpectralLNGD
from lngd_bench import archive
from lngd_bench.competitors.optimizers import OPTIMIZERS, Setting
from lngd_bench.studies.language import ablation, runs
from lngd_bench.studies.language.__main__ import main
from lngd_bench.studies.language.page import Row, crossing, difference, rows_of
from lngd_bench.studies.language.tuning import TRIALS, Point, tuned
from lngd_bench.tasks.models.gpt import GPT
from runs import TOY


def bowl(rate: float, rest: float) -> Callable[[Point], float]:
    """A loss with its least value there, in half octaves."""
    return lambda point: (point[0] - rate) ** 2 + 0.5 * (point[1] - rest) ** 2


@pytest.mark.parametrize("best", range(-9, 10))
def test_one_rate_is_found_between_others_with_twelve_trials(best: int) -> None:
    found = tuned(bowl(best, 0), two_rates=False)
    rates = sorted(rate for rate, _ in found)
    assert len(found) == TRIALS
    assert rates == list(range(rates[0], rates[0] + TRIALS))
    assert min(found, key=found.__getitem__) == (best, 0)
    assert rates[0] < best < rates[-1]


@pytest.mark.parametrize("rate", [-2, -1, 0, 1, 2, 3, 4])
@pytest.mark.parametrize("rest", [-4, -2, 0, 1, 2, 4])
def test_two_rates_are_found_to_half_an_octave_with_twelve_trials(rate: int, rest: int) -> None:
    found = tuned(bowl(rate, rest), two_rates=True)
    assert len(found) == TRIALS
    assert min(found.values()) <= 0.5
    assert [point for point, _ in zip(found, range(4), strict=False) if point[1]] == []
    assert sum(other != 0 for _, other in found) >= 4


@pytest.mark.parametrize("two_rates", [True, False])
def test_where_the_first_rates_diverge_lower_ones_are_tried(two_rates: bool) -> None:
    found = tuned(lambda point: math.inf if point[0] > -3 else abs(point[0] + 5.0), two_rates=two_rates)
    assert len(found) == TRIALS
    assert min(found, key=found.__getitem__) == (-5, 0)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    runs._data.cache_clear()
    monkeypatch.setattr(runs, "SAMPLES", 9)
    monkeypatch.setitem(runs.TASKS, "gpt-240", replace(TOY, name="gpt-240", steps=6, epoch_steps=2))


def run(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    main(words)
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("gpt-240 ")]


@pytest.mark.usefixtures("toy")
def test_a_second_call_makes_nothing_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--optimizers", "adamw", "muon-fp32", "--seeds", "0", "1", "--out", str(tmp_path)]
    before = dict(OPTIMIZERS)
    assert len(run(capsys, *words)) == 2 * (TRIALS + 2)
    assert run(capsys, *words) == []
    assert len(run(capsys, *words, "--optimizers", "lngd-spectral")) >= TRIALS + 2
    assert dict(OPTIMIZERS) == before
    page = (tmp_path / "language.md").read_text()
    assert all(f"| {title} (2 seeds)" in page for title in ("AdamW", "Muon, float32", "Spectral LNGD", "Spectral LNGD, default"))
    assert "The best rival is" in page
    with Image.open(tmp_path / "language.png") as picture:
        assert picture.width > 2 * picture.height
    trials = [line for line in archive.read(tmp_path / "language.jsonl.gz")["language.jsonl"] if line["held_out"]]
    assert {line["seed"] for line in trials} == {runs.TUNING_SEED}
    assert {len(line["curve"]) for line in trials} == {1}


@pytest.mark.usefixtures("toy")
def test_rates_of_another_task_need_no_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(runs.TASKS, "gpt-6x256", replace(TOY, name="gpt-6x256", steps=8, epoch_steps=4))
    words = ["--optimizers", "muon-fp32", "lngd-spectral", "--seeds", "0", "--out", str(tmp_path)]
    run(capsys, *words)
    main([*words, "--tasks", "gpt-6x256", "--rates-of", "gpt-240"])
    lines = archive.read(tmp_path / "language.jsonl.gz")["language.jsonl"]
    larger = [line for line in lines if line["task"] == "gpt-6x256"]
    assert [line["held_out"] for line in larger] == [False, False]
    chosen = {row.optimizer: (row.lr, row.rest) for row in rows_of([line for line in lines if line["task"] == "gpt-240"])[::-1]}
    assert {line["optimizer"]: (line["lr"], line["rest"]) for line in larger} == chosen
    assert "Nobody's rates were tuned here" in (tmp_path / "language.md").read_text()


@pytest.mark.usefixtures("toy")
def test_a_run_of_other_defaults_is_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--optimizers", "lngd", "--seeds", "0", "--out", str(tmp_path)]
    run(capsys, *words)
    path = tmp_path / "language.jsonl.gz"
    lines = archive.read(path)["language.jsonl"]
    assert len(rows_of(lines)) == 2
    old = [{**line, "defaults": "another"} for line in lines]
    archive.write(path, {"language.jsonl": old})
    assert rows_of(old) == []
    assert len(run(capsys, *words)) == len(lines)


@pytest.mark.usefixtures("toy")
def test_the_ablation_has_each_change_once_for_every_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {name: ablation.CHANGES[name] for name in (ablation.UNCHANGED, "Ψ = I", "no warm-up")}
    monkeypatch.setattr(ablation, "CHANGES", few)
    monkeypatch.setattr("lngd_bench.studies.language.page.CHANGES", few)
    words = ["--optimizers", "lngd-spectral", "--seeds", "0", "1", "--out", str(tmp_path), "--ablation"]
    printed = run(capsys, *words)
    assert sum("no warm-up" in line for line in printed) == 2
    page = (tmp_path / "language.md").read_text()
    assert all(f"\n| {name}" in page for name in few)
    assert "one thing changed, 2 seeds" in page


def plain(change: str) -> str:
    """Its name without what a test's name can't hold."""
    return change.translate({ord("Φ"): "Phi", ord("Ψ"): "Psi", ord("×"): "times"})


@pytest.mark.parametrize("change", ablation.CHANGES, ids=plain)
def test_every_change_trains_a_language_model(change: str) -> None:
    torch.manual_seed(0)
    model, x = GPT(16, 8, 8, heads=2, layers=2), torch.arange(24).view(3, 8) % 16
    optimizer = ablation.with_rates(ablation.CHANGES[change])(model, Setting(lr=0.02, rest=0.5, mean_over="token"))
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).flatten(0, 1), x.flatten().roll(-1))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def moved_once(method: Callable[..., torch.optim.Optimizer]) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight's change in the first step and its gradient."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 7, bias=False), nn.Tanh(), nn.Linear(7, 3))
    weight = model[2].weight
    before = weight.detach().clone()
    optimizer = method(model, lr=0.1, warmup=0)
    F.cross_entropy(model(torch.randn(12, 6)), torch.arange(12) % 3).backward()
    assert weight.grad is not None
    gradient = weight.grad.copy_(torch.randn(7, 5)).clone()
    optimizer.step()
    return weight.detach() - before, gradient


def test_without_both_factors_the_step_is_the_polar_factor_at_its_layers_length() -> None:
    step, gradient = moved_once(ablation.SpectralWithoutEither)
    u, _, v = torch.linalg.svd(gradient.double(), full_matrices=False)
    polar = u @ v
    cosine = (-step.double() * polar).sum() / (step.norm().double() * polar.norm())
    assert cosine > 0.98
    assert step.square().mean().sqrt().item() == pytest.approx(0.1 * 0.2 * 8**0.5, rel=1e-3)


def test_rows_alike_makes_all_rows_of_the_first_step_equally_long() -> None:
    step, _ = moved_once(ablation.CHANGES["rows alike (NorMuon)"])
    plain, _ = moved_once(SpectralLNGD)
    assert step.norm(dim=1).std() < 1e-5 < plain.norm(dim=1).std()
    assert step.norm().item() == pytest.approx(plain.norm().item(), rel=1e-3)


def test_on_spheres_a_weight_keeps_its_norm_and_cautious_decay_shrinks_what_shrinks_anyway() -> None:
    torch.manual_seed(0)
    runs = {}
    for name, method in {"plain": SpectralLNGD, "spheres": ablation.OnSpheres, "cautious": ablation.CautiousDecay}.items():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        before = model[0].weight.detach().clone()
        optimizer = method(model, lr=0.1, warmup=0)
        F.cross_entropy(model(torch.randn(12, 6)), torch.arange(12) % 3).backward()
        optimizer.step()
        runs[name] = before, model[0].weight.detach()
    before, plain = runs["plain"]
    torch.testing.assert_close(runs["spheres"][1], plain * before.norm() / plain.norm())
    shrinks = (before - plain) * before > 0
    torch.testing.assert_close(runs["cautious"][1], plain - 0.1 * 0.1 * before * shrinks)


def test_a_curve_crosses_a_target_between_two_evaluations() -> None:
    curve = [(10.0, 3.0, 1.0), (20.0, 2.0, 2.0), (30.0, 2.5, 3.0)]
    assert crossing(curve, 2.25) == (17.5, 1.75)
    assert crossing(curve, 3.5) == (10.0, 1.0)
    assert crossing(curve, 1.0) is None


def test_differences_are_paired_by_seed() -> None:
    def row(losses: dict[int, float | None]) -> Row:
        return Row("a", "adamw", 0.1, None, {seed: {"loss": loss, "curve": []} for seed, loss in losses.items()})

    found = difference(row({0: 2.0, 1: 3.0, 2: 4.0, 5: 9.0}), row({0: 1.0, 1: 1.0, 2: 1.0}))
    assert found == (pytest.approx(2.0), pytest.approx(4.302653 / 3**0.5, rel=1e-5))
    assert difference(row({0: None}), row({0: 1.0})) is None
    assert difference(row({0: 2.0}), row({0: 1.0})) == (1.0, math.inf)
