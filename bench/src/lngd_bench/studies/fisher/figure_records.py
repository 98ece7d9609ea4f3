"""What a command has left for its figure to be drawn again: JSON lines of any origin; errors name the command."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lngd_bench.errors import BenchError

Content = TypeVar("Content")
DAMAGED = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""What parsing raises over lines that no command writes."""


@dataclass(frozen=True)
class FigureRecord:
    """The record of a figure.

    Attributes:
        command: that writes it, after `lngd`.
        largest: bytes that it can have.
        shown: what the figure shows, which records did not always keep.
    """

    command: str
    file: str
    largest: int
    shown: str

    def read(self, directory: Path, parse: Callable[[Sequence[dict[str, Any]]], Content | None]) -> Content:
        """What `parse` makes of the lines; it gives None for a record from before it kept what the figure shows.

        Raises:
            BenchError: there is no record, or an old or damaged one.
        """
        path, command = directory / self.file, f"lngd {self.command} --out {directory} makes"
        again = f"{command} a new one"
        if not path.is_file():
            raise BenchError(f"{directory} has no {self.file}; {command} one")
        if path.stat().st_size > self.largest:
            raise BenchError(f"{path}: {path.stat().st_size} bytes are too many for a record; {again}")
        try:
            content = parse([json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()])
        except DAMAGED as error:
            raise BenchError(f"{path}: not a readable record ({error}); {again}") from error
        if content is None:
            raise BenchError(f"{path} is from before records kept the {self.shown} that the figure shows; {again}")
        return content
