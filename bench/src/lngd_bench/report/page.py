"""A report that is one file: for each table its charts, which plotly draws, readable in light and dark and without a network.

What comes from records is escaped, in the HTML and in the names that plotly shows, which may hold markup of its own.
"""

import math
from collections.abc import Sequence
from html import escape

from pandas import DataFrame
from plotly.express import line
from plotly.graph_objects import Figure

from lngd_bench.report.curves import FIELDS, curve, focus
from lngd_bench.report.style import colour_of
from lngd_bench.report.summary import TaskSummary
from lngd_bench.report.tables import caption, cells, commands, shortfalls, written

AGAINST = ("epochs", "seconds")
NOTHING = (math.nan, math.nan, math.nan)  # a point of every panel, so that all panels are there

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
{summary.difference and f"<p><strong>{escape(summary.difference)}</strong></p>"}
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
    """Training loss and metric against epochs and seconds; a bar at a point is the standard deviation over seeds."""
    metric = summary.metric
    names = ("training loss", f"evaluation {metric.name}{metric.unit}")
    points = [
        (escape(row.label, quote=False), name, against, x, scale * mean, scale * deviation)
        for row in summary.rows
        for name, field, scale in zip(names, FIELDS, (1, metric.scale), strict=True)
        for found in [curve(row.runs, field)]
        for against in AGAINST
        for x, mean, deviation in [NOTHING, *zip(getattr(found, against), found.mean, found.deviation, strict=True)]
    ]
    figure = line(
        DataFrame(points, columns=["optimizer", "figure", "against", "x", "mean", "deviation"]),
        x="x",
        y="mean",
        error_y="deviation",
        color="optimizer",
        symbol="optimizer",
        color_discrete_map={
            escape(row.label, quote=False): colour_of(row.optimizer, index) for index, row in enumerate(summary.rows)
        },
        facet_row="figure",
        facet_col="against",
        category_orders={"figure": names, "against": AGAINST},
        template="plotly_white",
        height=640,
    )
    figure.update_traces(error_y={"thickness": 1, "width": 0})
    figure.update_xaxes(matches=None).update_yaxes(matches=None)
    figure.update_yaxes(type="log", autorange=True, exponentformat="power", row=2)  # row 1 is the lower one
    figure.layout.annotations = ()
    if limits := focus(summary):
        figure.update_yaxes(range=[metric.scale * limit for limit in limits], row=1)
        figure.add_hline(metric.scale * summary.target, line={"dash": "dash", "width": 1, "color": "grey"}, row=1)
    return figure.update_layout(
        xaxis={"title": "epochs"},
        xaxis2={"title": "seconds of training"},
        xaxis3={"matches": "x"},
        xaxis4={"matches": "x2"},
        yaxis={"title": names[1]},
        yaxis2={"matches": "y", "title": ""},
        yaxis3={"title": names[0]},
        yaxis4={"matches": "y3", "title": ""},
        legend={"orientation": "h", "title": "", "y": -0.12},
        margin={"l": 60, "r": 10, "t": 10, "b": 50},
    )
