"""The paper's tables with our columns beside the paper's: of seconds only ratios compare across machines."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.report import grid
from lngd_bench.report.summary import Row, TaskSummary
from lngd_bench.report.tables import MISSING, caption, shortfalls, spread_text
from lngd_bench.studies.paper.claims import Judgement, by_optimizer, judge
from lngd_bench.studies.paper.paper import CLAIMS, PaperRow, PaperTable
from lngd_bench.tasks.metric import METRICS


@dataclass(frozen=True)
class Line:
    """A method: what the paper has of it, what we have of it."""

    optimizer: str
    paper: PaperRow | None
    ours: Row | None

    @property
    def label(self) -> str:
        return self.ours.label if self.ours else OPTIMIZERS[self.optimizer].title


@dataclass(frozen=True)
class Column:
    """A heading, its cells, and how early it goes on a narrow terminal (0: never)."""

    heading: str
    cell: Callable[[Line], str]
    dispensable: int = 0


@dataclass(frozen=True)
class Comparison:
    """One of the paper's tables and the runs of one task that stand beside it, if there are any."""

    table: PaperTable
    summary: TaskSummary | None

    def lines(self) -> list[Line]:
        """The paper's methods in its order, then ours that it does not have; an ablation has the paper's only."""
        rows = by_optimizer(self.summary) if self.summary else {}
        printed = {row.optimizer: row for row in self.table.rows}
        further = [name for name in rows if name not in printed] if self.table.number != 5 else []
        return [Line(name, printed.get(name), rows.get(name)) for name in (*printed, *further)]

    def columns(self) -> list[Column]:
        table = self.table
        base = next(row for row in table.rows if row.each)
        ours_each, name = self._seconds_of(base.optimizer), OPTIMIZERS[base.optimizer].title
        best = METRICS[self.summary.metric if self.summary else table.metric]
        return [
            Column("method", lambda line: line.label),
            Column("epochs", lambda line: _ours(line, lambda row: row.epochs, ".1f")),
            Column(f"paper's {table.count}", lambda line: _paper(line, lambda row: row.epochs, "g")),
            Column("seconds", lambda line: _ours(line, lambda row: row.seconds, ".1f"), 2),
            Column(f"paper's {table.total_unit}", lambda line: _paper(line, lambda row: row.total, ".2f"), 1),
            Column(f"× {name}'s epoch", lambda line: _ours(line, lambda row: _over(row.epoch_seconds.mean, ours_each), ".2f"), 3),
            Column("paper's ×", lambda line: _paper(line, lambda row: _over(row.each, base.each), ".2f"), 4),
            Column("LNGD saves", lambda line: _ours(line, lambda row: _per_cent(row.saved), "z.0f", " %"), 5),
            Column("paper's", lambda line: _paper(line, lambda row: row.saves, "g", " %"), 6),
            Column(best.heading, lambda line: spread_text(line.ours.best, best.scale, best.digits) if line.ours else MISSING),
            Column("paper's best", lambda line: _paper(line, lambda row: row.best, ".2f")),
        ]

    def judgements(self) -> list[Judgement]:
        return [judge(claim, self.summary) for claim in CLAIMS[self.table.number]] if self.summary else []

    def _seconds_of(self, optimizer: str) -> float | None:
        """Of an epoch; the paper prints none for SGD in Table 3 and has no SGD in Table 5."""
        row = by_optimizer(self.summary).get(optimizer) if self.summary else None
        return row.epoch_seconds.mean if row else None


def text(comparison: Comparison, width: int) -> str:
    """For a terminal: the columns that fit, the claims below."""
    shown = grid.fitting(comparison.columns(), partial(_grid, comparison), width)
    claims = [f"{judged.verdict.upper()}: {judged.claim.text} ({judged.because})" for judged in comparison.judgements()]
    return "\n".join([*grid.aligned(_grid(comparison, shown)), "", *claims])


def markdown(comparison: Comparison) -> str:
    """For the docs: every column, the caption, the remarks and the claims."""
    table, summary = comparison.table, comparison.summary
    parts = [f"### Table {table.number}: {table.title}", caption(summary) if summary else "No runs of ours."]
    parts.append(grid.markdown(_grid(comparison, comparison.columns())))
    if summary and (remarks := shortfalls(summary)):
        parts.append("\n".join(f"- {remark}" for remark in remarks))
    if judged := comparison.judgements():
        rows = [["the paper says", "where", "here", "the numbers"]]
        rows += [[one.claim.text, one.claim.source, one.verdict, one.because] for one in judged]
        parts += [grid.markdown(rows, numbers=False), _rule()]
    return "\n\n".join(parts) + "\n"


def _rule() -> str:
    return (
        "A difference counts when a paired t-test over the seeds finds it at the 5 % level; a target that a seed missed counts "
        "as worse than one that all seeds reached. “Undecided” is everything between. Of a method with several rates the one "
        "that reaches the target first counts."
    )


def _grid(comparison: Comparison, shown: Sequence[Column]) -> grid.Grid:
    return [[column.heading for column in shown], *([column.cell(line) for column in shown] for line in comparison.lines())]


def _ours(line: Line, figure: Callable[[Row], float | None], shape: str, unit: str = "") -> str:
    """A dash where there is no run, or not every seed reached the target."""
    return _cell(None if line.ours is None else figure(line.ours), shape, unit)


def _paper(line: Line, figure: Callable[[PaperRow], float | None], shape: str, unit: str = "") -> str:
    return _cell(None if line.paper is None else figure(line.paper), shape, unit)


def _cell(value: float | None, shape: str, unit: str) -> str:
    return MISSING if value is None else f"{value:{shape}}{unit}"


def _over(value: float | None, reference: float | None) -> float | None:
    return value / reference if value and reference else None


def _per_cent(share: float | None) -> float | None:
    return None if share is None else 100 * share
