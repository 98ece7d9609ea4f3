"""What was tried for speed: that the ideas compute what they replace, on small matrices."""

from pathlib import Path

import pytest
import torch

from lngd.linalg.polar import QUINTICS
from lngd_bench import archive
from lngd_bench.studies.kernels import __main__ as kernels
from lngd_bench.studies.kernels import elementwise, inverses, polar, stopwatch


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (inverses, elementwise):
        monkeypatch.setattr(module, "SIZES", ((16, 32),))
    monkeypatch.setattr(polar, "SIZES", ((8, 12),))
    monkeypatch.setattr(inverses, "SIDES", (16,))
    monkeypatch.setattr(elementwise, "ENTRIES", (100,))
    monkeypatch.setattr(stopwatch, "SECONDS", 0.0)
    monkeypatch.setattr(stopwatch, "QUANTUM", 1e-5)


@pytest.mark.usefixtures("small")
def test_topics_are_measured_kept_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    topics = [name for name in kernels.TOPICS if name not in ("trace", "passes")]
    for names in (topics, ["polar"]):
        monkeypatch.setattr("sys.argv", ["kernels", "--out", str(tmp_path), "--topics", *names])
        kernels.main()
    torch.set_num_threads(threads)
    _, *rows = archive.read(tmp_path / "kernels.jsonl.gz")["kernels.jsonl"]
    assert {row["topic"] for row in rows} == set(topics)
    exact = [row["figures"] for row in rows if row["topic"] in ("applying", "packing", "moments")]
    assert all(figures.get("error", figures.get("difference", 0)) < 1e-5 for figures in exact)
    assert "two triangular solves with L" in capsys.readouterr().out


def test_the_library_s_quintics_are_the_best_four() -> None:
    found, worst = polar.schedule(4, polar.LOW[4])
    assert worst == pytest.approx(0.198, abs=1e-3)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(QUINTICS), rtol=1e-3, atol=1e-3)
