"""A report that is one file: tables, figures and how to make them again, readable in light and dark."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from lngd.bench.summary import REFERENCE, TaskSummary
from lngd.bench.tables import caption, cells, columns, shortfalls

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e21; --faint: #667; --line: #d9dce1; --mark: #fdf0e7; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181c; --ink: #e6e7ea; --faint: #9aa0aa; --line: #343840; --mark: #3a2517; }
}
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; background: var(--paper); color: var(--ink);
       font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
p, footer { color: var(--faint); font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .55rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
tr.own { background: var(--mark); font-weight: 600; }
img { width: 100%; max-width: 1080px; border-radius: 8px; margin-top: 1rem; background: #fff; }
code { overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>$title</h1>
<p>Seconds are of training alone; competitors took turns epoch by epoch. ± is the standard deviation over seeds.
– means that the target was not reached by every seed; in brackets how many did.
“LNGD saves” is 1 − LNGD's seconds to the target / that optimizer's.</p>
$sections
<footer>Run $date. Made again from its records by <code>lngd figure DIR</code>;
run again by <code>$command</code></footer>
</body>
</html>
""")

SECTION = Template("""<section>
<h2>$task</h2>
<p>$caption</p>
<div class="scroll"><table>
<thead><tr>$heading</tr></thead>
<tbody>
$rows
</tbody>
</table></div>
$remarks
<img alt="$task: training loss and metric against epochs and seconds" src="data:image/png;base64,$image">
</section>""")


def page(summaries: Sequence[TaskSummary], figures: Sequence[Path]) -> str:
    """The HTML, figures inside."""
    dates = sorted(row.runs[0].header.date for summary in summaries for row in summary.rows)
    commands = dict.fromkeys(run.header.command for s in summaries for row in s.rows for run in row.runs)
    return PAGE.substitute(
        title="Optimizers raced by lngd",
        sections="\n".join(_section(summary, figure) for summary, figure in zip(summaries, figures, strict=True)),
        date=escape(dates[0]),
        command=escape("; ".join(filter(None, commands)) or "lngd race"),
    )


def _section(summary: TaskSummary, figure: Path) -> str:
    shown = columns(summary)
    rows = zip(summary.rows, cells(summary, shown), strict=True)
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in shortfalls(summary))
    return SECTION.substitute(
        task=escape(summary.task),
        caption=escape(caption(summary)),
        heading="".join(f"<th>{escape(column.heading)}</th>" for column in shown),
        rows="\n".join(_row(values, own=row.optimizer == REFERENCE) for row, values in rows),
        remarks=f"<ul>{remarks}</ul>" if remarks else "",
        image=base64.b64encode(figure.read_bytes()).decode(),
    )


def _row(values: Sequence[str], *, own: bool) -> str:
    data = "".join(f"<td>{escape(value)}</td>" for value in values)
    return f'<tr class="own">{data}</tr>' if own else f"<tr>{data}</tr>"
