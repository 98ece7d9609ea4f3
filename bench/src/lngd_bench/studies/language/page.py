"""The page of the comparison: a table of optimizers and one of changes for each task."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev

from scipy.stats import t

from lngd_bench.competitors.optimizers import OPTIMIZERS, default_of, is_current
from lngd_bench.ledger import Line
from lngd_bench.studies.language.ablation import CHANGES, METHOD, UNCHANGED
from lngd_bench.studies.language.runs import OURS, TASKS, rates
from lngd_bench.studies.results import MISSING, markdown, spread

COVERAGE = 0.95
HEADINGS = ("", "lr", "AdamW's lr", "loss", "− Spectral LNGD", "steps", "s", "s a run")
METHOD_TEXT = """\
Twelve trials for each optimizer on seed 1000, judged by the loss on held-out training samples at their end
(`studies/language/tuning.py` has the rule); the runs below are of other seeds and the evaluation set.

- *AdamW's lr*: of the parameters that the optimizer leaves to AdamW, where that is a rate of its own. \\* stands where the best
  lr is the lowest or the highest tried.
- *loss*: the final one, nats a character, ± the standard deviation over seeds; then the paired difference over seeds with its
  95 % interval (t), above zero where Spectral LNGD is better.
- *steps* and *s* of training: where the mean curve over seeds reaches the best rival's final loss, linear between evaluations.

Nobody has weight decay but *Muon, cautious decay*, which without any would be Muon: its is 0.1."""
UNTUNED = "Nobody's rates were tuned here: they are those that the first task's trials chose."
Point = tuple[float, float, float]
"""Step, loss, seconds of training."""


@dataclass(frozen=True)
class Row:
    """Runs at one setting, by seed."""

    title: str
    optimizer: str
    lr: float
    rest: float | None
    runs: Mapping[int, Line]
    edge: bool = False

    @property
    def losses(self) -> dict[int, float]:
        """What each seed ends with; infinite where it diverges."""
        return {seed: math.inf if line["loss"] is None else line["loss"] for seed, line in self.runs.items()}

    @property
    def loss(self) -> float:
        return fmean(self.losses.values())

    @property
    def curve(self) -> list[Point]:
        """The mean over seeds of each evaluation that all of them have."""
        columns = zip(*(line["curve"] for line in self.runs.values()), strict=False)
        return [(fmean(p[0] for p in each), fmean(p[1] for p in each), fmean(p[2] for p in each)) for each in columns]


def rows_of(lines: Sequence[Line]) -> list[Row]:
    """The optimizers at the best of their trials, ours at their defaults too; of one task and number of steps."""
    current = [line for line in lines if is_current(line)]
    return [
        row for name in OPTIMIZERS for row in _rows(name, [line for line in current if line["optimizer"] == name]) if row.runs
    ]


def _rows(name: str, lines: Sequence[Line]) -> Iterator[Row]:
    trials = [line for line in lines if line["held_out"] and line["loss"] is not None]
    if trials:
        best = min(trials, key=lambda line: float(line["loss"]))
        tried = [line["lr"] for line in lines if line["held_out"]]
        edge = best["lr"] in (min(tried), max(tried))
        yield _row(OPTIMIZERS[name].title, name, best["lr"], best["rest"], lines, edge=edge)
        if name in OURS:
            yield _row(f"{OPTIMIZERS[name].title}, default", name, *rates(name), lines)
        return
    for lr, rest in dict.fromkeys((line["lr"], line["rest"]) for line in lines if not line["change"]):  # another task's
        yield _row(OPTIMIZERS[name].title, name, lr, rest, lines)


def _row(
    title: str, name: str, lr: float, rest: float | None, lines: Sequence[Line], *, change: str = "", edge: bool = False
) -> Row:
    own = [line for line in lines if not line["held_out"] and (line["change"], line["lr"], line["rest"]) == (change, lr, rest)]
    return Row(title, name, lr, rest, {line["seed"]: line for line in sorted(own, key=lambda line: int(line["seed"]))}, edge)


def changes_of(lines: Sequence[Line]) -> list[Row]:
    """Each change at the rates that have most seeds."""
    found = []
    for change in CHANGES:
        own = [line for line in lines if line["change"] == change and is_current(line)]
        settings = dict.fromkeys((line["lr"], line["rest"]) for line in own)
        tried = [_row(change, METHOD, lr, rest, own, change=change) for lr, rest in settings]
        if tried:
            found.append(min(tried, key=lambda row: (-len(row.runs), row.loss)))
    return found


def best_rival(rows: Sequence[Row]) -> Row | None:
    return min((row for row in rows if row.optimizer not in OURS), key=lambda row: row.loss, default=None)


def crossing(curve: Sequence[Point], target: float) -> tuple[float, float] | None:
    """Steps and seconds until the loss is the target or less, linear between two evaluations; none where it never is."""
    if curve and curve[0][1] <= target:
        return curve[0][0], curve[0][2]
    for (step, loss, seconds), (later, lower, end) in pairwise(curve):
        if lower <= target:
            share = (loss - target) / (loss - lower)
            return step + share * (later - step), seconds + share * (end - seconds)
    return None


def difference(row: Row, reference: Row) -> tuple[float, float] | None:
    """Mean of the paired differences and half of its interval, infinite of one seed; none where a run diverges."""
    seeds = row.losses.keys() & reference.losses.keys()
    each = [row.losses[seed] - reference.losses[seed] for seed in seeds]
    if not each or not all(map(math.isfinite, each)):
        return None
    if len(each) == 1:
        return each[0], math.inf
    return fmean(each), float(t.ppf((1 + COVERAGE) / 2, len(each) - 1)) * stdev(each) / len(each) ** 0.5


def page(lines: Sequence[Line], command: str) -> str:
    """The whole."""
    dates = sorted(line["date"][:10] for line in lines)
    parts = [f"`{command}`, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}.", METHOD_TEXT]
    for name, steps in sizes(lines):
        own = [line for line in lines if (line["task"], line["steps"]) == (name, steps)]
        title = TASKS[name].title if name in TASKS else name
        untuned = [] if any(line["held_out"] for line in own) else [UNTUNED]
        parts += [f"## {title}, {steps} steps", *untuned, *_compared(rows_of(own)), *_changed(changes_of(own))]
    return "\n\n".join(parts) + "\n"


def sizes(lines: Sequence[Line]) -> list[tuple[str, int]]:
    """The tasks and their numbers of steps."""
    return list(dict.fromkeys((line["task"], line["steps"]) for line in lines))


def _compared(rows: Sequence[Row]) -> Iterator[str]:
    reference = next((row for row in rows if row.optimizer == METHOD), None)
    rival = best_rival(rows)
    cells = [[_name(row), *_rates(row), _loss(row), _paired(row, reference), *_reach(row, rival), _seconds(row)] for row in rows]
    yield markdown(HEADINGS, cells).strip()
    if rival:
        yield f"The best rival is {rival.title}: {rival.loss:.4f}."


def _changed(rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        return
    reference = next((row for row in rows if row.title == UNCHANGED), None)
    seeds = max(len(row.runs) for row in rows)
    yield f"### Spectral LNGD with one thing changed, {seeds} seed{'s' * (seeds != 1)}"
    yield "All at its tuned rates."
    headings = ("", "lr", "loss", "− unchanged", "s a run")
    yield markdown(
        headings, [[_name(row, seeds), f"{row.lr:g}", _loss(row), _paired(row, reference), _seconds(row)] for row in rows]
    ).strip()


def _name(row: Row, usual: int = 3) -> str:
    seeds = len(row.runs)
    return row.title if seeds == usual else f"{row.title} ({seeds} {'seed' if seeds == 1 else 'seeds'})"


def _rates(row: Row) -> list[str]:
    lr = f"{row.lr:g}{'*' if row.edge else ''}"
    if row.rest is None:
        return [lr, MISSING]
    ratio = default_of(OURS[row.optimizer], "adamw_lr_ratio") if row.optimizer in OURS else 1.0
    return [lr, f"{row.lr * row.rest * ratio:.2g}"]


def _loss(row: Row) -> str:
    return spread([*row.losses.values()], 4) if math.isfinite(row.loss) else "diverges"


def _paired(row: Row, reference: Row | None) -> str:
    if reference is None or row is reference:
        return MISSING
    found = difference(row, reference)
    if found is None:
        return MISSING
    return f"{found[0]:+.4f}" + (f" ± {found[1]:.4f}" if math.isfinite(found[1]) else "")


def _reach(row: Row, rival: Row | None) -> list[str]:
    found = crossing(row.curve, rival.loss) if rival and math.isfinite(row.loss) else None
    return [MISSING, MISSING] if found is None else [f"{found[0]:.0f}", f"{found[1]:.1f}"]


def _seconds(row: Row) -> str:
    return f"{fmean(line['seconds'] for line in row.runs.values()):.1f}"
