"""`python -m lngd_bench.studies.variants` in a few steps on the digits."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lngd_bench import archive
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.studies.variants import changes
from lngd_bench.studies.variants.__main__ import main
from lngd_bench.studies.variants.norms import NormLayer


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
    assert all((block.psi_inverse == 1).all() for block in blocks)


def test_the_table_of_variants_has_the_better_rate() -> None:
    line = {"task": "fashion-cnn", "variant": "LNGD", "seed": 0}
    lines = [
        {**line, "lr": lr, "metric": metric} for lr, metric in ((0.5, 0.8), (0.5, 0.82), (1.0, 0.7), (2.0, 0.99), (2.0, None))
    ]
    row = next(line for line in changes.table(lines).splitlines() if line.startswith("| LNGD  "))
    assert row.split("|")[2].strip() == "81.00 at 0.5"


@pytest.mark.parametrize(("module", "shape"), [(nn.LayerNorm(4), (3, 5, 4)), (nn.BatchNorm2d(4), (3, 4, 2, 2))])
def test_a_normalisation_is_a_layer_of_one_group_a_channel(module: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, requires_grad=True)
    nn.init.normal_(module.weight)
    out = module(x)
    layer = NormLayer(module, with_bias=True)
    a, g = layer.activations(x.detach()), layer.gradients(torch.ones_like(out))
    channels = out.movedim(1, -1) if out.dim() == 4 else out
    matrix = torch.stack([module.weight, module.bias], 1)  # [channels, 2]
    torch.testing.assert_close(torch.einsum("cnsi,ci->nsc", a, matrix), channels.flatten(1, -2))
    gradient = torch.autograd.grad(out.sum(), [module.weight, module.bias])
    torch.testing.assert_close(torch.einsum("cnsi,cnso->ci", a, g), torch.stack(gradient, 1), atol=1e-5, rtol=1e-4)
    assert F.cosine_similarity(a[..., 1].flatten(), torch.ones(a[..., 1].numel()), dim=0) == pytest.approx(1)
