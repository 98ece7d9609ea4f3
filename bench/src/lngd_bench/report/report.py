"""What a race leaves to read: `table.md`, a PNG a task and `report.html`, all from records only."""

from pathlib import Path

from lngd_bench import archive
from lngd_bench.errors import BenchError
from lngd_bench.report.page import page
from lngd_bench.report.summary import Target, TaskSummary, summarise
from lngd_bench.report.tables import markdown_table, shortfalls
from lngd_bench.training.records import read_records


def load_summaries(directory: Path, target: Target = "auto") -> list[TaskSummary]:
    """The tasks that a directory has finished runs of.

    Raises:
        BenchError: it has none.
    """
    records = read_records(directory)
    if not records:
        raise BenchError(f"{directory} holds no finished run; lngd race TASK --out {directory} makes some")
    return summarise(records, target)


def write_tables(summaries: list[TaskSummary], directory: Path) -> Path:
    path = directory / "table.md"
    path.write_text("\n".join(_part(summary) for summary in summaries), encoding="utf-8")
    return path


def write_figures(summaries: list[TaskSummary], directory: Path) -> list[Path]:
    """Matplotlib is imported here: it takes a second that tables need not wait for."""
    from lngd_bench.report.plots import draw

    return [draw(summary, directory / f"{summary.task}.png") for summary in summaries]


def write_page(summaries: list[TaskSummary], path: Path) -> Path:
    """A reader who reloads the page finds the old one or the new one, whole."""
    archive.put(path, page(summaries).encode())
    return path


def _part(summary: TaskSummary) -> str:
    remarks = "".join(f"- {remark}\n" for remark in shortfalls(summary))
    return markdown_table(summary) + (f"\n{remarks}" if remarks else "")
