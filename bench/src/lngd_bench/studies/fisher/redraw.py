"""The paper's Figs. 1, 5 and 6 from what `lngd fisher` and `lngd gaussian` have recorded, without training anything again."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from lngd_bench import archive
from lngd_bench.errors import BenchError
from lngd_bench.studies.fisher import drawing as fisher
from lngd_bench.studies.gaussian import drawing as gaussian

DOTS_PER_INCH = 110


@dataclass(frozen=True)
class Redrawn:
    """A figure.

    Attributes:
        study: the command that records it, after `lngd`.
        figure: from a directory or an archive.
    """

    number: str
    study: str
    figure: Callable[[Path], Figure]

    def draw(self, records: Path, out: Path) -> Path:
        """`out` is a PNG's name, or a directory or a file beside which it goes as figure-N.png."""
        beside = out if out.is_dir() else out.parent
        path = out if out.suffix == ".png" else beside / f"figure-{self.number}.png"
        picture = io.BytesIO()
        self.figure(records).savefig(picture, format="png", dpi=DOTS_PER_INCH, facecolor="white")
        archive.put(path, picture.getvalue())
        return path


REDRAWN: Mapping[str, Redrawn] = {
    one.number: one
    for one in (
        Redrawn("1", fisher.STUDY, lambda records: fisher.figure_1(fisher.read_blocks(records))),
        Redrawn("5", fisher.STUDY, lambda records: fisher.figure_5(fisher.read_blocks(records))),
        Redrawn("6", gaussian.STUDY, lambda records: gaussian.draw(gaussian.read(records))),
    )
}
"""By the figure's number."""


def place_of(number: str) -> Path:
    """The first archive with its record, under the working directory.

    Raises:
        BenchError: there is none.
    """
    study = REDRAWN[number].study
    places = [Path(place, f"{study}{archive.ENDING}") for place in ("results", f"runs/{study}")]
    for place in places:
        if place.is_file():
            return place
    raise BenchError(f"no {' or '.join(map(str, places))}: name the records, or make some with lngd {study}")
