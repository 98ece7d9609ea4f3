"""`lngd data ende`: the English–German text of the translation task."""

from pathlib import Path
from typing import Annotated

import typer

from lngd_bench.cli.running import console
from lngd_bench.errors import BenchError
from lngd_bench.tasks.bleu import corpus_bleu
from lngd_bench.tasks.datasets.ende import NAME, from_files, from_help
from lngd_bench.tasks.datasets.help_texts import HELP
from lngd_bench.tasks.datasets.parallel_text import ParallelText, write_directory
from lngd_bench.tasks.datasets.places import CACHE, cached
from lngd_bench.tasks.wmt_transformer_big import here

File = Path | None


def ende(
    *,
    en: Annotated[File, typer.Option("--en", metavar="FILE", help="English lines; with --de, instead of the help texts.")] = None,
    de: Annotated[File, typer.Option("--de", metavar="FILE", help="German lines, line by line their translation.")] = None,
    help_dir: Annotated[Path, typer.Option(metavar="DIR", help="Where LibreOffice's help in both languages lies.")] = HELP,
    data_dir: Annotated[File, typer.Option(metavar="DIR", help=f"The text goes into its ende/. [{CACHE}]")] = None,
) -> None:
    """Prepare aligned English–German text from LibreOffice's help pages, or from two parallel files."""
    if (en is None) != (de is None):
        raise BenchError("--en and --de go together: one file for each language")
    text = from_files(en, de) if en and de else from_help(help_dir)
    for path in write_directory(text, data_dir / NAME if data_dir else cached(NAME)):
        console.print(str(path), markup=False, soft_wrap=True)
    console.print(_summary(text), markup=False, soft_wrap=True)


def _summary(text: ParallelText) -> str:
    words = sum(len(english.split()) for english, _ in text.train)
    short = here(text)
    lines = [
        f"{len(text.train):,} training pairs with {words:,} English words, {len(text.test):,} test pairs; {_copied(text)}.",
        f"Of these, wmt-transformer-big at the scale `here` takes {len(short.train):,} and {len(short.test):,}",
    ]
    return "\n".join([lines[0], lines[1] + (f"; {_copied(short)}." if short.test else ".")])


def _copied(text: ParallelText) -> str:
    """What a translator that does nothing would score."""
    bleu = corpus_bleu([english for english, _ in text.test], [german for _, german in text.test])
    return f"copying the English text of the test scores BLEU {bleu.score:.1f} ({bleu.signature})"
