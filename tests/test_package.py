"""What is published: small archives with what belongs into them, and types that hold for a user's own script."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import lngd

ROOT = Path(__file__).parents[1]
MOST = 2**20  # bytes
SCRIPT = """
import torch
from torch import Tensor, nn

from lngd import LNGD, Factors, KLClip, KFAC, Sampled, Schedule, SpectralLNGD


def train(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    optimizer = SpectralLNGD(model, lr=0.02, schedule=Schedule(10, 50), factors=Factors(128))
    other: torch.optim.Optimizer = KFAC(model, step_size=KLClip(kl=1e-2), fisher=Sampled("gaussian"))
    scheduler = torch.optim.lr_scheduler.LinearLR(other)

    def closure() -> Tensor:
        loss: Tensor = model(batches[0][0]).sum()
        torch.autograd.backward(loss)
        return loss

    loss = optimizer.step(closure)
    reveal_type(loss)
    nothing = optimizer.step()
    reveal_type(nothing)
    reveal_type(optimizer.stats())
    scheduler.step()
    LNGD(model, [{"params": model.parameters(), "lr": 0.1}], fisher="empirical", lr="fast")
    return float(loss)
"""


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_the_wheel_holds_the_library_its_types_and_its_licence_and_nothing_else(archives):
    (path,) = archives.glob("*.whl")
    names = zipfile.ZipFile(path).namelist()
    own = {file.relative_to(ROOT / "src").as_posix() for file in (ROOT / "src" / "lngd").rglob("*.py")}
    assert {name for name in names if ".dist-info" not in name} == {*own, "lngd/py.typed"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert path.name.startswith(f"lngd-{lngd.__version__}-py3-none-any")
    assert path.stat().st_size < MOST


@pytest.mark.slow
def test_the_source_archive_is_small_and_has_the_same_files(archives):
    (path,) = archives.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {file.relative_to(ROOT).as_posix() for file in (ROOT / "src" / "lngd").rglob("*.py")} <= names
    assert {"README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md", "pyproject.toml"} <= names
    assert not any(name.startswith(("tests/", "results/", "docs/")) for name in names)
    assert path.stat().st_size < MOST


def test_every_page_that_names_a_version_names_this_one():
    assert f"version: {lngd.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"Version {lngd.__version__.rpartition('.')[0]}" in (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_a_users_script_has_types(tmp_path):
    """A step with a closure gives what the closure gives, one without gives None; a wrong argument is an error."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file", "", str(script)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    said = [line for line in ended.stdout.splitlines() if line.startswith("script.py")]
    revealed = [line.partition('"')[2].rpartition('"')[0] for line in said if "Revealed" in line]
    assert revealed == ["torch._tensor.Tensor", "None", "dict[str, float]"], ended.stdout
    errors = [line for line in said if ": error:" in line]
    assert len(errors) == 1, ended.stdout
    assert "[arg-type]" in errors[0]
