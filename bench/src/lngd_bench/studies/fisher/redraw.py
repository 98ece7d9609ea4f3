"""The paper's Figs. 1, 5 and 6 from what `lngd fisher` and `lngd gaussian` have recorded, without training anything again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lngd_bench.errors import BenchError
from lngd_bench.studies.fisher import blocks as fisher_blocks
from lngd_bench.studies.fisher.command import draw_blocks
from lngd_bench.studies.fisher.figure_records import FigureRecord
from lngd_bench.studies.gaussian import records as gaussian_records


@dataclass(frozen=True)
class Redrawn:
    """A figure.

    Attributes:
        draw: from the directory of the record into another.
    """

    record: FigureRecord
    draw: Callable[[Path, Path], Path]

    @property
    def places(self) -> tuple[Path, ...]:
        """Where a record is looked for, under the working directory."""
        return Path("docs/results", self.record.command), Path("runs", self.record.command)


def _blocks(number: str, records: Path, out: Path) -> Path:
    return draw_blocks(number, fisher_blocks.read_blocks(records), out)


def _gaussian(records: Path, out: Path) -> Path:
    from lngd_bench.studies.gaussian.drawing import draw

    pictures, title = gaussian_records.read(records)
    return draw(pictures, out / gaussian_records.PICTURE, title)


REDRAWN: Mapping[str, Redrawn] = {
    "1": Redrawn(fisher_blocks.RECORD, partial(_blocks, "1")),
    "5": Redrawn(fisher_blocks.RECORD, partial(_blocks, "5")),
    "6": Redrawn(gaussian_records.RECORD, _gaussian),
}
"""By the figure's number."""


def place_of(number: str) -> Path:
    """The first place with a record.

    Raises:
        BenchError: there is none.
    """
    redrawn, record = REDRAWN[number], REDRAWN[number].record
    for place in redrawn.places:
        if (place / record.file).is_file():
            return place
    places = " or ".join(map(str, redrawn.places))
    raise BenchError(f"no {record.file} in {places}: name its directory, or make one with lngd {record.command}")
