"""The paper's Figs. 1, 5 and 6 from what `lngd fisher` and `lngd gaussian` have recorded, without training anything again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lngd.bench import gaussian_records
from lngd.bench.errors import BenchError
from lngd.bench.fisher_blocks import FILE, read_blocks
from lngd.cli.fisher import draw_blocks


@dataclass(frozen=True)
class Redrawn:
    """A figure.

    Attributes:
        command: that leaves its record.
        file: the record's name.
        draw: from the directory of the record into another.
    """

    command: str
    file: str
    draw: Callable[[Path, Path], Path]

    @property
    def places(self) -> tuple[Path, ...]:
        """Where a record is looked for, under the working directory."""
        return Path("docs/results", self.command), Path("runs", self.command)


def _blocks(number: str, records: Path, out: Path) -> Path:
    return draw_blocks(number, read_blocks(records), out)


def _gaussian(records: Path, out: Path) -> Path:
    from lngd.diagnostics.gaussian_drawing import draw

    pictures, title = gaussian_records.read(records)
    return draw(pictures, out / "fig6.png", title)


REDRAWN: Mapping[str, Redrawn] = {
    "1": Redrawn("fisher", FILE, partial(_blocks, "1")),
    "5": Redrawn("fisher", FILE, partial(_blocks, "5")),
    "6": Redrawn("gaussian", gaussian_records.FILE, _gaussian),
}
"""By the figure's number."""


def place_of(number: str) -> Path:
    """The first place with a record.

    Raises:
        BenchError: there is none.
    """
    redrawn = REDRAWN[number]
    for place in redrawn.places:
        if (place / redrawn.file).is_file():
            return place
    places = " or ".join(map(str, redrawn.places))
    raise BenchError(f"no {redrawn.file} in {places}: name its directory, or make one with lngd {redrawn.command}")
