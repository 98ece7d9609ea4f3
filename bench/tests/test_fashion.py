import gzip
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from lngd_bench.errors import BenchError
from lngd_bench.tasks.data import Split
from lngd_bench.tasks.datasets import fashion, idx_images, places
from lngd_bench.tasks.datasets.fashion import FASHION
from test_idx import idx_bytes


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without the data set."""
    monkeypatch.delenv("LNGD_DATA", raising=False)
    monkeypatch.setattr(fashion, "FASHION", replace(fashion.FASHION, system=()))
    monkeypatch.setattr(places, "CACHE", tmp_path / "cache")


def write_small(directory: Path) -> Path:
    """The four files with 3 training and 2 evaluation images."""
    directory.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 3), ("t10k", 2)):
        pixels = bytes(i % 251 for i in range(count * 784))
        (directory / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(count, 28, 28, values=pixels)))
        (directory / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(count)))
    return directory


def small_hashes(directory: Path) -> dict[str, str]:
    return {name: hashlib.sha256(gzip.decompress((directory / f"{name}.gz").read_bytes())).hexdigest() for name in FASHION.hashes}


def assert_small(split: Split) -> None:
    assert split.train_x.shape == (3, 1, 28, 28)
    assert split.test_y.tolist() == [0, 1]
    assert abs(split.train_x.mean()) < 1e-5
    assert abs(split.train_x.std() - 1) < 1e-5


@pytest.mark.usefixtures("elsewhere")
def test_the_named_directory_is_read_before_the_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LNGD_DATA", str(tmp_path / "empty"))
    assert_small(fashion.load_fashion_split(write_small(tmp_path / "named")))


@pytest.mark.usefixtures("elsewhere")
def test_a_directory_of_data_sets_may_hold_it_as_fashion_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small(tmp_path / "data" / "fashion-mnist")
    monkeypatch.setenv("LNGD_DATA", str(tmp_path / "data"))
    assert_small(fashion.load_fashion_split())


@pytest.mark.usefixtures("elsewhere")
def test_missing_data_names_the_commands_that_get_it(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="apt-get install dataset-fashion-mnist, or lngd data fetch fashion-mnist"):
        fashion.load_fashion_split(tmp_path)
    assert fashion.FASHION.place(tmp_path) is None


@pytest.mark.usefixtures("elsewhere")
def test_fetched_files_are_checked_and_then_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_small(tmp_path / "source")
    small = replace(fashion.FASHION, hashes=small_hashes(source))
    monkeypatch.setattr(fashion, "FASHION", small)
    taken: list[int] = []
    assert len(list(small.fetch(source.as_uri(), progress=lambda count, _: taken.append(count)))) == 4
    assert sum(taken) == sum(path.stat().st_size for path in source.iterdir())
    assert_small(fashion.load_fashion_split())


def test_a_file_with_another_content_is_not_kept(tmp_path: Path) -> None:
    source = write_small(tmp_path / "source")
    with pytest.raises(BenchError, match="nothing was kept"):
        list(FASHION.fetch(source.as_uri(), tmp_path / "target"))
    assert not list((tmp_path / "target").iterdir())


@pytest.mark.parametrize("content", [bytes(1001), gzip.compress(bytes(1001))], ids=["long", "packed"])
def test_a_server_cannot_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(idx_images, "LARGEST", 1000)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(BenchError, match="more than 1000 bytes"):
        list(FASHION.fetch(tmp_path.as_uri(), tmp_path / "target"))


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(bytes(99))[:-9], b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 9])
def test_a_fetched_file_that_is_no_gzip_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(BenchError, match=r"train-images-idx3-ubyte\.gz: (not a gzip file|SHA-256)"):
        list(FASHION.fetch(tmp_path.as_uri(), tmp_path / "target"))


@pytest.mark.parametrize(
    ("url", "message"), [("ftp://host/x", "only https and file"), ("file:///nowhere/x", "Without a network")]
)
def test_an_address_that_cannot_be_read_says_so(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=message):
        list(FASHION.fetch(url, tmp_path))
