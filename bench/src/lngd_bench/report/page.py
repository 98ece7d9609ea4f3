"""A report that is one file: tables to sort, charts to ask, readable in light and dark, without scripts and without a network.

The page's own text, style and script are the files in `page_files`. What comes from records is escaped here, and the page
forbids every script but its own.
"""

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import count
from string import Template

from lngd_bench.report.chart_data import chart_data
from lngd_bench.report.comparison import differences
from lngd_bench.report.still_chart import still_charts
from lngd_bench.report.summary import REFERENCE, Row, TaskSummary
from lngd_bench.report.tables import Column, caption, columns, shortfalls

SEPARATORS = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
"""What could end a script element or a line of one, as JSON may write it too."""


def page(summaries: Sequence[TaskSummary]) -> str:
    """The HTML; a section for each summary, several of one task with a line that says in what they differ."""
    script = _file("script.js")
    names = section_names([summary.task for summary in summaries])
    told = differences(summaries)
    sections = (
        _section(summary, name, index, told[index]) for index, (summary, name) in enumerate(zip(summaries, names, strict=True))
    )
    return Template(_file("page.html")).substitute(
        title="Optimizers raced by lngd",
        style=_file("style.css"),
        contents=_contents(summaries, names, told) if len(summaries) > 1 else "",
        sections="\n".join(sections),
        data=script_json([chart_data(summary) for summary in summaries]),
        script=script,
        script_hash=f"sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
    )


def script_json(content: object) -> str:
    """JSON that stays inside a script element whatever its strings say."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).translate(SEPARATORS)


def section_names(tasks: Sequence[str]) -> list[str]:
    """For addresses and ids: plain letters, each once."""
    names: list[str] = []
    for task in tasks:
        plain = re.sub(r"[^a-z0-9]+", "-", task.lower()).strip("-") or "task"
        numbered = (plain if number == 1 else f"{plain}-{number}" for number in count(1))
        names.append(next(name for name in numbered if name not in names))
    return names


def _file(name: str) -> str:
    return (files("lngd_bench.report") / "page_files" / name).read_text(encoding="utf-8")


def _contents(summaries: Sequence[TaskSummary], names: Sequence[str], told: Sequence[str]) -> str:
    entries = zip(summaries, names, told, strict=True)
    links = (f'<li><a href="#{name}">{escape(_titled(summary.task, text))}</a></li>' for summary, name, text in entries)
    return f'<nav aria-label="Tasks"><ul>{"".join(links)}</ul></nav>'


def _titled(task: str, difference: str) -> str:
    return f"{task}: {difference}" if difference else task


def _section(summary: TaskSummary, name: str, index: int, difference: str) -> str:
    shown = columns(summary)
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in shortfalls(summary))
    return Template(_file("section.html")).substitute(
        name=name,
        index=index,
        task=escape(summary.task),
        difference=f'<p class="difference">{escape(difference)}</p>' if difference else "",
        caption=escape(caption(summary)),
        heading="".join(_heading(column) for column in shown),
        rows="\n".join(_row(row, summary, shown) for row in summary.rows),
        remarks=f'<ul class="remarks">{remarks}</ul>' if remarks else "",
        charts=still_charts(summary),
        commands="".join(f"<li>{date}: <code>{escape(command)}</code></li>" for command, date in _commands(summary).items()),
    )


def _heading(column: Column) -> str:
    key = re.sub(r"[^a-z0-9]+", "-", column.heading.lower()).strip("-")
    return f'<th scope="col" data-key="{key}">{escape(column.heading)}</th>'


def _row(row: Row, summary: TaskSummary, shown: Sequence[Column]) -> str:
    first, *rest = (_cell(column, row, summary) for column in shown)
    kind = ' class="own"' if row.optimizer == REFERENCE else ""
    return f'<tr{kind}><th scope="row" {first}</th>{"".join(f"<td {cell}</td>" for cell in rest)}</tr>'


def _cell(column: Column, row: Row, summary: TaskSummary) -> str:
    """Its value, for sorting, and its text; empty is what is missing."""
    value = column.value(row)
    return f'data-value="{"" if value is None else escape(str(value))}">{escape(column.cell(row, summary))}'


def _commands(summary: TaskSummary) -> Mapping[str, str]:
    """The day of the first run by command."""
    found: dict[str, str] = {}
    for header in sorted((run.header for row in summary.rows for run in row.runs), key=lambda header: header.date):
        found.setdefault(header.command or "lngd race", escape(header.date[:10]))
    return found
