"""English–German text as people exchange it: a directory with `train.en`, `train.de`, `test.en` and `test.de`, a sentence a line.

WMT's is found where the user put it. The machine's own, `ende`, is prepared once by `lngd data ende`: see `help_texts`.
Numbers in words need no data: they are for tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

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
    name="ende", title="34,702 pairs of LibreOffice's help texts", license="MPL-2.0", command="lngd data ende", is_in=_is_in
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
    """All pairs whose lines both have text; raises BenchError where a file is missing, no UTF-8, or longer than its partner."""
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
    """Split at line feeds only: carriage returns and other separators of Unicode occur inside sentences."""
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path}: {error}; parallel text has both languages of both parts, in UTF-8") from error
    return [" ".join(line.split()) for line in text.removesuffix("\n").split("\n")]


_ENGLISH = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"""
_GERMAN = """null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn
achtzehn neunzehn zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig"""
ENGLISH, GERMAN = _ENGLISH.split(), _GERMAN.split()
INSIDE = ["", "ein", *GERMAN[2:10]]  # of a German word, where `eins` loses its s
for ten in range(20, 100, 10):  # the lists become those of all numbers below a hundred
    ENGLISH[ten + 1 : ten + 1] = [f"{ENGLISH[ten]}-{ENGLISH[one]}" for one in range(1, 10)]
    GERMAN[ten + 1 : ten + 1] = [f"{INSIDE[one]}und{GERMAN[ten]}" for one in range(1, 10)]


def english(number: int) -> str:
    """Of 0 to 999: `two hundred and forty-one`."""
    hundreds, rest = divmod(number, 100)
    words = [f"{ENGLISH[hundreds]} hundred"] * (hundreds > 0) + [ENGLISH[rest]] * (rest > 0 or not hundreds)
    return " and ".join(words)


def german(number: int) -> str:
    """Of 0 to 999: `zweihunderteinundvierzig`."""
    hundreds, rest = divmod(number, 100)
    return f"{INSIDE[hundreds]}hundert{GERMAN[rest] if rest else ''}" if hundreds else GERMAN[rest]


def load_number_words(train: int = 800) -> ParallelText:
    """All numbers below 1,000 in a fixed random order, split."""
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0)).tolist()
    pairs = [(english(number), german(number)) for number in order]
    return ParallelText(pairs[:train], pairs[train:])
