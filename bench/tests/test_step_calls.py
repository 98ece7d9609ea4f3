"""The counts of calls that stand in `docs/performance.md`, of this checkout."""

import os
import subprocess
import sys
from pathlib import Path

import lngd

SOURCE = Path(lngd.__file__).parent.parent
SCRIPT = SOURCE.parent / "benchmarks" / "step_calls.py"


def test_the_script_counts_each_optimizer_and_a_checkout_beside_itself_is_the_same() -> None:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "JAXTYPING_DISABLE": "1"}
    command = [sys.executable, "-W", "error", str(SCRIPT), "--against", str(SOURCE.parent)]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines()]
    assert rows[0] == ["what", "optimizer", "before", "now", "share"]
    counts = {(what, name): int(now) for what, name, before, now, share in rows[2:] if before == now and share == "100%"}
    assert len(counts) == len(rows) - 2
    assert {name for _, name in counts} == {"SGD", "AdamW", "Muon with AdamW", "LNGD", "SpectralLNGD"}
    of_a_step = {name: number for (what, name), number in counts.items() if what.endswith("optimizer's step")}
    assert of_a_step["SGD"] < of_a_step["AdamW"] < of_a_step["LNGD"] < of_a_step["SpectralLNGD"]
    for name in ("LNGD", "SpectralLNGD"):
        files, functions, calls = (counts[f"{what}, 2 layers", name] for what in ("files", "functions", "Python calls"))
        assert 0 < files < functions < calls
