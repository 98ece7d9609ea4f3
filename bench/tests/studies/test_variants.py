"""`python -m lngd_bench.studies.variants` in a few steps on the digits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lngd_bench import archive
from lngd_bench.competitors.optimizers import OPTIMIZERS, Setting
from lngd_bench.studies.variants import changes, defaults, raw, scales, transfer
from lngd_bench.studies.variants.__main__ import main


def run(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    main(words)
    return capsys.readouterr().out.splitlines()


def test_defaults_adds_the_runs_that_its_archive_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["defaults", "--tasks", "digits-mlp", "--steps", "2", "--out", str(tmp_path), "--lr", "0.5"]
    competitors = dict(OPTIMIZERS)
    run(capsys, *words, "--kl-clip", "0.01")
    printed = run(capsys, *words, "1", "--revert", "schedule.ramp", "momentum_on")
    assert sum(line.startswith("{") for line in printed) == 4
    assert not any(line.startswith("{") for line in run(capsys, *words, "--revert", "momentum_on"))
    assert sum(line.startswith("{") for line in run(capsys, *words, "--baseline", "sgd")) == 1
    lines = archive.read(tmp_path / "defaults.jsonl.gz")["defaults.jsonl"]
    assert [line["lr"] for line in lines] == [0.5, 0.5, 0.5, 1.0, 1.0, 0.5]
    assert "ramp=False" in lines[1]["schedule"]
    assert lines[2]["momentum_on"] == "update"
    assert (tmp_path / "defaults.md").read_text().count("| digits-mlp") == 6
    assert dict(OPTIMIZERS) == competitors


def test_lengths_follows_a_run_step_by_step(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line.split() for line in run(capsys, "lengths", "digits-mlp", "kfac", "--at", "1", "3")]
    assert [row[0] for row in rows[2:]] == ["1", "3"]
    assert all(float(row[3]) > 0 for row in rows[2:])


def test_without_psi_every_block_whitens_by_its_inputs_alone() -> None:
    model = nn.Sequential(nn.Conv2d(32, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3))
    optimizer = changes.SpectralWithoutPsi(model)
    F.cross_entropy(model(torch.randn(6, 32, 4, 4)), torch.randint(0, 3, (6,))).backward()
    optimizer.step()
    blocks = optimizer.blocks.values()
    assert {type(block) for block in blocks} == {changes.NoPsiKronecker, changes.NoPsiDense}
    assert all(torch.equal(block.psi_inverse, torch.eye(len(block.psi_inverse))) for block in blocks)


def test_the_table_of_variants_has_the_better_rate() -> None:
    line = {"task": "fashion-cnn", "variant": "LNGD", "seed": 0}
    lines = [
        {**line, "lr": lr, "metric": metric} for lr, metric in ((0.5, 0.8), (0.5, 0.82), (1.0, 0.7), (2.0, 0.99), (2.0, None))
    ]
    row = next(line for line in changes.table(lines).splitlines() if line.startswith("| LNGD  "))
    assert row.split("|")[2].strip() == "81.00 at 0.5"


def test_embeddings_have_curvature_in_the_variant_that_asks_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    setting = Setting(lr=0.1, mean_over="token")
    assert set(changes.built(changes.LNGD)(model, setting).blocks) == {"1"}
    assert set(changes.with_embeddings(model, setting).blocks) == {"0", "1"}
    printed = run(capsys, "layers", "--tasks", "digits-mlp", "--steps", "1", "--seeds", "0", "--out", str(tmp_path))
    assert ["default" in line for line in printed if line.startswith("{")] == [True]


def test_what_can_be_as_in_the_paper_is_something_that_lngd_has() -> None:
    assert "step_size.smoothing" in defaults.REVERTIBLE
    assert "step_size.max_move" not in defaults.REVERTIBLE  # the paper's step size has no bound
    assert type(defaults.OBJECTS["step_size"]).__name__ == "InvariantRate"


def test_scales_trains_every_optimizer_and_is_not_told_the_factor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {name: replace(small, steps=25) for name, small in scales.TASKS.items()}
    monkeypatch.setattr(scales, "TASKS", few)
    run(capsys, "scales", "--seeds", "0", "--out", str(tmp_path))
    found = {
        (line["task"], line["optimizer"]): line["metric"] for line in archive.read(tmp_path / "scales.jsonl.gz")["scales.jsonl"]
    }
    assert len(found) == len(few) * len(scales.RIVALS)
    assert found["loss × 0.001", "LNGD"] == pytest.approx(found["loss × 1", "LNGD"], rel=1e-3)
    assert found["loss × 0.001", "LNGD, eq. 12"] > 1.1 * found["loss × 1", "LNGD, eq. 12"]
    assert (tmp_path / "scales.md").read_text().count("\n| ") == len(few) + 1


def test_raw_compares_factors_on_the_damping_of_first_layers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "STEPS", {"digits-mlp": 3})
    run(capsys, "raw", "--seeds", "0", "--out", str(tmp_path))
    lines = archive.read(tmp_path / "raw.jsonl.gz")["raw.jsonl"]
    assert {(line["optimizer"], line["raw_damping"]) for line in lines} == {(m, f) for m in raw.METHODS for f in raw.FACTORS}
    assert len({line["train_loss"] for line in lines if line["optimizer"] == "LNGD" and line["lr"] == 0.25}) > 1
    assert (tmp_path / "raw.md").read_text().count("| digits-mlp") == 4


def test_transfer_tells_how_far_the_best_rate_moves_and_draws_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"STEPS": 2, "SAMPLES": 256, "WIDTHS": (4, 8), "DEPTHS": (1, 2), "FACTORS": (0.5, 1.0)}.items():
        monkeypatch.setattr(transfer, name, value)
    printed = run(capsys, "transfer", "--seeds", "0", "--out", str(tmp_path))
    assert sum(line.startswith("{") for line in printed) == 2 * 2 * len(transfer.METHODS) * 2
    assert "| width" in (tmp_path / "transfer.md").read_text()
    assert (tmp_path / "transfer.png").read_bytes().startswith(b"\x89PNG")


def test_transfers_cell_has_the_best_rate_and_what_the_own_one_loses() -> None:
    names = {"changed": "width", "optimizer": "lngd-spectral", "seed": 0}
    lines = [{**names, "size": 64, "lr": 0.02 * k, "train_loss": loss} for k, loss in ((0.5, 1.0), (1.0, 1.2), (2.0, None))]
    losses = transfer.ends(lines, "width", "lngd-spectral")[64]
    assert losses == {0.5: 1.0, 1.0: 1.2}
    assert transfer._cell(losses) == "× 0.5, 20%"
