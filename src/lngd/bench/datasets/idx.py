"""The idx format of the MNIST family: a magic number, the sizes as big-endian 32-bit numbers, then the values."""

import gzip
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from lngd.bench.errors import BenchError

UNSIGNED_BYTE = 0x08  # the only element type that the MNIST family uses


def read_idx(path: Path, ndim: int) -> Tensor:
    """The unsigned bytes of an idx file, gzipped or not, as a tensor with `ndim` axes.

    Raises:
        BenchError: not an idx file of unsigned bytes, another number of axes, or a length that contradicts the header.
    """
    content = _content(path)
    shape = _shape(content, path, ndim)
    values = torch.frombuffer(bytearray(content), dtype=torch.uint8)[4 + 4 * ndim :]
    expected = torch.Size(shape).numel()
    if len(values) != expected:
        raise BenchError(f"{path}: the header announces {expected} bytes {shape}, the file holds {len(values)}")
    return values.view(shape)


def _content(path: Path) -> bytes:
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BenchError(f"{path}: damaged gzip file ({error})") from error


def _shape(content: bytes, path: Path, ndim: int) -> tuple[int, ...]:
    if len(content) < 4 + 4 * ndim:
        raise BenchError(f"{path}: {len(content)} bytes are too few for an idx header with {ndim} axes")
    zero, kind, axes = struct.unpack(">HBB", content[:4])
    if (zero, kind) != (0, UNSIGNED_BYTE):
        raise BenchError(f"{path}: not an idx file of unsigned bytes (magic number {content[:4].hex()})")
    if axes != ndim:
        raise BenchError(f"{path}: {axes} axes in the header, {ndim} expected")
    return struct.unpack(f">{ndim}I", content[4 : 4 + 4 * ndim])
