"""The paper's Figs. 1, 5 and 6 from what `lngd fisher` and `lngd gaussian` have recorded, without training anything again."""

from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from lngd_bench import archive
from lngd_bench.errors import BenchError
from lngd_bench.report.style import png
from lngd_bench.studies.fisher import drawing as fisher
from lngd_bench.studies.gaussian import drawing as gaussian
from lngd_bench.studies.results import records_at

REDRAWN: Mapping[str, tuple[str, Callable[[archive.Lines], Figure]]] = {
    "1": ("fisher", fisher.figure_1),
    "5": ("fisher", fisher.figure_5),
    "6": ("gaussian", gaussian.draw),
}
"""By the figure's number: the study that records it, after `lngd`, and the figure of its lines."""


def redraw(number: str, source: Path | None, out: Path | None = None) -> Path:
    """A PNG from a directory or an archive, else from the first archive under the working directory.

    `out` is its name; without one it goes beside the records as figure-N.png.

    Raises:
        BenchError: there are no records, or they lack what the figure shows.
    """
    study, draw = REDRAWN[number]
    places = [Path(place, f"{study}{archive.ENDING}") for place in ("results", f"runs/{study}")]
    place = source or next((place for place in places if place.is_file()), None)
    if place is None:
        raise BenchError(f"no {' or '.join(map(str, places))}: name the records, or make some with lngd {study}")
    lines = archive.read(records_at(place, study)).get(f"{study}.jsonl")
    if not lines:
        raise BenchError(f"{place} has no {study}.jsonl; lngd {study} makes one")
    try:
        picture = png(draw(lines))
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise BenchError(f"{place} lacks what the figure shows ({error}); lngd {study} makes a new one") from error
    path = out or (place if place.is_dir() else place.parent) / f"figure-{number}.png"
    archive.put(path, picture)
    return path
