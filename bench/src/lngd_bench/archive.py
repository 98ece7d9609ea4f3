"""How records are kept: a study's JSON lines, of one file or of many, in one `STUDY.jsonl.gz`.

Each line of it is a line of one of the files with that file's name in front. Whoever reads records reads them from a directory,
from a single file and from an archive alike.
"""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lngd_bench.errors import BenchError

ENDING = ".jsonl.gz"
Lines = Sequence[Mapping[str, Any]]


def read(source: Path, *, below: bool = True) -> dict[str, list[dict[str, Any]]]:
    """The lines of every `*.jsonl` of a directory, of one such file, or of an archive, by name and in its order.

    Args:
        source: in an archive the folders of its files go on: `paper.jsonl.gz/cifar10-resnet18`.
        below: the files in folders of a directory count, too.

    Raises:
        BenchError: there is nothing, or a line is no JSON object; the message names the file and the line.
    """
    if source.is_dir():
        paths = sorted(source.rglob("*.jsonl") if below else source.glob("*.jsonl"))
        return {str(path.relative_to(source)): _objects(path, path.read_bytes()) for path in paths}
    if archive := next((path for path in (source, *source.parents) if path.name.endswith(ENDING) and path.is_file()), None):
        folder = "".join(f"{part}/" for part in source.relative_to(archive).parts)
        inside = {name.removeprefix(folder): lines for name, lines in _unpacked(archive).items() if name.startswith(folder)}
        if not inside:
            raise BenchError(f"{source}: {archive.name} has no such folder")
        return {name: lines for name, lines in inside.items() if below or "/" not in name}
    if not source.exists():
        raise BenchError(f"{source}: no such file or directory")
    return {source.name: _objects(source, source.read_bytes())}


def write(target: Path, files: Mapping[str, Lines]) -> None:
    """Packs files; the same lines always make the same bytes. What was there before is replaced at once."""
    lines = (json.dumps({"file": name, **line}, allow_nan=False) for name, content in files.items() for line in content)
    put(target, gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))


def put(target: Path, content: bytes) -> None:
    """A file has its old content or the new one, never a part of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f"{target.name}.new")
    new.write_bytes(content)
    new.replace(target)


def _unpacked(archive: Path) -> dict[str, list[dict[str, Any]]]:
    files: dict[str, list[dict[str, Any]]] = {}
    try:
        content = gzip.decompress(archive.read_bytes())
    except (OSError, EOFError) as error:
        raise BenchError(f"{archive}: not a readable archive ({error})") from error
    for number, line in enumerate(_objects(archive, content), 1):
        name = line.pop("file", None)
        if not isinstance(name, str):
            raise BenchError(f"{archive}, line {number}: it does not say of which file it is")
        files.setdefault(name, []).append(line)
    return files


def _objects(path: Path, content: bytes) -> list[dict[str, Any]]:
    found = []
    for number, text in enumerate(content.splitlines(), 1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BenchError(f"{path}, line {number}: {error}") from error
        if not isinstance(line, dict):
            raise BenchError(f"{path}, line {number}: {type(line).__name__}, not an object")
        found.append(line)
    return found
