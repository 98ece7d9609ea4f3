"""The pages: their code runs, the site builds without a warning, and a browser shows it as it is meant."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
README_LINES = 120

GIVEN = """
import os, torch, lngd
from torch import nn
os.chdir({folder!r})
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
loader = [(torch.randn(32, 784), torch.randint(10, (32,))) for _ in range(3)]
optimizer = lngd.SpectralLNGD(model)
"""
"""What a page takes for granted: a model, batches, an optimizer."""
WRAPPED = """
import torch.distributed as dist
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
class Stacked(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    def forward(self, x):
        for block in self.blocks:
            x = block(x).tanh()
        return x
"""
BEFORE = {"processes": [f"{WRAPPED}model = Stacked()\n", "model = Stacked()\n"]}
"""Of a page, what comes before each block."""
CHECKPOINTED = "import torch.distributed.checkpoint as dcp\nfolder = 'checkpoint'\n"
TRAIN = "for _ in range(2): model(torch.randn(8, *{shape})).square().mean().backward(); optimizer.step(); optimizer.zero_grad()\n"
AFTER = {
    "processes": TRAIN.format(shape=(4,)) + "dist.destroy_process_group()\n",
    "index": TRAIN.format(shape=(784,)),
}


def blocks_of(page: Path) -> list[str]:
    return CODE.findall(page.read_text())


WITH_CODE = [page for page in PAGES if blocks_of(page) and page.stem != "algorithm"]  # see tests/test_reference.py


def program(page: Path, folder: Path) -> str:
    """All blocks of a page, one after the other, as a reader would type them."""
    before = BEFORE.get(page.stem, [])
    parts = [GIVEN.format(folder=str(folder))]
    for number, block in enumerate(blocks_of(page)):
        parts.append(before[number] if number < len(before) else "")
        if "dcp." in block:
            parts.append(CHECKPOINTED)
        parts.append(block)
    return "\n".join([*parts, AFTER.get(page.stem, "")])


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", program(page, tmp_path)]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_in_the_site_and_the_api_shows_signatures_and_sources(site):
    built = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert {f"{page.stem}.html" for page in PAGES[1:]} <= built
    assert {f"results/{path.stem}.html" for path in (ROOT / "results").glob("*.md")} <= built
    api = (site / "api.html").read_text()
    for name in ("lngd.SpectralLNGD", "lngd.LNGD", "lngd.check_layer", "lngd.curvature.lngd.LNGDBlock.measure"):
        assert f'id="{name}"' in api
    assert "adamw_lr_ratio" in api
    assert "second_moments(rows" in re.sub(r"<[^>]*>", "", api)


@pytest.mark.browser
def test_no_page_is_wider_than_its_window_or_asks_for_anything_from_elsewhere(site):
    program = shutil.which("chromium")
    assert program, "this test needs Chromium: apt-get install chromium"
    faults = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for width, scheme in ((420, "dark"), (1280, "light")):
            page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
            page.on("request", lambda request: faults.append(request.url) if request.url.startswith("http") else None)
            page.on("pageerror", lambda error: faults.append(str(error)))
            for path in sorted(site.rglob("*.html")):
                page.goto(path.as_uri())
                if page.evaluate("document.documentElement.scrollWidth") > width:
                    faults.append(f"{path.name} at {width}")
        browser.close()
    assert faults == []
