"""WMT English–German as the usual distributions of its preprocessed text have it, found where the user put it.

A directory `wmt-ende` with `train.en`, `train.de` and `newstest2014.en`, `newstest2014.de` (or `test.…`): Stanford's copy of
WMT 2014, for example. Its text is tokenised; BLEU then counts its tokens and is not comparable with BLEU on plain text.
"""

from functools import partial
from pathlib import Path

from lngd_bench.errors import BenchError
from lngd_bench.tasks.datasets.parallel_text import ParallelText, is_there, read_directory
from lngd_bench.tasks.datasets.places import listed, place_of, places

NAME = "wmt-ende"
HOW = "put train.en, train.de, newstest2014.en and newstest2014.de there; statmt.org has WMT 2014"


def load_wmt(data_dir: Path | None = None) -> ParallelText:
    """Raises BenchError, which says what to put where, if there is none."""
    found = place(data_dir)
    if found is None:
        raise BenchError(f"WMT English–German is in none of {listed(places(NAME, data_dir))}: {HOW}")
    return read_directory(Path(found))


place = partial(place_of, NAME, is_there)
