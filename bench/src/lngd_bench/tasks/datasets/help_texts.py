"""English–German text made on this machine: from LibreOffice's help, whose pages have the same element ids in both languages.

Two parallel files serve too. A pair is kept when its sides differ, neither has over 60 words, and the longer one has at most
2.5 times the characters of the shorter plus 20. English lines that occur twice are kept once. Whole pages, or every twentieth
line where there are no pages, are held out for the test; a test pair whose English line is in the training part, up to case
and digits, is dropped.
"""

import re
import zlib
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path

from lngd_bench.errors import BenchError
from lngd_bench.tasks.datasets.parallel_text import Pair, ParallelText, longest, read_pair

HELP = Path("/usr/share/libreoffice/help")
INSTALL = "apt-get install libreoffice-help-en-us libreoffice-help-de"
TEXTS = {"p", "h1", "h2", "h3", "h4", "h5", "h6"}
"""Elements whose text is a unit of translation; each has an id such as `par_id3151112`."""
HELD_OUT_EVERY = 20  # pages or lines
LONGEST = 60  # words
RATIO, SLACK = 2.5, 20  # characters

Document = tuple[str, list[Pair]]
"""A name, by which it is held out or not, and its pairs."""


class _Paragraphs(HTMLParser):
    """Text by id, in the order of the page; a paragraph ends where it is closed or the next one begins."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: dict[str, str] = {}
        self.open: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open = dict(attrs).get("id") if tag in TEXTS else self.open

    def handle_endtag(self, tag: str) -> None:
        self.open = None if tag in TEXTS else self.open

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[self.open] = self.texts.get(self.open, "") + data


def paragraphs(page: Path) -> dict[str, str]:
    """The texts of a page by element id, white space collapsed, empty ones left out."""
    parser = _Paragraphs()
    parser.feed(page.read_text(encoding="utf-8"))
    parser.close()
    return {name: " ".join(text.split()) for name, text in parser.texts.items() if text.split()}


def pages(english: Path, german: Path) -> Iterator[Document]:
    """Each page that both languages have, by its path, with the pairs of texts that have the same id."""
    for path in sorted(english.rglob("*.html")):
        name = path.relative_to(english)
        if (german / name).is_file():
            theirs = paragraphs(german / name)
            yield str(name), [(text, theirs[key]) for key, text in paragraphs(path).items() if key in theirs]


def from_help(directory: Path = HELP) -> ParallelText:
    """Raises BenchError where the help of one of the two languages is not installed."""
    english, german = (directory / language / "text" for language in ("en-US", "de"))
    for path in (english, german):
        if not path.is_dir():
            raise BenchError(f"{path} is missing: {INSTALL}, or give --en FILE --de FILE")
    return split(pages(english, german))


def from_files(english: Path, german: Path) -> ParallelText:
    """Two files of any origin; line k of one translates line k of the other."""
    return split((str(line), [pair]) for line, pair in enumerate(read_pair(english, german)))


def split(documents: Iterable[Document]) -> ParallelText:
    """Raises BenchError where nothing is left for one of the two parts."""
    seen: set[str] = set()
    train: list[Pair] = []
    held_out: list[Pair] = []
    for name, pairs in documents:
        part = held_out if zlib.crc32(name.encode()) % HELD_OUT_EVERY == 0 else train
        for pair in pairs:
            if pair[0] not in seen and _usable(*pair):
                seen.add(pair[0])
                part.append(pair)
    known = {_skeleton(english) for english, _ in train}
    test = [pair for pair in held_out if _skeleton(pair[0]) not in known]
    if not train or not test:
        raise BenchError(f"{len(train)} training and {len(test)} test pairs are left after filtering: more text is needed")
    return ParallelText(train, test)


def _usable(english: str, german: str) -> bool:
    short, long = sorted((len(english), len(german)))
    return english != german and longest((english, german)) <= LONGEST and long <= RATIO * short + SLACK


def _skeleton(line: str) -> str:
    return re.sub(r"\d+", "0", line.casefold())
