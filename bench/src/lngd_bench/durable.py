"""Files that survive a kill or a power loss: a name is on the disk only when its content is."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def replace(path: Path, content: bytes) -> None:
    """Gives `path` a new content: after a kill it holds either the old one or the new one, whole."""
    with new_content(path) as file:
        file.write(content)


@contextmanager
def new_content(path: Path) -> Iterator[BinaryIO]:
    """A file that becomes `path` where the block ends, and vanishes where the block fails.

    The name must not point to what is not yet on the disk, and the new name itself must get there, hence both syncs.
    """
    new = unfinished_name(path)
    try:
        with new.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        rename(new, path)
    finally:
        new.unlink(missing_ok=True)


def unfinished_name(path: Path) -> Path:
    """Where the new content is written first; a kill may leave it there."""
    return path.with_name(f"{path.name}.new")


def rename(path: Path, target: Path) -> None:
    """`path` must be on the disk already."""
    path.replace(target)
    sync_names(target.parent)


def remove(path: Path) -> None:
    """Takes away the file if it is there, and what a kill has left of its next content."""
    for name in (path, unfinished_name(path)):
        name.unlink(missing_ok=True)
    sync_names(path.parent)


def make_directory(path: Path) -> None:
    """With its parents; each new name is on the disk afterwards."""
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for directory in missing:
        sync_names(directory.parent)


def sync_names(directory: Path) -> None:
    """Waits until the directory's entries are on the disk. Windows opens no directories and needs no such call."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
