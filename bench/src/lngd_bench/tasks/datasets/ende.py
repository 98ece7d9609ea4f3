"""English–German text of this machine: prepared once, by `lngd data ende`, from LibreOffice's help or from two parallel files.

A pair is kept when its sides differ, neither has over 60 words, and the longer one has at most 2.5 times the characters of the
shorter plus 20. English lines that occur twice are kept once. Whole pages, or every twentieth line where there are no pages,
are held out for the test; a test pair whose English line is in the training part, up to case and digits, is dropped.
"""

import re
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from lngd_bench.errors import BenchError
from lngd_bench.tasks.datasets import help_texts
from lngd_bench.tasks.datasets.parallel_text import Pair, ParallelText, is_there, read_directory, read_pair
from lngd_bench.tasks.datasets.places import listed, place_of, places

NAME = "ende"
HELD_OUT_EVERY = 20  # pages or lines
LONGEST = 60  # words
RATIO, SLACK = 2.5, 20  # characters
COMMAND = "lngd data ende"

Document = tuple[str, list[Pair]]


def load_ende(data_dir: Path | None = None) -> ParallelText:
    """Raises BenchError where it has not been prepared."""
    found = place(data_dir)
    if found is None:
        raise BenchError(f"English–German text is in none of {listed(places(NAME, data_dir))}. Prepare it with: {COMMAND}")
    return read_directory(Path(found))


place = partial(place_of, NAME, is_there)


def from_help(directory: Path = help_texts.HELP) -> ParallelText:
    """Raises BenchError where the help of one of the two languages is not installed."""
    for language in help_texts.LANGUAGES:
        if not (directory / language / "text").is_dir():
            raise BenchError(f"{directory / language} is missing: {help_texts.INSTALL}, or give --en FILE --de FILE")
    return split(help_texts.pages(directory))


def from_files(english: Path, german: Path) -> ParallelText:
    """Two files of any origin; line k of one translates line k of the other."""
    pairs = read_pair(english, german)
    return split((str(line), [pair]) for line, pair in enumerate(pairs))


def split(documents: Iterable[Document]) -> ParallelText:
    """Raises BenchError where nothing is left for one of the two parts."""
    seen: set[str] = set()
    train: list[Pair] = []
    held_out: list[Pair] = []
    for name, pairs in documents:
        part = held_out if zlib.crc32(name.encode()) % HELD_OUT_EVERY == 0 else train
        part.extend(_new(pairs, seen))
    known = {_skeleton(english) for english, _ in train}
    test = [pair for pair in held_out if _skeleton(pair[0]) not in known]
    if not train or not test:
        raise BenchError(f"{len(train)} training and {len(test)} test pairs are left after filtering: more text is needed")
    return ParallelText(train, test)


def _new(pairs: Iterable[Pair], seen: set[str]) -> Iterator[Pair]:
    for english, german in pairs:
        if english not in seen and _usable(english, german):
            seen.add(english)
            yield english, german


def _usable(english: str, german: str) -> bool:
    lengths = sorted((len(english), len(german)))
    words = max(len(side.split()) for side in (english, german))
    return english != german and words <= LONGEST and lengths[1] <= RATIO * lengths[0] + SLACK


def _skeleton(line: str) -> str:
    return re.sub(r"\d+", "0", line.casefold())
