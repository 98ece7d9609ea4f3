"""The idx format of the MNIST family: a magic number, the sizes as big-endian 32-bit numbers, then the values.

A file comes from elsewhere. What its header announces is held against the file's size before anything is read by it, so that
neither a damaged header nor a gzip file that unpacks to a thousand times its size can fill the memory.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from lngd_bench.errors import BenchError

UNSIGNED_BYTE = 0x08  # the only element type that the MNIST family uses
GZIP_MAGIC = b"\x1f\x8b"
DEFLATE_RATIO = 1032  # deflate packs 258 bytes in 2 bits at best (zlib's technical notes)
LARGEST = 2**30  # bytes; EMNIST by class, the largest of the family, has half of it


def read_idx(path: Path, ndim: int) -> Tensor:
    """The unsigned bytes of an idx file, gzipped or not, as a tensor with `ndim` axes.

    Raises:
        BenchError: not an idx file of unsigned bytes, another number of axes, or a length that contradicts the header.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
            file.seek(0)
            if not packed:
                return _read(file, path, ndim, path.stat().st_size)
            with gzip.open(file) as unpacked:
                return _read(unpacked, path, ndim, path.stat().st_size * DEFLATE_RATIO)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BenchError(f"{path}: damaged gzip file ({error})") from error
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror or error}") from error


def _read(file: BinaryIO | gzip.GzipFile, path: Path, ndim: int, most: int) -> Tensor:
    """`most`: the bytes that the file can hold."""
    header = file.read(4 + 4 * ndim)
    shape = _shape(header, path, ndim)
    expected = math.prod(shape)  # torch.Size.numel wraps around at 2⁶³
    announced = f"{path}: the header announces {expected} bytes {shape}"
    if expected > LARGEST:
        raise BenchError(f"{announced}, more than the {LARGEST} that any data set of this format has")
    if expected > most - len(header):
        raise BenchError(f"{announced}, the file has room for {most - len(header)}")
    values = file.read(expected + 1)
    if len(values) != expected:
        raise BenchError(f"{announced}, the file holds {len(values) if len(values) < expected else 'more'}")
    return torch.frombuffer(bytearray(header + values), dtype=torch.uint8)[len(header) :].view(shape)


def idx_of(values: Tensor) -> bytes:
    """The file that `read_idx` reads as these unsigned bytes."""
    header = struct.pack(f">HBB{values.ndim}I", 0, UNSIGNED_BYTE, values.ndim, *values.shape)
    return header + values.numpy().tobytes()


def _shape(header: bytes, path: Path, ndim: int) -> tuple[int, ...]:
    if len(header) < 4 + 4 * ndim:
        raise BenchError(f"{path}: {len(header)} bytes are too few for an idx header with {ndim} axes")
    zero, kind, axes = struct.unpack(">HBB", header[:4])
    if (zero, kind) != (0, UNSIGNED_BYTE):
        raise BenchError(f"{path}: not an idx file of unsigned bytes (magic number {header[:4].hex()})")
    if axes != ndim:
        raise BenchError(f"{path}: {axes} axes in the header, {ndim} expected")
    return struct.unpack(f">{ndim}I", header[4:])
