"""`python -m lngd_bench.studies.beyond`: its tasks, its search and its command, in a few steps."""

import math
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import pytest
import torch
from torch import Generator, nn

from lngd_bench import archive
from lngd_bench.competitors.muon import Float32Muon, MuonWithAdamW
from lngd_bench.studies.beyond import graphs, physics, training
from lngd_bench.studies.beyond.__main__ import main
from lngd_bench.studies.beyond.page import geometric_mean, number
from lngd_bench.studies.beyond.rivals import RIVALS, Rates
from lngd_bench.studies.beyond.search import searched
from lngd_bench.studies.beyond.tasks import TASKS
from lngd_bench.studies.beyond.training import Spec, evaluated, trained


@pytest.mark.parametrize("name", TASKS)
def test_adamw_lowers_the_loss_of_every_task(name: str) -> None:
    task = TASKS[name]
    model, draw = task.model(), Generator().manual_seed(0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = task.loss(model, draw)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert mean(losses[-5:]) < mean(losses[:5])
    assert math.isfinite(evaluated(task, model))


@pytest.mark.parametrize("name", TASKS)
def test_a_run_is_the_same_again(name: str) -> None:
    one, two = (trained(Spec(name, "lngd-spectral", RIVALS["lngd-spectral"].untuned, 3, 3)) for _ in range(2))
    assert one["value"] == two["value"] is not None
    assert one["train_loss"] == two["train_loss"]


@pytest.mark.parametrize("optimizer", RIVALS)
def test_every_optimizer_trains_second_derivatives_adapters_and_cells(optimizer: str) -> None:
    for name in ("pinn-poisson", "lora", "lstm"):
        assert trained(Spec(name, optimizer, RIVALS[optimizer].untuned, 0, 4))["value"] is not None


def test_the_reference_of_burgers_satisfies_the_equation() -> None:
    points, values = physics.burgers_solution(201, 191)
    u, h, dt = values.double().view(191, 201), 0.01, 0.005
    inner = u[1:-1, 1:-1]
    du_dt = (u[2:, 1:-1] - u[:-2, 1:-1]) / (2 * dt)
    du_dx = (u[1:-1, 2:] - u[1:-1, :-2]) / (2 * h)
    d2u_dx2 = (u[1:-1, 2:] - 2 * inner + u[1:-1, :-2]) / h**2
    residual = du_dt + inner * du_dx - physics.VISCOSITY * d2u_dx2
    assert residual.norm() < 0.01 * du_dt.norm()
    assert torch.allclose(u[:, 0], torch.zeros(191, dtype=torch.float64), atol=1e-6)
    soon = points[:, 1] == points[0, 1]
    assert (values[soon] + torch.sin(torch.pi * points[soon, 0])).abs().max() < 0.2


def test_the_operator_begins_with_the_function_and_takes_its_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    later = physics.operator_data.__wrapped__()
    assert later.train_y.square().mean() < 0.9 * later.train_x.square().mean()
    monkeypatch.setattr(physics, "LATER", 0.0)
    now = physics.operator_data.__wrapped__()
    assert physics.relative_error(now.train_y, now.train_x) < 1e-5


def test_triangles_are_counted() -> None:
    adjacency = torch.ones(1, 4, 4) - torch.eye(4)
    assert (adjacency @ adjacency @ adjacency).diagonal(dim1=1, dim2=2).sum() / 6 == 4
    assert graphs.triangles().train_y.mean().abs() < 1e-5


def distance(best: Rates, seen: set[Rates]) -> Callable[[Rates], float]:
    """From what is best, in octaves."""

    def value(rates: Rates) -> float:
        seen.add(rates)
        return abs(math.log2(rates.lr / best.lr)) + abs(math.log2((rates.ratio or 1) / (best.ratio or 1)))

    return value


@pytest.mark.parametrize(
    ("untuned", "best", "trials"),
    [
        (Rates(1.0), Rates(4.0), 8),
        (Rates(1.0, 0.2), Rates(2.0, 0.2 * 3.0), 8),
        (Rates(1.0), Rates(32.0), 10),  # and one beyond, which is worse
        (Rates(1.0, 0.2), Rates(16.0, 0.2), 11),
        (Rates(1.0, 1.0), Rates(1.0, 30.0), 10),
    ],
)
def test_the_search_makes_eight_trials_and_more_beyond_an_edge(untuned: Rates, best: Rates, trials: int) -> None:
    seen: set[Rates] = set()
    found, edge = searched(untuned, distance(best, seen))
    assert found is not None
    assert (found.lr, found.ratio) == (best.lr, pytest.approx(best.ratio))
    assert not edge
    assert len(seen) == trials


def test_the_search_says_when_the_best_stands_at_an_edge_or_nothing_ends() -> None:
    assert searched(Rates(1.0), distance(Rates(1e9), set())) == (Rates(256.0), True)
    assert searched(Rates(1.0), lambda _: math.inf) == (None, False)


def test_adamw_has_its_own_rate_beside_muon() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    groups = MuonWithAdamW(model, 0.01, muon=Float32Muon, rest=0.2).param_groups
    assert [group["lr"] for group in groups] == [0.01 * 0.2, 0.01]


def test_the_command_writes_a_page_and_makes_no_run_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--out", str(tmp_path), "--tasks", "mlp", "dqn", "--optimizers", "adamw", "lngd", "--steps", "2", "--seeds", "0"]
    main(words)
    lines = archive.read(tmp_path / "beyond.jsonl.gz")[training.FILE]
    assert sum(line.startswith("{") for line in capsys.readouterr().out.splitlines()) == len(lines)
    assert 2 * 2 * 9 <= len(lines) <= 2 * 2 * 14  # eight trials, at most four beyond an edge, at most two runs of the report
    assert all(line["value"] is not None for line in lines)
    said = (tmp_path / "beyond.md").read_text()
    assert said.startswith("`python -m lngd_bench.studies.beyond --out")
    assert said.count("**") >= 4
    main(words)
    assert not any(line.startswith("{") for line in capsys.readouterr().out.splitlines())
    assert (tmp_path / "beyond.md").read_text() == said


def test_what_refuses_or_diverges_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> torch.optim.Optimizer:
        raise TypeError("no such layer\nand more")

    def diverge(model: nn.Module, *_: object) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=1e30)

    rivals = {"adamw": ("AdamW", refuse), "soap": ("SOAP", diverge)}
    for name, (title, build) in rivals.items():
        monkeypatch.setitem(dict_of(RIVALS), name, type(RIVALS[name])(title, build, Rates(1.0)))
    main(["--out", str(tmp_path), "--tasks", "mlp", "--optimizers", "adamw", "soap", "--steps", "3", "--seeds", "0"])
    said = (tmp_path / "beyond.md").read_text()
    assert "refused (refused)" in said
    assert "diverges (diverges)" in said
    assert "- MLP, Auto MPG, AdamW: TypeError: no such layer\n" in said


def dict_of(table: object) -> dict[str, object]:
    assert isinstance(table, dict)
    return table


def test_numbers_have_so_many_digits() -> None:
    assert [number(value, 3) for value in (0.01234, 123.4, -99.94, 0.0, 1.234e-5)] == ["0.0123", "123", "-99.9", "0", "1.23e-05"]
    assert geometric_mean([1.0, 4.0], 2) == "2.00"
    assert geometric_mean([1.0], 2) == "1.00 (1 of 2 tasks)"
