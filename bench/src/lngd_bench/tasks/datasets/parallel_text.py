"""Parallel text as people exchange it: a directory with `train.en`, `train.de`, `test.en` and `test.de`, a sentence a line."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lngd_bench import archive
from lngd_bench.errors import BenchError

Pair = tuple[str, str]
LANGUAGES = ("en", "de")
PARTS = ("train", "test")
TEST_NAMES = ("test", "newstest2014")
"""WMT's test set has a name of its own in the usual distributions."""


@dataclass(frozen=True)
class ParallelText:
    """English and German lines that translate each other."""

    train: Sequence[Pair]
    test: Sequence[Pair]

    def no_longer_than(self, words: int) -> "ParallelText":
        """Without the pairs of which one side has more words."""
        return ParallelText(*([pair for pair in part if _words(pair) <= words] for part in (self.train, self.test)))


def is_there(directory: Path) -> bool:
    return all((directory / f"train.{language}").is_file() for language in LANGUAGES)


def read_directory(directory: Path) -> ParallelText:
    """All pairs whose two lines both have text.

    Raises:
        BenchError: a file is missing, is no UTF-8, or its line count differs from its partner's.
    """
    test = next((name for name in TEST_NAMES if (directory / f"{name}.en").is_file()), "test")
    return ParallelText(*(read_pair(*(directory / f"{part}.{language}" for language in LANGUAGES)) for part in ("train", test)))


def read_pair(english: Path, german: Path) -> list[Pair]:
    """Raises BenchError as `read_directory` does."""
    sides = [_lines(path) for path in (english, german)]
    counts = [len(side) for side in sides]
    if counts[0] != counts[1]:
        raise BenchError(
            f"{english} has {counts[0]} lines, {german} {counts[1]}: line k of one must translate line k of the other"
        )
    return [(ours, theirs) for ours, theirs in zip(*sides, strict=True) if ours and theirs]


def write_directory(text: ParallelText, directory: Path) -> list[Path]:
    """Each file takes its name when it is whole; `train.en`, by which a directory is known, comes last."""
    directory.mkdir(parents=True, exist_ok=True)
    return [
        _written(directory / f"{part}.{language}", (pair[side] for pair in getattr(text, part)))
        for part in reversed(PARTS)
        for side, language in reversed(list(enumerate(LANGUAGES)))
    ]


def _written(path: Path, lines: Iterable[str]) -> Path:
    archive.put(path, "".join(f"{line}\n" for line in lines).encode())
    return path


def _lines(path: Path) -> list[str]:
    """Split at line feeds only: other separators of Unicode occur inside sentences."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BenchError(f"{path} is missing: parallel text needs both languages of a training and a test part") from error
    except UnicodeDecodeError as error:
        raise BenchError(f"{path}: byte {error.start} is no UTF-8") from error
    return [" ".join(line.split()) for line in text.removesuffix("\n").split("\n")]


def _words(pair: Pair) -> int:
    return max(len(side.split()) for side in pair)
