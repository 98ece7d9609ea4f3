"""Fashion-MNIST: found where a package or the user put it, never downloaded unasked."""

import gzip
import hashlib
import io
import os
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from lngd.bench import durable
from lngd.bench.data import Split, standardised
from lngd.bench.datasets.idx import read_idx
from lngd.bench.errors import BenchError

ENVIRONMENT_VARIABLE = "LNGD_DATA"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CACHE = Path("~/.cache/lngd/fashion-mnist")
INSTALL = "apt-get install dataset-fashion-mnist, or lngd data fetch fashion-mnist"
URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
LARGEST = 64 * 2**20  # bytes of a file, packed or not, that a server can make us take; the largest is 47 million

# SHA-256 of the decompressed idx files: distributors compress them anew, the content is the same.
HASHES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def load_fashion_split(data_dir: Path | None = None) -> Split:
    """All 60,000 training and 10,000 evaluation images `[n, 1, 28, 28]`, standardised, in the order of the files.

    Raises:
        BenchError: no directory holds the four files, or one of them is damaged.
    """
    found = _directory(data_dir)
    if found is None:
        places = ", ".join(str(place) for place in _places(data_dir))
        raise BenchError(f"Fashion-MNIST is in none of {places}. Get it with: {INSTALL}")
    train_x, test_x = (_images(found, part) for part in ("train", "t10k"))
    train_y, test_y = (read_idx(_file(found, f"{part}-labels-idx1-ubyte"), 1).long() for part in ("train", "t10k"))
    return Split(standardised(train_x, train_x), train_y, standardised(test_x, train_x), test_y)


def place(data_dir: Path | None = None) -> str | None:
    """The directory it would be read from."""
    found = _directory(data_dir)
    return str(found) if found else None


def fetch(url: str = URL, into: Path | None = None) -> Iterator[Path]:
    """Download the four files, each checked before it takes its name; yields a file when it is in place.

    Raises:
        BenchError: the address can't be read, or what it holds is not Fashion-MNIST.
    """
    target = (into or CACHE).expanduser()
    target.mkdir(parents=True, exist_ok=True)
    for name, digest in HASHES.items():
        yield _fetch_file(f"{url.rstrip('/')}/{name}.gz", target / f"{name}.gz", digest)


def _fetch_file(url: str, path: Path, digest: str) -> Path:
    content = _download(url)
    found = hashlib.sha256(_decompressed(content, url)).hexdigest()
    if found != digest:
        raise BenchError(f"{url}: SHA-256 of the content is {found}, not {digest}; nothing was kept")
    durable.replace(path, content)
    return path


def _download(url: str) -> bytes:
    if urllib.parse.urlsplit(url).scheme not in ("https", "file"):
        raise BenchError(f"{url}: only https and file addresses are read")
    try:
        with urllib.request.build_opener().open(url, timeout=60) as answer:
            return _limited(answer.read(LARGEST + 1), url)
    except OSError as error:
        raise BenchError(f"{url}: {error}. Without a network: apt-get install dataset-fashion-mnist") from error


def _decompressed(content: bytes, url: str) -> bytes:
    try:
        with gzip.open(io.BytesIO(content)) as file:
            return _limited(file.read(LARGEST + 1), url)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BenchError(f"{url}: not a gzip file ({error})") from error


def _limited(content: bytes, url: str) -> bytes:
    if len(content) > LARGEST:
        raise BenchError(f"{url}: more than {LARGEST} bytes, so this is not Fashion-MNIST; nothing was kept")
    return content


def _places(data_dir: Path | None) -> list[Path]:
    """Where it is looked for, in this order; a directory of data sets may hold it in `fashion-mnist/`."""
    named = [data_dir, os.environ.get(ENVIRONMENT_VARIABLE)]
    roots = [Path(root) for root in named if root]
    return [*roots, *(root / "fashion-mnist" for root in roots), DEBIAN, CACHE.expanduser()]


def _directory(data_dir: Path | None) -> Path | None:
    complete = (path for path in _places(data_dir) if all(_file(path, name).exists() for name in HASHES))
    return next(complete, None)


def _file(directory: Path, name: str) -> Path:
    packed = directory / f"{name}.gz"
    return packed if packed.exists() else directory / name


def _images(directory: Path, part: str) -> Tensor:
    return read_idx(_file(directory, f"{part}-images-idx3-ubyte"), 3).unsqueeze(1).float()
