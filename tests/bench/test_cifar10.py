import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lngd.bench.datasets import cifar10, places
from lngd.bench.errors import BenchError

SMALL = 4  # records a file here


@pytest.fixture(autouse=True)
def small_and_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Files of four records, on a machine without the data set."""
    monkeypatch.setattr(cifar10, "RECORDS", SMALL)
    monkeypatch.delenv("LNGD_DATA", raising=False)
    monkeypatch.setattr(places, "CACHE", tmp_path / "cache")


def content(number: int) -> bytes:
    """Labels 0, 1, …; every pixel's value says which colour it has, so that a wrong order of planes shows."""
    generator = np.random.default_rng(number)
    lowest = np.repeat([0, 60, 120], 1024)
    pixels = generator.integers(lowest, lowest + 60, (SMALL, 3072)).astype(np.uint8)
    return b"".join(bytes([(number * SMALL + row) % 10]) + pixels[row].tobytes() for row in range(SMALL))


def files() -> dict[str, bytes]:
    return {name: content(number) for number, name in enumerate((*cifar10.TRAIN, *cifar10.TEST))}


def write_directory(directory: Path, changed: dict[str, bytes] | None = None) -> Path:
    folder = directory / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, data in (files() | (changed or {})).items():
        (folder / name).write_bytes(data)
    return directory


def write_archive(directory: Path, changed: dict[str, bytes] | None = None) -> Path:
    """As its makers pack it: the folder inside, with files of other names among it."""
    directory.mkdir(parents=True, exist_ok=True)
    members = {"batches.meta.txt": b"airplane\n"} | files() | (changed or {})
    with tarfile.open(directory / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return directory


both_forms = pytest.mark.parametrize("write", [write_directory, write_archive])


@both_forms
def test_the_binary_distribution_is_read_in_the_order_of_its_files(write: Callable[..., Path], tmp_path: Path) -> None:
    split = cifar10.load_cifar10_split(write(tmp_path / "data"))
    assert split.train_x.shape == (5 * SMALL, 3, 32, 32)
    assert split.test_x.shape == (SMALL, 3, 32, 32)
    assert split.train_y.tolist() == [number % 10 for number in range(20)]
    assert split.test_y.tolist() == [0, 1, 2, 3]


@both_forms
def test_each_colour_is_standardised_by_the_training_set(write: Callable[..., Path], tmp_path: Path) -> None:
    """Against numpy, record by record."""
    split = cifar10.load_cifar10_split(write(tmp_path / "data"))
    raw = np.stack(
        [np.frombuffer(data, np.uint8).reshape(SMALL, -1)[:, 1:].reshape(SMALL, 3, 32, 32) for data in files().values()]
    )
    train = raw[:5].reshape(-1, 3, 32, 32).astype(np.float64)
    mean, std = train.mean((0, 2, 3)), train.std((0, 2, 3), ddof=1)
    expected = (raw[5].astype(np.float64) - mean[:, None, None]) / std[:, None, None]
    assert torch.allclose(split.test_x, torch.tensor(expected, dtype=torch.float32), atol=1e-4)


def test_a_directory_with_the_files_themselves_and_the_environment_variable_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_directory(tmp_path) / "cifar-10-batches-bin"
    assert cifar10.load_cifar10_split(folder).train_y.shape == (20,)
    monkeypatch.setenv("LNGD_DATA", str(tmp_path))
    assert cifar10.place() == str(folder)


def test_data_that_are_nowhere_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="Get it with: lngd data fetch cifar-10"):
        cifar10.load_cifar10_split(tmp_path)


@both_forms
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (content(0)[:-1], "12292 bytes, the file has 12291"),
        (content(0) + b"x", "the file has more"),
        (b"", "the file has 0"),
        (b"\x0a" + content(0)[1:], "record 0 has label 10"),
    ],
    ids=["short", "long", "empty", "label"],
)
def test_a_corrupt_file_is_refused_by_name(write: Callable[..., Path], data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=rf"data_batch_3\.bin: .*{message}"):
        cifar10.load_cifar10_split(write(tmp_path / "data", {"data_batch_3.bin": data}))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (write_directory(tmp_path) / "cifar-10-batches-bin" / "test_batch.bin").unlink()
    with pytest.raises(BenchError, match=r"test_batch\.bin is missing: CIFAR-10 has 6 files"):
        cifar10.load_cifar10_split(tmp_path)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz"):
        pass
    with pytest.raises(BenchError, match="it is not CIFAR-10's binary distribution"):
        cifar10.load_cifar10_split(tmp_path)


def test_a_link_in_the_archive_is_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    with pytest.raises(BenchError, match="has no cifar-10-batches-bin"):
        cifar10.load_cifar10_split(tmp_path)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_garbled_archive_is_read_or_refused_never_anything_else(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = write_archive(tmp_path_factory.mktemp("garbled"))
    path = directory / "cifar-10-binary.tar.gz"
    packed = bytearray(path.read_bytes())
    cut = data.draw(st.integers(0, len(packed)))
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(packed[:cut] if data.draw(st.booleans()) else packed))
    try:
        split = cifar10.load_cifar10_split(directory)
    except BenchError as error:
        assert "cifar-10-binary.tar.gz" in str(error)  # noqa: PT017  either outcome is right
    else:
        assert split.train_x.shape == (20, 3, 32, 32)


def test_an_archive_that_unpacks_to_far_more_than_it_should_is_cut_off(tmp_path: Path) -> None:
    write_archive(tmp_path, {"data_batch_1.bin": bytes(20_000_000)})
    assert (tmp_path / "cifar-10-binary.tar.gz").stat().st_size < 300_000
    with pytest.raises(BenchError, match=r"data_batch_1\.bin: .*the file has more"):
        cifar10.load_cifar10_split(tmp_path)


def test_a_fetched_archive_is_checked_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_archive(tmp_path / "source") / "cifar-10-binary.tar.gz"
    with pytest.raises(BenchError, match=r"SHA-256 of the content is .*; nothing was kept"):
        list(cifar10.fetch(source.as_uri()))
    assert not list((tmp_path / "cache").rglob("*.gz*"))
    monkeypatch.setattr(cifar10, "SHA256", hashlib.sha256(source.read_bytes()).hexdigest())
    assert [path.name for path in cifar10.fetch(source.as_uri())] == ["cifar-10-binary.tar.gz"]
    assert cifar10.load_cifar10_split().train_x.shape == (20, 3, 32, 32)


def test_gzip_of_nothing_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(BenchError, match=r"cifar-10-binary\.tar\.gz"):
        cifar10.load_cifar10_split(tmp_path)
