"""The tables of `beyond.md`."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import mean

from lngd_bench.ledger import Line
from lngd_bench.studies.beyond.rivals import RIVALS
from lngd_bench.studies.beyond.search import Outcome, mean_of
from lngd_bench.studies.beyond.tasks import TASKS
from lngd_bench.studies.results import MISSING, markdown

Outcomes = Mapping[tuple[str, str], Outcome]
"""By task and optimizer."""
SAID = """\
Means over seeds {seeds}; smaller is better, the best in bold. In brackets: untuned, at the default rates.
Eight trials each, on seed 1000. AdamW, SOAP and K-FAC: eight rates a factor of two apart. Muon, LNGD and Spectral LNGD: five
rates, and at the best of them AdamW's rate for the other parameters × 1/3, 3 and 10. While the best trial stands at the edge of
what was tried, up to four more beyond it; a dagger: it still does. All rates fall linearly to zero.
"""
BELOW = """\
How often the best, and the geometric mean over tasks of the value over the best of its task, where all values are positive.
Untuned runs are compared among themselves.
"""


def page(outcomes: Outcomes, seeds: Sequence[int]) -> str:
    """All tables, and the refusals below the first."""
    tasks, rivals = (list(dict.fromkeys(names)) for names in zip(*outcomes, strict=True))
    titles = [RIVALS[rival].title for rival in rivals]

    def each(cell: Callable[[Outcome], str]) -> list[list[str]]:
        return [[TASKS[task].title, *(cell(outcomes[task, rival]) for rival in rivals)] for task in tasks]

    values = [[TASKS[task].title, TASKS[task].measure, *values_of([outcomes[task, rival] for rival in rivals])] for task in tasks]
    return "\n".join(
        [
            SAID.format(seeds=", ".join(map(str, seeds))),
            markdown(["task", "held out", *titles], values, words=2),
            *refusals(outcomes),
            markdown(["", "best", "value / best", "untuned: best", "value / best"], summary(outcomes, tasks, rivals)),
            BELOW,
            "CPU seconds of a run\n",
            markdown(["task", *titles], each(lambda found: number(mean_of(found.tuned, "seconds"), 2))),
            "The rates: lr, and AdamW's rate for the other parameters over it\n",
            markdown(["task", *titles], each(rates_of)),
        ]
    )


def values_of(found: Sequence[Outcome]) -> list[str]:
    """A task's row."""
    best = min((value for each in found if (value := mean_of(each.tuned, "value")) is not None), default=None)
    return [cell(each, bold=best is not None and mean_of(each.tuned, "value") == best) for each in found]


def cell(found: Outcome, *, bold: bool) -> str:
    tuned = f"{'**' if bold else ''}{ending(found.tuned)}{'**' if bold else ''}"
    return f"{tuned}{'†' if found.edge else ''} ({ending(found.untuned)})"


def ending(lines: Sequence[Line]) -> str:
    """What became of the runs."""
    if any(line["refused"] for line in lines):
        return "refused"
    value = mean_of(lines, "value")
    return "diverges" if value is None else number(value, 3)


def number(value: float | None, digits: int) -> str:
    """So many significant digits, without an exponent up to a million."""
    if value is None:
        return MISSING
    if value == 0 or not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}" if value else "0"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def rates_of(found: Outcome) -> str:
    if found.rates is None:
        return MISSING
    ratio = "" if found.rates.ratio is None else f", {found.rates.ratio:.2g}"
    return f"{found.rates.lr:.3g}{ratio}{'†' if found.edge else ''}"


def refusals(outcomes: Outcomes) -> list[str]:
    """A line for each, with the message."""
    found = [
        f"- {TASKS[task].title}, {RIVALS[rival].title}: {outcome.refusal}"
        for (task, rival), outcome in outcomes.items()
        if outcome.refusal
    ]
    return ["Refused:\n", *found, ""] if found else []


def summary(outcomes: Outcomes, tasks: Sequence[str], rivals: Sequence[str]) -> list[list[str]]:
    """A row for each optimizer, tuned and untuned."""
    rows = {rival: [RIVALS[rival].title] for rival in rivals}
    for lines in (lambda found: found.tuned, lambda found: found.untuned):
        best = dict.fromkeys(rivals, 0)
        ratios: dict[str, list[float]] = {rival: [] for rival in rivals}
        for task in tasks:
            values = {rival: mean_of(lines(outcomes[task, rival]), "value") for rival in rivals}
            there = {rival: value for rival, value in values.items() if value is not None}
            least = min(there.values(), default=0.0)
            for rival, value in there.items():
                best[rival] += value == least
                if least > 0:
                    ratios[rival].append(value / least)
        most = max(map(len, ratios.values()))
        for rival in rivals:
            rows[rival] += [str(best[rival]), geometric_mean(ratios[rival], most)]
    return list(rows.values())


def geometric_mean(values: Sequence[float], most: int) -> str:
    """With the number of tasks where it is not `most`."""
    if not values:
        return MISSING
    found = number(math.exp(mean(map(math.log, values))), 3)
    return found if len(values) == most else f"{found} ({len(values)} of {most} tasks)"
