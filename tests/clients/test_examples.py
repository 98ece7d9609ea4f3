"""The examples of several processes run as their first lines say, with two processes of gloo, and learn."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
LAUNCHERS = {
    "ddp.py": ["-m", "torch.distributed.run", "--nproc-per-node", "2"],
    "fsdp2.py": ["-m", "torch.distributed.run", "--nproc-per-node", "2"],
    "trainer_ddp.py": ["-m", "torch.distributed.run", "--nproc-per-node", "2"],
    "accelerate_ddp.py": ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"],
    "lightning_ddp.py": [],
    "lightning_fsdp2.py": [],
}
SHARED = "patterns.py"


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {SHARED, *LAUNCHERS}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_an_example_learns(name: str):
    """Its loss falls to a third at least; what one process prints is what both have."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *LAUNCHERS[name], str(EXAMPLES / name)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    losses = [float(found) for found in re.findall(r"^epoch \d+: loss ([\d.]+)", ended.stdout, re.MULTILINE)]
    assert len(losses) == 4
    assert losses[-1] < losses[0] / 3
