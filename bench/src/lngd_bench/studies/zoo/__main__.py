"""Every model type of a library that a generic rule makes small: trained for four steps, with what has curvature.

    python -m lngd_bench.studies.zoo --out results
    python -m lngd_bench.studies.zoo --every 8 --types mixtral falcon
    python -m lngd_bench.studies.zoo --library timm --out results

Prints each type as it ends and writes zoo.md beside zoo.jsonl.gz (zoo-timm.md of timm); types that the archive has are not tried
again. timm and diffusers come with an environment of their own: they need torchvision.
"""

import argparse
import importlib
import shlex
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lngd_bench import archive
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.errors import BenchError
from lngd_bench.ledger import Ledger, Line
from lngd_bench.studies.results import MISSING, markdown
from lngd_bench.studies.zoo.shrinking import Ways
from lngd_bench.studies.zoo.trial import FINE, METHODS, tried

LIBRARIES = ("transformers", "timm", "diffusers")
OF_SHARE, ENOUGH = "lngd", 0.95
"""The method whose share is told, and what counts as nearly all."""
FOUND = ("outcome", "parameters", "adamw", *METHODS, "version")


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/zoo"), metavar="DIR", help="where the archive is")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th type")
    parser.add_argument("--library", choices=LIBRARIES, default=LIBRARIES[0])
    parser.add_argument("--types", nargs="+", metavar="TYPE", help="only these")
    given = parser.parse_args(words)
    try:
        library = importlib.import_module(f"lngd_bench.studies.zoo.of_{given.library}")
    except ModuleNotFoundError as error:
        raise BenchError(f"{error}: install {given.library} beside lngd-bench") from None
    known: Mapping[str, Ways] = library.types()
    if unknown := set(given.types or ()) - set(known):
        raise BenchError(f"{given.library} {library.VERSION} has no model type {', '.join(sorted(unknown))}")
    name = "zoo" if given.library == LIBRARIES[0] else f"zoo-{given.library}"
    path = given.out / f"{name}{archive.ENDING}"
    ledger = Ledger(path, f"{name}.jsonl", found=FOUND, said=said)
    for kind in given.types or list(known)[:: given.every]:
        ledger.run({"type": kind}, lambda kind=kind: {**tried(known[kind]), "version": library.VERSION})  # type: ignore[misc]
    command = shlex.join(["python", "-m", "lngd_bench.studies.zoo", *words])
    text = f"`{command}`, {max(line['date'][:10] for line in ledger.lines)}.\n\n{page(ledger.lines, given.library)}"
    archive.put(path.with_name(f"{name}.md"), text.encode())
    print(f"\n{text}\nWritten: {path}, {path.with_name(f'{name}.md')}")


def said(line: Line) -> str:
    """A type in a line."""
    each = [f"{name} {line[name].get('share', 0):.0%} {line[name]['outcome']}" for name in METHODS if name in line]
    return f"{line['type']}: {', '.join(each) or line['outcome']}"


def page(lines: Sequence[Line], library: str) -> str:
    """Counts over all types, then the types of which something is left over."""
    built = [line for line in lines if line["outcome"] == "built"]
    rows = [of_method(name, built) for name in METHODS]
    headings = ("", "train", "95 % or more", "share, median", "a step over AdamW's, median", "at most")
    left = [(line["type"], *leftover(line)) for line in built if line[OF_SHARE].get("share", 0) < ENOUGH]
    nearly = sum(ENOUGH <= line[OF_SHARE].get("share", 0) < 1 for line in built)
    stay = [
        (line["type"], OPTIMIZERS[name].title, line[name]["outcome"])
        for line in built
        for name in METHODS
        if line[name]["outcome"] != FINE
    ]
    version = lines[0]["version"]
    return (
        f"Of {len(lines)} model types of {library} {version}, {len(built)} could be made small and trained by AdamW.\n\n"
        "- *train*: types in which every parameter moved within four steps whose gradient is more than rounding,\n"
        "  1e-7 of the largest norm of one.\n"
        f"- *share*: of the entries of matrices that were used, but embeddings', those with curvature by LNGD.\n\n"
        f"{markdown(headings, rows)}\n"
        f"Types with less than {ENOUGH:.0%}, and the reasons; of {nearly} more some entries are left:\n\n"
        f"{markdown(('type', 'share', 'reasons'), left, words=3)}\n"
        f"Types that a method does not train:\n\n"
        f"{markdown(('type', 'method', 'what happened'), stay, words=3)}"
    )


def of_method(name: str, built: Sequence[Line]) -> Sequence[str]:
    """A method's row."""
    own = [line[name] for line in built]
    shares = [each["share"] for each in own if "share" in each]
    ratios = [
        each["seconds"] / max(1e-3, line["adamw"]["seconds"]) for line, each in zip(built, own, strict=True) if "seconds" in each
    ]
    if not shares:
        return (OPTIMIZERS[name].title, *[MISSING] * 5)
    fine = Counter(each["outcome"] for each in own)[FINE]
    high = sum(share >= ENOUGH for share in shares)
    numbers = f"{statistics.median(shares):.0%}", f"{statistics.median(ratios):.1f}", f"{max(ratios):.0f}"
    return OPTIMIZERS[name].title, f"{fine} of {len(own)}", f"{high} of {len(own)}", *numbers


def leftover(line: Line) -> tuple[str, str]:
    """LNGD's share of a type and why it is no larger."""
    own: dict[str, Any] = line[OF_SHARE]
    return f"{own.get('share', 0):.0%}", "; ".join(own.get("lost", ())) or own["outcome"]


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BenchError as error:
        sys.exit(f"lngd: {error}")
