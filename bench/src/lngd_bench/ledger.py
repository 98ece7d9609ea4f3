"""The runs of a study: each is known by what was asked for, and what the archive has is not made again."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from filelock import FileLock

from lngd_bench import archive

Line = dict[str, Any]
"""A run as the archive has it: what was asked for, what was found, the date."""


class Ledger:
    """One file of an archive. Several processes may fill it with different runs: one at a time writes, and reads it again before.

    Args:
        path: the archive.
        file: the name of the runs' file in it.
        found: of a line, what was found, beside the date; the rest is what was asked for.
        keeps: whether a run of the archive still counts; one that does not is gone with the next run.
        said: of a new run, a line to print.
    """

    def __init__(
        self,
        path: Path,
        file: str,
        *,
        found: tuple[str, ...],
        keeps: Callable[[Line], bool] = lambda _line: True,
        said: Callable[[Line], str] = json.dumps,
    ) -> None:
        self.path, self.file, self.found, self.keeps, self.said = path, file, {*found, "date"}, keeps, said
        name = sha256(str(path.resolve()).encode()).hexdigest()[:16]
        self._alone = FileLock(Path(gettempdir()) / f"lngd-{name}.lock")
        self._stamp: tuple[int, int] | None = None
        self._files: dict[str, list[Line]] = {}
        self._known: dict[str, Line] = {}

    @property
    def lines(self) -> list[Line]:
        """In the archive's order."""
        self._read()
        return [*self._known.values()]

    def run(self, asked: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> Line:
        """The archive's own, or a new one, which is kept and printed."""
        asked = json.loads(json.dumps(asked, default=repr))
        self._read()
        if (key := self._key(asked)) not in self._known:
            line = {**asked, **make(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
            with self._alone:
                self._read()
                self._known[key] = line
                archive.write(self.path, {**self._files, self.file: [*self._known.values()]})
                self._stamp = self._now()
            print(self.said(line), flush=True)
        return self._known[key]

    def _read(self) -> None:
        if (now := self._now()) != self._stamp:
            self._files = archive.read(self.path) if now else {}
            lines = self._files.get(self.file, [])
            self._known, self._stamp = {self._key(line): line for line in lines if self.keeps(line)}, now

    def _now(self) -> tuple[int, int] | None:
        if not self.path.exists():
            return None
        stat = self.path.stat()
        return stat.st_ino, stat.st_mtime_ns

    def _key(self, line: Mapping[str, Any]) -> str:
        return json.dumps({name: value for name, value in line.items() if name not in self.found}, sort_keys=True)
