"""Where data sets are looked for: what the user names, what a system package brings, and the cache."""

import os
from collections.abc import Callable
from pathlib import Path

ENVIRONMENT_VARIABLE = "LNGD_DATA"
CACHE = Path("~/.cache/lngd")


def cached(folder: str) -> Path:
    """Where this library puts a data set itself."""
    return CACHE.expanduser() / folder


def places(folder: str, data_dir: Path | None, *system: Path) -> list[Path]:
    """In this order; a directory that holds several data sets may hold this one in a folder of its name."""
    named = [data_dir, os.environ.get(ENVIRONMENT_VARIABLE)]
    roots = [Path(root) for root in named if root]
    return [*roots, *(root / folder for root in roots), *system, cached(folder)]


def first_that(is_there: Callable[[Path], bool], candidates: list[Path]) -> Path | None:
    return next((path for path in candidates if is_there(path)), None)


def place_of(folder: str, is_there: Callable[[Path], bool], data_dir: Path | None) -> str | None:
    """The directory that a data set without a package would be read from."""
    found = first_that(is_there, places(folder, data_dir))
    return str(found) if found else None


def listed(candidates: list[Path]) -> str:
    return ", ".join(map(str, candidates))
