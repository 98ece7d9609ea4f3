"""What was tried for speed: that the ideas compute what they replace, on small matrices."""

from pathlib import Path

import pytest
import torch

from lngd.linalg.polar import QUINTICS
from lngd_bench import archive
from lngd_bench.studies.kernels import __main__ as kernels
from lngd_bench.studies.kernels import passes, polar


def test_topics_are_measured_kept_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"INPUTS": (32,), "SECONDS": 0.0, "QUANTUM": 1e-5}.items():
        monkeypatch.setattr(passes, name, value)
    monkeypatch.setattr(polar, "SIZES", ((8, 12),))
    threads = torch.get_num_threads()
    packed = tmp_path / "kernels.jsonl.gz"
    for names in (["moments", "polar"], ["polar"]):
        if packed.exists():
            head, *rows = archive.read(packed)["kernels.jsonl"]
            archive.write(packed, {"kernels.jsonl": [head, {**rows[-1], "idea": "one that nothing measures any more"}, *rows]})
        monkeypatch.setattr("sys.argv", ["kernels", "--out", str(tmp_path), "--topics", *names])
        kernels.main()
    torch.set_num_threads(threads)
    _, decided, *rows = archive.read(packed)["kernels.jsonl"]
    assert decided["idea"] == "one that nothing measures any more"
    assert [row["topic"] for row in rows] == ["moments"] * 2 + ["polar"] * 10
    assert rows[0]["figures"]["difference"] < 1e-5
    assert rows[-4]["figures"]["error, Gaussian"] < 0.3
    assert "minimax 4 on the Gram matrix" in capsys.readouterr().out


def test_the_library_s_quintics_are_the_best_four() -> None:
    found, worst = polar.schedule(4, polar.LOW[4])
    assert worst == pytest.approx(0.198, abs=1e-3)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(QUINTICS), rtol=1e-3, atol=1e-3)
