"""A report that is one file: for each table its charts, which plotly draws, readable in light and dark and without a network.

What comes from records is escaped, in the HTML and in the names that plotly shows, which may hold markup of its own.
"""

from collections.abc import Sequence
from html import escape

from pandas import DataFrame
from plotly.express import line
from plotly.graph_objects import Figure

from lngd_bench.report.colours import colour_of
from lngd_bench.report.curves import FIELDS, curve, focus
from lngd_bench.report.summary import TaskSummary
from lngd_bench.report.tables import caption, cells, commands, shortfalls, written

AGAINST = ("epochs", "seconds")
HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>Optimizers raced by lngd</title>
<style>
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem }
section { border-top: 1px solid #8886; margin-top: 2.5rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; white-space: nowrap; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #8884; text-align: left }
.chart { background: white; margin: 1rem 0 }
code { overflow-wrap: anywhere }
@media (prefers-color-scheme: dark) { .chart { filter: invert(.93) hue-rotate(180deg) } }
</style>
</head>
<body>
<h1>Optimizers raced by lngd</h1>
<p>Seconds are of training alone; competitors took turns epoch by epoch. ± is the standard deviation over seeds.
– means that the target was not reached by every seed; in brackets how many did.
“LNGD saves” is 1 − LNGD's seconds to the target / that optimizer's. The first to reach the target is first in a table.
A click on a name in a chart hides its lines.</p>
"""


def page(summaries: Sequence[TaskSummary]) -> str:
    """The HTML; several tables of one task say in what they differ."""
    names = (f"{table.task}: {table.difference}" if table.difference else table.task for table in summaries)
    links = "".join(f'<li><a href="#table-{index}">{escape(name)}</a></li>\n' for index, name in enumerate(names))
    sections = "".join(_section(summary, index) for index, summary in enumerate(summaries))
    return f"{HEAD}<ul>\n{links}</ul>\n{sections}</body>\n</html>\n"


def _section(summary: TaskSummary, index: int) -> str:
    rows = sorted(summary.rows, key=lambda row: row.mean("seconds") or float("inf"))
    chart = _chart(summary).to_html(
        full_html=False,
        include_plotlyjs=index == 0,
        div_id=f"chart-{index}",
        config={"displaylogo": False, "responsive": True},
    )
    return f"""<section id="table-{index}">
<h2>{escape(summary.task)}</h2>
<p><strong>{escape(summary.difference)}</strong></p>
<p>{escape(caption(summary))}</p>
<div class="scroll">{written([cells(row, summary.metric) for row in rows], "html")}</div>
{_listed([escape(remark) for remark in shortfalls(summary)])}
<div class="chart">{chart}</div>
<details><summary>How it was run</summary>
{_listed([f"{escape(day)}: <code>{escape(command)}</code>" for command, day in commands(summary).items()])}
</details>
</section>
"""


def _listed(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>" if items else ""


def _chart(summary: TaskSummary) -> Figure:
    metric, fields = summary.metric, ("training loss", f"evaluation {summary.metric.name}{summary.metric.unit}")
    points = [
        {"optimizer": escape(row.label), "what": what, "against": against, "x": x, "mean": scale * mean, "±": scale * spread}
        for row in summary.rows
        for what, field, scale in ((fields[0], FIELDS[0], 1), (fields[1], FIELDS[1], metric.scale))
        for found in [curve(row.runs, field)]
        for against in AGAINST
        for x, mean, spread in zip(getattr(found, against), found.mean, found.deviation, strict=True)
    ]
    figure = line(
        DataFrame(points, columns=["optimizer", "what", "against", "x", "mean", "±"]),
        x="x",
        y="mean",
        error_y="±",
        color="optimizer",
        symbol="optimizer",
        color_discrete_map={escape(row.label): colour_of(row.optimizer, index) for index, row in enumerate(summary.rows)},
        facet_row="what",
        facet_col="against",
        category_orders={"what": fields, "against": AGAINST},
        template="plotly_white",
        height=640,
    )
    return figure
