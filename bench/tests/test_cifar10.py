import gzip
import hashlib
import io
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lngd_bench.errors import BenchError
from lngd_bench.tasks.datasets import cifar10, cifar10_files, places
from lngd_bench.tasks.datasets.cifar10_files import FILES, TRAIN

SMALL = 4  # records a file here


@pytest.fixture(autouse=True)
def small_and_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Files of four records, on a machine without the data set."""
    monkeypatch.setattr(cifar10_files, "RECORDS", SMALL)
    monkeypatch.delenv("LNGD_DATA", raising=False)
    monkeypatch.setattr(places, "CACHE", tmp_path / "cache")


def content(number: int) -> bytes:
    """Labels 0, 1, …; every pixel's value says which colour it has, so that a wrong order of planes shows."""
    generator = np.random.default_rng(number)
    lowest = np.repeat([0, 60, 120], 1024)
    pixels = generator.integers(lowest, lowest + 60, (SMALL, 3072)).astype(np.uint8)
    return b"".join(bytes([(number * SMALL + row) % 10]) + pixels[row].tobytes() for row in range(SMALL))


def files() -> dict[str, bytes]:
    return {name: content(number) for number, name in enumerate(FILES)}


def write_directory(directory: Path, changed: dict[str, bytes] | None = None) -> Path:
    folder = directory / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, data in (files() | (changed or {})).items():
        (folder / name).write_bytes(data)
    return directory


def write_archive(directory: Path, changed: dict[str, bytes] | None = None) -> Path:
    """As its makers pack it: the folder inside, with files of other names among it."""
    return pack(directory, {"batches.meta.txt": b"airplane\n"} | files() | (changed or {}))


def pack(directory: Path, members: dict[str, bytes], compresslevel: int = 9) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    with tarfile.open(directory / "cifar-10-binary.tar.gz", "w:gz", compresslevel=compresslevel) as archive:
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
        (content(0) + b"x", "12292 bytes, the file has 12293"),
        (b"", "the file has 0"),
        (b"\x0a" + content(0)[1:], "record 0 has label 10"),
        (content(0)[:-3073] + b"\xff" + content(0)[-3072:], "record 3 has label 255"),
    ],
    ids=["short", "long", "empty", "first label", "last label"],
)
def test_a_corrupt_file_is_refused_by_name(write: Callable[..., Path], data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=rf"data_batch_3\.bin: .*{message}"):
        cifar10.load_cifar10_split(write(tmp_path / "data", {"data_batch_3.bin": data}))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (write_directory(tmp_path) / "cifar-10-batches-bin" / "test_batch.bin").unlink()
    with pytest.raises(BenchError, match=r"test_batch\.bin is missing: CIFAR-10 has 6 files"):
        cifar10.load_cifar10_split(tmp_path)


def test_a_directory_that_lacks_a_file_gives_way_to_a_whole_archive(tmp_path: Path) -> None:
    (write_directory(tmp_path) / "cifar-10-batches-bin" / "data_batch_2.bin").unlink()
    assert cifar10.place(tmp_path) is None
    write_archive(tmp_path / "cache")
    assert cifar10.place(tmp_path) == str(tmp_path / "cache" / "cifar-10-binary.tar.gz")
    assert cifar10.load_cifar10_split(tmp_path).train_y.shape == (20,)


@both_forms
def test_files_of_one_colour_are_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    """They would be divided by zero."""
    flat = {name: bytes(SMALL * 3073) for name in TRAIN}
    with pytest.raises(BenchError, match="the same in all pixels"):
        cifar10.load_cifar10_split(write(tmp_path / "data", flat))


def test_files_that_the_archive_has_in_no_order_are_in_theirs_afterwards(tmp_path: Path) -> None:
    """As its makers packed them."""
    first = {name: files()[name] for name in ("test_batch.bin", "data_batch_5.bin", "data_batch_1.bin")}
    mixed = cifar10.load_cifar10_split(pack(tmp_path / "mixed", first | files()))
    expected = cifar10.load_cifar10_split(write_archive(tmp_path / "data"))
    assert torch.equal(mixed.train_x, expected.train_x)
    assert torch.equal(mixed.train_y, expected.train_y)
    assert torch.equal(mixed.test_x, expected.test_x)


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
    else:  # what was garbled is the time in gzip's header, or the like
        assert torch.equal(split.train_x, cifar10.load_cifar10_split(write_archive(directory / "whole")).train_x)


@pytest.mark.parametrize("where", ["pixels", "checksum"])
def test_an_archive_with_one_wrong_bit_is_refused(where: str, tmp_path: Path) -> None:
    path = pack(tmp_path, files(), compresslevel=0) / "cifar-10-binary.tar.gz"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2 if where == "pixels" else -8] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(BenchError, match=r"cifar-10-binary\.tar\.gz: damaged archive \(CRC check failed"):
        cifar10.load_cifar10_split(tmp_path)


def with_checksum(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_garbled_header_in_an_archive_is_read_or_refused_never_anything_else(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With right checksums, which random damage would hardly have."""
    path = write_archive(tmp_path_factory.mktemp("garbled")) / "cifar-10-binary.tar.gz"
    unpacked = bytearray(gzip.decompress(path.read_bytes()))
    headers = [start for start in range(0, len(unpacked), 512) if unpacked[start + 257 : start + 262] == b"ustar"]
    header = data.draw(st.sampled_from(headers))
    for _ in range(data.draw(st.integers(1, 3))):
        unpacked[header + data.draw(st.integers(0, 511))] = data.draw(st.integers(0, 255))
    unpacked[header : header + 512] = with_checksum(unpacked[header : header + 512])
    path.write_bytes(gzip.compress(unpacked, 1))
    try:
        split = cifar10.load_cifar10_split(path.parent)
    except BenchError as error:
        assert "cifar-10-binary.tar.gz" in str(error)  # noqa: PT017  either outcome is right
    else:
        assert split.train_x.shape == (20, 3, 32, 32)


def member(kind: bytes, data: bytes = b"", size: bytes | None = None) -> bytes:
    """A header of tar and what it announces; `size` is the field as it stands in the header."""
    entry = tarfile.TarInfo("name")
    entry.type, entry.size = kind, len(data)
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = size or header[124:136]
    return with_checksum(header) + data + bytes(-len(data) % 512)


SPARSE = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
STRANGE = {
    "a long name of a long name, and so on": member(b"L", b"name") * 3000,
    "headers of headers": member(b"x", b"13 comment=a\n") * 3000,
    "a sparse file whose map is no number": member(b"x", SPARSE) + member(b"0", b"map\n"),
    "more bytes than any disk has": member(b"0", size=b"\x80" + b"\x7f" * 11),
    "less than no bytes": member(b"0", size=b"\xff" * 12),
    "a header of more bytes than any disk has": member(b"x", size=b"\x80" + b"\x7f" * 11),
    "a size of a thousand digits": member(b"x", b"1010 size=" + b"9" * 999 + b"\n") + member(b"0"),
}


@pytest.mark.parametrize("start", STRANGE.values(), ids=STRANGE)
def test_a_strange_header_in_an_archive_ends_in_a_refusal(start: bytes, tmp_path: Path) -> None:
    """And ends at all: tarfile alone reads on behind the end of some of these."""
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(gzip.compress(start + bytes(10240)))
    with pytest.raises(BenchError, match=r"cifar-10-binary\.tar\.gz"):
        cifar10.load_cifar10_split(tmp_path)


def test_a_header_that_unpacks_to_far_more_than_an_archive_has_fills_no_memory(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(gzip.compress(member(b"x", bytes(2**26))))
    tracemalloc.start()
    with pytest.raises(BenchError, match="unpacks to more than"):
        cifar10.load_cifar10_split(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_garbled_file_in_a_directory_is_refused_where_its_size_or_a_label_is_wrong(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    name, garbled = data.draw(st.sampled_from(FILES)), bytearray(content(0))
    garbled[data.draw(st.sampled_from(range(0, len(garbled), 3073)))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.just(len(garbled)) | st.integers(0, len(garbled)))
    directory = write_directory(tmp_path_factory.mktemp("garbled"), {name: bytes(garbled[:cut])})
    if cut == len(garbled) and max(garbled[::3073]) < 10:
        assert cifar10.load_cifar10_split(directory).train_x.isfinite().all()
        return
    with pytest.raises(BenchError, match=name):
        cifar10.load_cifar10_split(directory)


def test_an_archive_that_unpacks_to_far_more_than_it_should_is_cut_off(tmp_path: Path) -> None:
    write_archive(tmp_path, {"data_batch_1.bin": bytes(20_000_000)})
    assert (tmp_path / "cifar-10-binary.tar.gz").stat().st_size < 300_000
    with pytest.raises(BenchError, match=r"data_batch_1\.bin: .*the file has 20000000"):
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
