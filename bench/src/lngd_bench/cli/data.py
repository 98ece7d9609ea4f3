"""`lngd data`: which data sets this machine has, and getting those that have to be downloaded or prepared."""

from pathlib import Path
from typing import Annotated

import typer

from lngd_bench.cli import options
from lngd_bench.cli.names import lookup
from lngd_bench.cli.running import console
from lngd_bench.errors import BenchError
from lngd_bench.tasks.datasets import DATASETS
from lngd_bench.tasks.datasets.help_texts import HELP, from_files, from_help
from lngd_bench.tasks.datasets.parallel_text import ENDE, ParallelText, write_directory
from lngd_bench.tasks.datasets.places import CACHE, cached, check_data_dir
from lngd_bench.tasks.translation import corpus_bleu
from lngd_bench.tasks.wmt_transformer_big import here

FETCHED = [name for name, data_set in DATASETS.items() if data_set.hashes]
File = Path | None

data = typer.Typer(help="The data sets of the tasks.", no_args_is_help=True)


@data.command("list")
def show(*, data_dir: options.DataDir = None) -> None:
    """Which data sets are here, where, and how to get the others."""
    check_data_dir(data_dir)
    for name, data_set in DATASETS.items():
        state = data_set.where(data_dir) or f"missing; get it with: {data_set.command}"
        console.print(f"{name:<14} {data_set.title}, {data_set.license}\n{'':<14} {state}", markup=False, soft_wrap=True)


@data.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"One of {', '.join(FETCHED)}.")],
    *,
    url: Annotated[str | None, typer.Option(help="Another address for the same files.")] = None,
    data_dir: Annotated[File, typer.Option(metavar="DIR", help=f"Where they go. [{CACHE}/NAME]")] = None,
) -> None:
    """Download a data set, checked against its known hashes."""
    data_set = lookup("data set", name, DATASETS)
    if not data_set.hashes:
        raise BenchError(f"{name} needs no download, or has none: {data_set.command}")
    check_data_dir(data_dir)
    for path in data_set.fetch(url, data_dir):
        console.print(str(path), markup=False, soft_wrap=True)


@data.command()
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
    check_data_dir(data_dir)
    text = from_files(en, de) if en and de else from_help(help_dir)
    for path in write_directory(text, data_dir / ENDE.name if data_dir else cached(ENDE.name)):
        console.print(str(path), markup=False, soft_wrap=True)
    words = sum(len(english.split()) for english, _ in text.train)
    short = here(text)
    lines = (
        f"{len(text.train):,} training pairs with {words:,} English words, {len(text.test):,} test pairs{_copied(text)}.",
        f"Of these, wmt-transformer-big at the scale `here` takes {len(short.train):,} and {len(short.test):,}{_copied(short)}.",
    )
    console.print("\n".join(lines), markup=False, soft_wrap=True)


def _copied(text: ParallelText) -> str:
    """What a translator that does nothing would score."""
    if not text.test:
        return ""
    score, signature = corpus_bleu([english for english, _ in text.test], [german for _, german in text.test])
    return f"; copying the English text of the test scores BLEU {score:.1f} ({signature})"
