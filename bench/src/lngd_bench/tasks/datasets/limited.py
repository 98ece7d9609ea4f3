"""A stream that a reader of untrusted archives can be given: it bounds what the reader takes, and makes sure that it ends.

An archive of one megabyte can unpack to a gigabyte, and a header that announces more bytes than there are makes `tarfile`
read at the end for ever.
"""

import io

from lngd_bench.errors import BenchError

PIECE = 2**20  # bytes
AT_THE_END = 8  # readings there, which a reader may need to notice it; more of them are a loop


class Limited(io.BufferedIOBase):
    """No more than `most` bytes of a stream; `name` is what an error calls it."""

    def __init__(self, stream: io.BufferedIOBase, most: int, name: str) -> None:
        self.stream, self.most, self.name = stream, most, name
        self.left, self.ends = most, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Raises BenchError beyond the limit, and EOFError where the reader goes on behind the end."""
        wanted = self.left + 1 if size is None or size < 0 else min(size, self.left + 1)
        content = self.stream.read(wanted)
        self.left -= len(content)
        self.ends += not content
        if self.left < 0:
            raise BenchError(f"{self.name}: unpacks to more than {self.most} bytes, so this is something else")
        if self.ends > AT_THE_END:
            raise EOFError("it ends before what its headers announce")
        return content

    def drain(self) -> None:
        """To the stream's end, where its checksum stands."""
        while self.read(PIECE):
            pass
