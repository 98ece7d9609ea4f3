"""Downloads that are checked before they take their name: a size that is known to be enough, and a known SHA-256.

A file comes from elsewhere and may be anything. It is read, hashed and written piece by piece, so no server can fill the memory.
"""

import hashlib
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError

from lngd_bench import archive
from lngd_bench.errors import BenchError

PIECE = 2**20  # bytes
GZIP = 31  # zlib's word for a gzip header and the largest window
TIMEOUT = 60  # seconds without an answer

Progress = Callable[[int, int | None], None]
"""Told how many bytes more of a file there are, and how many it has in all where the server says so."""


def silent(_: int, __: int | None) -> None:
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
        """Where the file is there already, it is checked and not downloaded again.

        Raises:
            BenchError: the address can't be read or holds something else, or the file can't be written; nothing is kept then.
        """
        try:
            if not self._is_there(path):
                self._download(path, progress)
        except OSError as error:
            raise BenchError(f"{path}: {error.strerror or error}; choose another directory with --data-dir") from error
        return path

    def _is_there(self, path: Path) -> bool:
        if not path.is_file():
            return False
        try:
            with path.open("rb") as file:
                return all(self._checked(_pieces(file)))
        except BenchError:  # it is something else, and will be replaced
            return False

    def _download(self, path: Path, progress: Progress) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        archive.put(path, b"".join(self._checked(self._received(progress))))

    def _received(self, progress: Progress) -> Iterator[bytes]:
        """What the server sends; a generator, so that what fails in its user is not taken for the server's fault."""
        try:
            with self._opened() as answer:
                length = answer.headers.get("Content-Length")
                total = int(length) if length else None
                for piece in _pieces(answer):
                    progress(len(piece), total)
                    yield piece
        except (OSError, HTTPException, ValueError) as error:  # ValueError: an address or a length that is none
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BenchError(f"{self.url}: {reason}.{f' Without a network: {self.hint}' * bool(self.hint)}") from error

    def _opened(self) -> Any:
        if urllib.parse.urlsplit(self.url).scheme not in ("https", "file"):
            raise BenchError(f"{self.url}: only https and file addresses are read")
        return opened(urllib.request.build_opener(), self.url)

    def _checked(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The same pieces; raises BenchError where they become too many, and at the end where they are something else."""
        check = _Check(self)
        for piece in pieces:
            check.take(piece)
            yield piece
        check.end()


def opened(opener: urllib.request.OpenerDirector, url: str) -> Any:
    """The server's answer; that of a refusal, which the error holds, is closed."""
    try:
        return opener.open(url, timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        raise


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: file.read(PIECE), b"")


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
            found = f"SHA-256 of the content is {self.hash.hexdigest()}, not {self.download.digest}"
            raise self._refusal(f"{found} ({self.taken} bytes came)")

    def _contents(self, piece: bytes) -> Iterator[bytes]:
        """At most a piece at a time: a few bytes can unpack to a thousand times as many. A gzip file may have several parts."""
        if not self.unpacker:
            yield piece
            return
        while piece:
            if self.unpacker.eof:
                self.unpacker = zlib.decompressobj(GZIP)
            try:
                content = self.unpacker.decompress(piece, PIECE)
            except zlib.error as error:
                raise self._refusal(f"not a gzip file ({error})") from error
            piece = self.unpacker.unconsumed_tail or self.unpacker.unused_data
            yield content

    def _limited(self, size: int) -> int:
        if size > self.download.largest:
            raise self._refusal(f"more than {self.download.largest} bytes, so this is something else")
        return size

    def _refusal(self, reason: str) -> BenchError:
        return BenchError(f"{self.download.url}: {reason}; nothing was kept")
