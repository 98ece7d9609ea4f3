"""What the suite must be for several processes to share it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def names_of_all_tests(hash_seed: str) -> list[str]:
    """As one process of pytest-xdist collects them."""
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-o", "addopts=", "-p", "no:cacheprovider"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return [line for line in listed.stdout.splitlines() if "::" in line]


@pytest.mark.slow
def test_every_process_finds_the_same_tests_at_any_time() -> None:
    """No name holds a time, an address or a set's order; a name that is not plain text is one by mistake."""
    once, again = names_of_all_tests("1"), names_of_all_tests("2")
    assert len(once) > 6000
    assert once == again
    assert [name for name in once if not name.isprintable() or "\\x" in name or len(name) > 1000] == []
