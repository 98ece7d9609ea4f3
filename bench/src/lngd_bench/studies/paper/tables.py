"""The paper's tables with our columns beside the paper's: of seconds only ratios compare across machines."""

from dataclasses import dataclass

from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.report.summary import Figure, Row, TaskSummary
from lngd_bench.report.tables import MISSING, Cells, caption, shortfalls, spread_text, written
from lngd_bench.studies.paper.claims import Verdict, by_optimizer, judge
from lngd_bench.studies.paper.paper import CLAIMS, Claim, PaperRow, PaperTable
from lngd_bench.tasks.metric import METRICS

ABLATION = 5
RULE = (
    "A difference counts when a paired t-test over the seeds finds it at the 5 % level; a target that a seed missed counts "
    "as worse than one that all seeds reached. “Undecided” is everything between. Of a method with several rates the one "
    "that reaches the target first counts."
)


@dataclass(frozen=True)
class Comparison:
    """One of the paper's tables and the runs of one task that stand beside it, if there are any."""

    table: PaperTable
    summary: TaskSummary | None

    def methods(self) -> list[tuple[PaperRow, Row | None]]:
        """The paper's in its order, then ours that it does not have; an ablation has the paper's only."""
        ours = by_optimizer(self.summary) if self.summary else {}
        printed = {row.optimizer: row for row in self.table.rows}
        further = {name: PaperRow(name) for name in ours if name not in printed and self.table.number != ABLATION}
        return [(paper, ours.get(name)) for name, paper in (printed | further).items()]

    def rows(self) -> list[Cells]:
        return [self._cells(*method) for method in self.methods()]

    def _cells(self, paper: PaperRow, ours: Row | None) -> Cells:
        table = self.table
        metric = self.summary.metric if self.summary else METRICS[table.metric]
        # The paper prints no seconds of an epoch for SGD in Table 3 and has no SGD in Table 5.
        base, base_ours = next(method for method in self.methods() if method[0].each)
        relative = _ratio(_mean(ours, "epoch_seconds"), _mean(base_ours, "epoch_seconds"))
        return {
            "method": ours.label if ours else OPTIMIZERS[paper.optimizer].title,
            "epochs": _cell(_mean(ours, "epochs"), ".1f"),
            f"paper's {table.count}": _cell(paper.epochs, "g"),
            "seconds": _cell(_mean(ours, "seconds"), ".1f"),
            f"paper's {table.total_unit}": _cell(paper.total, ".2f"),
            f"× {OPTIMIZERS[base.optimizer].title}'s epoch": _cell(relative, ".2f"),
            "paper's ×": _cell(_ratio(paper.each, base.each), ".2f"),
            "LNGD saves": _cell(_ratio(ours.saved if ours else None, 0.01), "z.0f", " %"),
            "paper's": _cell(paper.saves, "g", " %"),
            metric.heading: spread_text(ours, "best", metric.digits, metric.scale) if ours else MISSING,
            "paper's best": _cell(paper.best, ".2f"),
        }

    def judgements(self) -> list[tuple[Claim, Verdict, str]]:
        return [(claim, *judge(claim, self.summary)) for claim in CLAIMS[self.table.number]] if self.summary else []

    def markdown(self) -> str:
        """For the docs: the caption, the table, the remarks and the claims."""
        table, summary = self.table, self.summary
        parts = [f"### Table {table.number}: {table.title}", caption(summary) if summary else "No runs of ours."]
        parts.append(written(self.rows()))
        if summary and (remarks := shortfalls(summary)):
            parts.append("\n".join(f"- {remark}" for remark in remarks))
        if judged := self.judgements():
            headings = ("the paper says", "where", "here", "the numbers")
            claims = [
                dict(zip(headings, (claim.text, claim.source, verdict, because), strict=True))
                for claim, verdict, because in judged
            ]
            parts += [written(claims, numbers=False), RULE]
        return "\n\n".join(parts) + "\n"


def _cell(value: float | None, shape: str, unit: str = "") -> str:
    """A dash where there is no run, not every seed reached the target, or the paper prints nothing."""
    return MISSING if value is None else f"{value:{shape}}{unit}"


def _mean(row: Row | None, figure: Figure) -> float | None:
    return row.mean(figure) if row else None


def _ratio(value: float | None, reference: float | None) -> float | None:
    return None if value is None or not reference else value / reference
