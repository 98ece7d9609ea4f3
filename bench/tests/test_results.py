"""The committed results: a page whose runs were made with other defaults than today's says so."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lngd_bench import archive
from lngd_bench.competitors.optimizers import OF_BOTH, OPTIMIZERS, competitor_of

RESULTS = Path(__file__).parents[2] / "results"
STUDIES = sorted(path.name.removesuffix(archive.ENDING) for path in RESULTS.glob(f"*{archive.ENDING}"))
AT_DEFAULTS = ("default", "raw", "scales", "variants", "transfer", "beyond", "language", "quality", "paper")
"""Studies that run our methods at the defaults of the day; the others set what they study."""
SAID = "Run before"
OF_THE_HEAD = 3
"""Paragraphs of a page in which that has to stand."""


def fingerprints(study: str) -> Iterator[str]:
    """Of each run of ours, as it was recorded; empty where it was not."""
    for lines in archive.read(RESULTS / f"{study}{archive.ENDING}").values():
        yield from (line.get("defaults", "") for line in lines if is_of_ours(line))


def is_of_ours(line: dict[str, Any]) -> bool:
    """Studies have names of their own for our methods; other people's are known by theirs."""
    if line.get("event", "start") != "start":
        return False
    rival = competitor_of(line)
    return rival is None or bool(rival.defaults)


@pytest.mark.parametrize("study", [study for study in AT_DEFAULTS if study in STUDIES])
def test_a_page_of_other_defaults_says_so_at_its_head(study: str) -> None:
    today = {OF_BOTH, *(competitor.fingerprint for competitor in OPTIMIZERS.values() if competitor.defaults)}
    older = {found for found in fingerprints(study) if found not in today}
    head = "\n\n".join((RESULTS / f"{study}.md").read_text().split("\n\n")[:OF_THE_HEAD])
    assert (SAID in head) is bool(older), f"results/{study}.md: some of its runs have other defaults ({older or 'none'})"


def test_a_method_has_a_fingerprint_that_its_step_sizes_own_defaults_are_part_of() -> None:
    spectral = OPTIMIZERS["lngd-spectral"]
    assert "base_width=128" in spectral.defaults["step_size"]
    assert "FixedRMS" not in OPTIMIZERS["kfac"].defaults["step_size"]
    assert spectral.fingerprint != OPTIMIZERS["lngd"].fingerprint
    assert not OPTIMIZERS["adamw"].fingerprint
