"""Aligned English and German sentences from LibreOffice's help: a page has the same element ids in both languages."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

HELP = Path("/usr/share/libreoffice/help")
LANGUAGES = ("en-US", "de")
TEXTS = {"p", "h1", "h2", "h3", "h4", "h5", "h6"}
"""Elements whose text is a unit of translation; each has an id such as `par_id3151112`."""
INSTALL = "apt-get install libreoffice-help-en-us libreoffice-help-de"


class _Paragraphs(HTMLParser):
    """Text by id, in the order of the page; a paragraph ends where it is closed or the next one begins."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: dict[str, str] = {}
        self.open: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in TEXTS:
            self.open = dict(attrs).get("id")

    def handle_endtag(self, tag: str) -> None:
        if tag in TEXTS:
            self.open = None

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[self.open] = self.texts.get(self.open, "") + data


def paragraphs(html: str) -> dict[str, str]:
    """The texts of a page by element id, white space collapsed, empty ones left out."""
    parser = _Paragraphs()
    parser.feed(html)
    parser.close()
    return {name: text for name, raw in parser.texts.items() if (text := " ".join(raw.split()))}


def pages(help_directory: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Each page that both languages have, by its path, with the pairs of texts that have the same id."""
    english, german = (help_directory / language / "text" for language in LANGUAGES)
    for path in sorted(english.rglob("*.html")):
        name = path.relative_to(english)
        if (german / name).is_file():
            ours, theirs = (paragraphs(page.read_text(encoding="utf-8")) for page in (path, german / name))
            yield str(name), [(text, theirs[key]) for key, text in ours.items() if key in theirs]
