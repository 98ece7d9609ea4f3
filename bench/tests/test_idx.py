import gzip
import struct
import tracemalloc
from pathlib import Path

import pytest
import torch

from lngd_bench.errors import BenchError
from lngd_bench.tasks.datasets.idx import read_idx


def idx_bytes(*shape: int, kind: int = 8, values: bytes | None = None) -> bytes:
    header = struct.pack(f">HBB{len(shape)}I", 0, kind, len(shape), *shape)
    return header + (bytes(range(torch.Size(shape).numel())) if values is None else values)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzipped"])
def test_an_idx_file_is_read_in_its_own_shape(tmp_path: Path, pack) -> None:
    path = tmp_path / "images"
    path.write_bytes(pack(idx_bytes(2, 3, 4)))
    assert torch.equal(read_idx(path, 3), torch.arange(24, dtype=torch.uint8).view(2, 3, 4))


def test_an_idx_file_without_samples_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(idx_bytes(0, 28, 28))
    assert read_idx(path, 3).shape == (0, 28, 28)


def test_a_gzip_bomb_is_unpacked_no_further_than_its_header_announces(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(idx_bytes(2, 3, values=bytes(2**25))))
    tracemalloc.start()
    with pytest.raises(BenchError, match="the file holds more"):
        read_idx(path, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too few"),
        (b"\x00\x00\x08", "too few"),
        (idx_bytes(2, 3, kind=13), "magic number"),
        (b"P5 28 28 255 aaaaaaaaa", "magic number"),
        (idx_bytes(2, 3, 1), "3 axes in the header, 2 expected"),
        (idx_bytes(2, 3, values=b"12345"), r"announces 6 bytes \(2, 3\), the file has room for 5"),
        (idx_bytes(2, 3, values=b"1234567"), "the file holds more"),
        (gzip.compress(idx_bytes(2, 3, values=b"12345")), r"announces 6 bytes \(2, 3\), the file holds 5"),
        (gzip.compress(idx_bytes(2, 3, values=b"1234567")), "the file holds more"),
        (idx_bytes(2**31, 2**31, values=b""), "announces 4611686018427387904 bytes"),
        (idx_bytes(2**32 - 1, 2**32 - 1, values=b"1"), "announces 18446744065119617025 bytes"),
        (gzip.compress(idx_bytes(2**10, 2**10, values=b"")), "has room for"),
        (gzip.compress(idx_bytes(2, 3))[:-9], "damaged gzip"),
        (b"\x1f\x8bno gzip file", "damaged gzip"),
    ],
)
def test_a_damaged_idx_file_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "labels"
    path.write_bytes(content)
    with pytest.raises(BenchError, match=message) as caught:
        read_idx(path, 2)
    assert str(path) in str(caught.value)
