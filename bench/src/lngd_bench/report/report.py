"""What records leave to read: `table.md`, a PNG a task and `report.html`, or a study's page, picture and archive."""

from collections.abc import Sequence
from pathlib import Path

from lngd_bench import archive
from lngd_bench.errors import BenchError
from lngd_bench.report.comparison import compare
from lngd_bench.report.summary import Target, TaskSummary
from lngd_bench.report.tables import commands, markdown
from lngd_bench.training.records import read_below

MARK = "<!-- lngd report writes what follows -->"


def load_summaries(sources: Sequence[Path], target: Target = "auto", *, below: bool = True) -> list[TaskSummary]:
    """The tables of the finished runs of directories and archives.

    Args:
        sources: directories, archives or folders of archives.
        below: runs in folders of them count even where a source has runs of its own.

    Raises:
        BenchError: there are none.
    """
    found = list(read_below(sources))
    if not below:
        found = [run for run in found if run[0].parent in {source.resolve() for source in sources}] or found
    if not found:
        raise BenchError(f"no finished run in {', '.join(map(str, sources))}; lngd race TASK --out DIR makes some")
    return compare(found, target)


def place_beside(source: Path) -> Path:
    """Where what is made of records goes: into their directory, or for an archive into one in `runs` with its name."""
    if source.is_dir():
        return source
    parts = [part.removesuffix(archive.ENDING) for part in source.parts]
    inside = next(at for at, part in enumerate(source.parts) if part.endswith(archive.ENDING))
    place = Path("runs", *parts[inside:])
    place.mkdir(parents=True, exist_ok=True)
    return place


def write_tables(summaries: Sequence[TaskSummary], directory: Path) -> Path:
    path = directory / "table.md"
    archive.put(path, "\n".join(map(markdown, summaries)).encode())
    return path


def write_figures(summaries: Sequence[TaskSummary], directory: Path) -> list[Path]:
    """One a task, of all its tables. Matplotlib is imported here: it takes a second that tables need not wait for."""
    from lngd_bench.report.plots import draw

    tasks = dict.fromkeys(summary.task for summary in summaries)
    return [draw([table for table in summaries if table.task == task], directory / f"{task}.png") for task in tasks]


def write_page(summaries: Sequence[TaskSummary], path: Path) -> Path:
    """Plotly is imported here: it takes a second, too."""
    from lngd_bench.report.page import page

    archive.put(path, page(summaries).encode())
    return path


def write_study(summaries: Sequence[TaskSummary], sources: Sequence[Path], study: Path) -> list[Path]:
    """STUDY.md, STUDY.png and STUDY.jsonl.gz. What stands above the mark in an earlier STUDY.md is a person's and stays.

    Raises:
        BenchError: there is a STUDY.md without the mark, or two sources have a record of the same name.
    """
    from lngd_bench.report.plots import draw

    text, picture, records = (study.with_name(f"{study.name}{ending}") for ending in (".md", ".png", archive.ENDING))
    new = f"# {study.name}\n\n![Training loss and metric]({picture.name})\n\n{MARK}"
    words = text.read_text(encoding="utf-8") if text.exists() else new
    if MARK not in words:
        raise BenchError(f"{text} was written by somebody; add a line {MARK} where the tables are to stand")
    packed = _packed(sources)
    commands_run = dict.fromkeys(command for summary in summaries for command in commands(summary))
    how = "```\n" + "\n".join(commands_run) + "\n```\n"
    tables = "\n".join(map(markdown, summaries))
    archive.write(records, packed)
    archive.put(text, f"{words.partition(MARK)[0]}{MARK}\n\n{how}\n{tables}".encode())
    return [text, draw(summaries, picture), records]


def _packed(sources: Sequence[Path]) -> dict[str, archive.Lines]:
    """Of several sources the records lie in folders named after them."""
    files: dict[str, archive.Lines] = {}
    for source in sources:
        folder = f"{source.name.removesuffix(archive.ENDING)}/" if len(sources) > 1 else ""
        for name, lines in archive.read(source).items():
            if f"{folder}{name}" in files:
                raise BenchError(f"{source}: there is a second {folder}{name}; rename one of the directories")
            files[f"{folder}{name}"] = lines
    return files
