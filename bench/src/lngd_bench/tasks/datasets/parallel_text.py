"""English–German text as people exchange it: a directory with `train.en`, `train.de`, `test.en` and `test.de`, a sentence a line.

WMT's is found where the user put it. The machine's own, `ende`, is prepared once by `lngd data ende`: see `help_texts`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lngd_bench import archive
from lngd_bench.errors import BenchError
from lngd_bench.tasks.datasets.places import DataSet

Pair = tuple[str, str]
LANGUAGES = ("en", "de")
TEST_NAMES = ("test", "newstest2014")
"""WMT's test set has a name of its own in the usual distributions."""


def _is_in(directory: Path) -> bool:
    return all((directory / f"train.{language}").is_file() for language in LANGUAGES)


ENDE = DataSet(
    name="ende",
    title="34,702 pairs of LibreOffice's help texts",
    license="MPL-2.0",
    command="lngd data ende",
    is_in=_is_in,
)
WMT = DataSet(  # Stanford's copy of WMT 2014 is tokenised: BLEU then counts its tokens, and is not comparable with plain text's
    name="wmt-ende",
    title="WMT English–German",
    license="see statmt.org",
    command="put train.en, train.de, newstest2014.en and newstest2014.de there; statmt.org has WMT 2014",
    is_in=_is_in,
)


@dataclass(frozen=True)
class ParallelText:
    """English and German lines that translate each other."""

    train: Sequence[Pair]
    test: Sequence[Pair]

    def no_longer_than(self, words: int) -> "ParallelText":
        """Without the pairs of which one side has more words."""
        parts = ([pair for pair in part if longest(pair) <= words] for part in (self.train, self.test))
        return ParallelText(*parts)


def longest(pair: Pair) -> int:
    """Words of the longer side."""
    return max(len(side.split()) for side in pair)


def read_directory(directory: Path) -> ParallelText:
    """All pairs whose two lines both have text.

    Raises:
        BenchError: a file is missing, is no UTF-8, or its line count differs from its partner's.
    """
    test = next((name for name in TEST_NAMES if (directory / f"{name}.en").is_file()), "test")
    return ParallelText(*(read_pair(directory / f"{part}.en", directory / f"{part}.de") for part in ("train", test)))


def read_pair(english: Path, german: Path) -> list[Pair]:
    """Raises BenchError as `read_directory` does."""
    ours, theirs = _lines(english), _lines(german)
    if len(ours) != len(theirs):
        counts = f"{english} has {len(ours)} lines, {german} {len(theirs)}"
        raise BenchError(f"{counts}: line k of one must translate line k of the other")
    return [pair for pair in zip(ours, theirs, strict=True) if all(pair)]


def write_directory(text: ParallelText, directory: Path) -> list[Path]:
    """`train.en` and `train.de`, by which a directory is known, come last."""
    written = []
    for part, pairs in (("test", text.test), ("train", text.train)):
        for side, language in reversed(list(enumerate(LANGUAGES))):
            written.append(directory / f"{part}.{language}")
            archive.put(written[-1], "".join(f"{pair[side]}\n" for pair in pairs).encode())
    return written


def _lines(path: Path) -> list[str]:
    """Split at line feeds only: other separators of Unicode occur inside sentences."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path}: {error}; parallel text has both languages of both parts, in UTF-8") from error
    return [" ".join(line.split()) for line in text.removesuffix("\n").split("\n")]
