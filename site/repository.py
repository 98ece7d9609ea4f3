"""The site shows the repository: what pages link to outside docs/ becomes part of it, and findings/ becomes a page.

mkdocs calls the functions on_… by their names.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[1]
SHOWN = ("results/*.md", "results/*.png", "results/*.gz", "examples/*.py", "findings/*.sh", "CONTRIBUTING.md", "CHANGELOG.md")
HOME = {"README.md": "docs/index.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
HEADING = re.compile(r"^# ", re.MULTILINE)
WIDE = """.md-grid { max-width: 84rem; }
.md-typeset table:not([class]) { font-size: .62rem; }
.md-typeset table:not([class]) :is(th, td) { min-width: 0; padding: .5em .6em; }
.md-typeset td code { word-break: normal; }
"""
"""Tables of nine optimizers fit beside the menu."""
COMMENT = re.compile(r"^#(?!!) ?(.*)\n", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Adds what lies beside docs/."""
    for path in (path for pattern in SHOWN for path in sorted(ROOT.glob(pattern))):
        place = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, place, abs_src_path=str(path), inclusion=InclusionLevel.NOT_IN_NAV))
    files.append(File.generated(config, "findings.md", content=findings()))
    files.append(File.generated(config, "wide.css", content=WIDE))
    return files


def on_page_markdown(markdown: str, *, page: Any, files: Files, **_: Any) -> str:
    """Links, written for the repository, are made to lead to the same thing in the site; where it has none, the words stay."""
    place = page.file.src_uri
    own = f"docs/{place}" if (ROOT / "docs" / place).exists() else place

    def led(match: re.Match) -> str:
        image, words, target, anchor = match[1], match[2], match[3], match[4] or ""
        if "://" in target:
            return match[0]
        found = posixpath.normpath(posixpath.join(posixpath.dirname(own), target))
        found = HOME.get(found, found).removeprefix("docs/")
        if files.get_file_from_path(found) is None and (ROOT / posixpath.dirname(own) / target).exists():
            return words
        return f"{image}[{words}]({posixpath.relpath(found, posixpath.dirname(place) or '.')}{anchor})"

    if place.startswith("results/"):
        page.meta["hide"] = ["toc"]  # the tables are wide
    title = "" if HEADING.search(markdown) else f"# {posixpath.basename(place).removesuffix('.md').capitalize()}\n\n"
    return title + LINK.sub(led, markdown)


def findings() -> str:
    """What the head of each script says, one below the other."""
    parts = [
        "# Findings\n\nWhat surprised us about other people's software and is no fault of ours. Each is a script that installs "
        "the version it names, runs it without `lngd`, and fails if the behaviour has changed: `make findings` runs them all.\n"
    ]
    for path in sorted((ROOT / "findings").glob("*.sh")):
        title = path.stem.replace("-", " ")
        head = path.read_text().partition("set -euo pipefail")[0]
        parts.append(f"## {title[0].upper()}{title[1:]}\n\n[{path.name}](findings/{path.name})\n")
        parts += map(paragraph, "\n".join(COMMENT.findall(head)).replace("\nWhat ", "\n\nWhat ").strip().split("\n\n"))
    return "\n".join(parts)


def paragraph(words: str) -> str:
    """As Markdown; what is indented was printed by the script."""
    if "\n  " not in words:
        return f"{words}\n"
    first, _, printed = words.partition("\n")
    return f"{first}\n\n```text\n{printed}\n```\n"
