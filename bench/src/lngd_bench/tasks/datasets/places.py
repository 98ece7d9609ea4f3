"""Where data sets are looked for, and how those that are downloaded get there.

Looked for: what the user names, what a system package brings, and the cache. Nothing is downloaded unasked.
"""

import gzip
import os
import shutil
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pooch
from rich.progress import wrap_file

from lngd_bench.errors import BenchError

ENVIRONMENT_VARIABLE = "LNGD_DATA"
CACHE = Path("~/.cache/lngd")
TIMEOUT = 60  # seconds without an answer
FAILURES = (OSError, HTTPException, ValueError, EOFError, zlib.error)  # of a download; ValueError: another hash, or no address


def cached(folder: str) -> Path:
    """Where the bench puts a data set itself."""
    return CACHE.expanduser() / folder


def check_data_dir(data_dir: Path | None) -> None:
    """Raises BenchError where the directory that the user named does not exist."""
    if data_dir and not data_dir.is_dir():
        raise BenchError(f"--data-dir {data_dir}: no such directory")


def places(folder: str, data_dir: Path | None, *system: Path) -> list[Path]:
    """In this order; a directory that holds several data sets may hold this one in a folder of its name."""
    roots = [Path(root) for root in (data_dir, os.environ.get(ENVIRONMENT_VARIABLE)) if root]
    return [*roots, *(root / folder for root in roots), *system, cached(folder)]


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One data set.

    Attributes:
        name: what `lngd data` calls it, and its folder among others.
        command: how to get it.
        is_in: whether a directory holds it.
        module: the Python module that brings it; it is then nowhere else.
        system: directories where packages put it.
        hashes: SHA-256 of the files that are downloaded from `url`, by name; of their content with `packed`, since
            distributors compress anew.
    """

    name: str
    title: str
    license: str
    command: str
    is_in: Callable[[Path], bool] = Path.is_dir
    module: str = ""
    system: tuple[Path, ...] = ()
    url: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)
    packed: bool = False

    def where(self, data_dir: Path | None = None) -> str | None:
        """The place it would be read from, in words; None where this machine lacks it."""
        if self.module:
            return f"inside {self.module}" if find_spec(self.module) else None
        return next((str(place) for place in places(self.name, data_dir, *self.system) if self.is_in(place)), None)

    def found(self, data_dir: Path | None = None) -> Path:
        """Its directory; raises BenchError, which says how to get it, where it is nowhere."""
        where = self.where(data_dir)
        if where is None:
            looked = self.module or ", ".join(map(str, places(self.name, data_dir, *self.system)))
            raise BenchError(f"{self.name} is in none of {looked}. Get it with: {self.command}")
        return Path(where)

    def fetch(self, url: str | None = None, into: Path | None = None) -> Iterator[Path]:
        """Downloads each file that is not there yet, by https or from a file:// address; yields it in its place.

        Raises:
            BenchError: an address can't be read, or what it holds has another SHA-256; nothing is kept then.
        """
        pooch.get_logger().setLevel("WARNING")
        source, target = (url or self.url).rstrip("/"), into or cached(self.name)
        for name, digest in self.hashes.items():
            address = source if source.endswith(name) else f"{source}/{name}{'.gz' * self.packed}"
            try:
                yield Path(pooch.retrieve(address, digest, name, target, downloader=partial(_download, packed=self.packed)))
            except FAILURES as error:
                reason = " ".join(str(error).split()).split(". ")[0] or type(error).__name__
                message = f"{address}: {reason}; nothing is kept"
                raise BenchError(f"{message}. Without a network put the file here yourself: {target / name}") from error


def _download(url: str, path: str, _: Any, *, packed: bool) -> None:
    """Shows how far it is on a terminal."""
    with urllib.request.build_opener().open(url, timeout=TIMEOUT) as answer, Path(path).open("wb") as file:
        size = int(answer.headers.get("Content-Length") or 0)
        with wrap_file(answer, size, description=Path(url).name, transient=True, disable=not os.isatty(1)) as received:
            shutil.copyfileobj(gzip.GzipFile(fileobj=received) if packed else received, file)
    Path(path).chmod(0o644)  # a temporary file is private, a data set is not
