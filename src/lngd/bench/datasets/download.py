"""Downloads that are checked before they take their name: a size that is known to be enough, and a known SHA-256.

A file comes from elsewhere and may be anything. It is read, hashed and written piece by piece, so no server can fill the memory.
"""

import hashlib
import os
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lngd.bench import durable
from lngd.bench.errors import BenchError

PIECE = 2**20  # bytes
GZIP = 31  # zlib's word for a gzip header and the largest window
TIMEOUT = 60  # seconds without an answer

Progress = Callable[[int], None]
"""Told how many bytes more there are."""


def silent(_: int) -> None:
    """No progress shown."""


@dataclass(frozen=True)
class Download:
    """One file.

    Attributes:
        digest: SHA-256 of the content; of what a gzip file holds with `packed`, since distributors compress anew.
        largest: bytes that the file, and what it holds, can have at most.
        hint: how else to get it.
    """

    url: str
    digest: str
    largest: int
    packed: bool = False
    hint: str = ""

    def into(self, path: Path, progress: Progress = silent) -> Path:
        """Raises BenchError where the address can't be read or holds something else; nothing is kept then."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = durable.unfinished_name(path)
        try:
            with unfinished.open("wb") as file:
                self._copy(file, progress)
                file.flush()
                os.fsync(file.fileno())
            durable.rename(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        return path

    def _copy(self, file: BinaryIO, progress: Progress) -> None:
        check = _Check(self)
        try:
            with self._opened() as answer:
                while piece := answer.read(PIECE):
                    check.take(piece)
                    file.write(piece)
                    progress(len(piece))
        except OSError as error:
            raise BenchError(f"{self.url}: {error}.{f' Without a network: {self.hint}' * bool(self.hint)}") from error
        check.end()

    def _opened(self) -> BinaryIO:
        if urllib.parse.urlsplit(self.url).scheme not in ("https", "file"):
            raise BenchError(f"{self.url}: only https and file addresses are read")
        answer: BinaryIO = urllib.request.build_opener().open(self.url, timeout=TIMEOUT)
        return answer


class _Check:
    """Hashes what comes, unpacked where it is packed, and stops where it is too much."""

    def __init__(self, download: Download) -> None:
        self.download, self.hash = download, hashlib.sha256()
        self.unpacker = zlib.decompressobj(GZIP) if download.packed else None
        self.taken = self.held = 0

    def take(self, piece: bytes) -> None:
        self.taken = self._limited(self.taken + len(piece))
        for content in self._contents(piece):
            self.held = self._limited(self.held + len(content))
            self.hash.update(content)

    def end(self) -> None:
        if self.unpacker and not self.unpacker.eof:
            raise self._refusal("not a gzip file (it ends early)")
        if self.hash.hexdigest() != self.download.digest:
            raise self._refusal(f"SHA-256 of the content is {self.hash.hexdigest()}, not {self.download.digest}")

    def _contents(self, piece: bytes) -> list[bytes]:
        """At most a piece at a time: a few bytes can unpack to a thousand times as many."""
        if not self.unpacker:
            return [piece]
        contents = []
        try:
            while piece and not self.unpacker.eof:
                contents.append(self.unpacker.decompress(piece, PIECE))
                piece = self.unpacker.unconsumed_tail
                self._limited(self.held + sum(map(len, contents)))
        except zlib.error as error:
            raise self._refusal(f"not a gzip file ({error})") from error
        return contents

    def _limited(self, size: int) -> int:
        if size > self.download.largest:
            raise self._refusal(f"more than {self.download.largest} bytes, so this is something else")
        return size

    def _refusal(self, reason: str) -> BenchError:
        return BenchError(f"{self.download.url}: {reason}; nothing was kept")
