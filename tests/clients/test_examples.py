"""The examples run as their first lines say, those of several processes with two of gloo, and learn."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
LAUNCHERS = {
    "ddp.py": TORCHRUN,
    "fsdp2.py": TORCHRUN,
    "trainer_ddp.py": TORCHRUN,
    "accelerate_ddp.py": ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"),
    "lightning_ddp.py": (),
    "lightning_fsdp2.py": (),
    "lightning_module.py": (),
    "gpt.py": (),
    "resnet.py": (),
    "peft_lora.py": (),
    "skorch_classifier.py": (),
    "adding_layer.py": (),
    "adding_block.py": (),
}
SHARED = "patterns.py"
FALLS = {"gpt.py": 1.4}
"""By which factor the loss falls, where it is not 3: text keeps its entropy."""
MOST_LINES = 60


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {SHARED, *LAUNCHERS}


@pytest.mark.parametrize("name", [SHARED, *LAUNCHERS])
def test_an_example_is_read_at_a_glance(name: str):
    assert len((EXAMPLES / name).read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("name", LAUNCHERS)
def test_an_example_and_the_page_give_the_same_command(name: str):
    first = (EXAMPLES / name).read_text().splitlines()[0]
    command = re.fullmatch(rf'""".+: ((?:python|torchrun|accelerate launch) .*examples/{re.escape(name)})"""', first)
    assert command
    assert f"| [{name}]({name}) |" in (page := (EXAMPLES / "README.md").read_text())
    assert f"| `{command[1]}` |" in page


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_an_example_learns_and_leaves_nothing_behind(name: str, tmp_path: Path):
    """What one process prints is what all have. It writes nothing where it is called, nor where it stands."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *LAUNCHERS[name], str(EXAMPLES / name)]
    before = files_of_examples()
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    losses = [float(found) for found in re.findall(r"^epoch \d+: loss ([\d.]+)", ended.stdout, re.MULTILINE)]
    assert len(losses) == 4
    assert losses[-1] < losses[0] / FALLS.get(name, 3)
    assert list(tmp_path.iterdir()) == []
    assert files_of_examples() == before


def files_of_examples() -> set[Path]:
    """Without compiled Python, which git ignores, too."""
    return {path for path in EXAMPLES.rglob("*") if "__pycache__" not in path.parts}
