"""`lngd theory`: the paper's theorems, tried out on quadratic models, a real run and a two-layer net."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, ClassVar

import torch
import typer

import lngd
from lngd.step_size import Directions
from lngd.types import Vector
from lngd_bench.cli.running import command_line, console, make_directory
from lngd_bench.errors import BenchError
from lngd_bench.studies.results import leave, text
from lngd_bench.studies.theory import quadratic, sweep
from lngd_bench.studies.theory.drawing import Family, draw
from lngd_bench.studies.theory.proof import demanded_width, extremes, printed_c
from lngd_bench.studies.theory.quadratic import Quadratics
from lngd_bench.studies.theory.sweep import ALPHAS, CONDITIONS_ALPHA, Run
from lngd_bench.studies.theory.two_layer import NU, wide_gram, wide_kernel
from lngd_bench.tasks import TASKS
from lngd_bench.tasks.schedule import LINEAR, scheduler
from lngd_bench.tasks.task import Changes
from lngd_bench.training.race import rate_of
from lngd_bench.training.randomness import PrivateRandomness
from lngd_bench.training.records import finite
from lngd_bench.training.train import DivergenceError, Learner, RunSpec

STUDY = "theory"
WIDTHS = "16,64,256,1024,4096"
LARGEST_WIDTH = 100_000  # half a gigabyte of gates and weights
TRIALS, LAYERS, BLOCK = 1000, (2, 3, 8), 4  # random models, their layers, parameters a layer
FAILURE = 0.1  # ε of Theorem 2
TASK = "mnist-mlp"
TITLES = {"none": "the update of the proof", "eq. 12": "that update with the rate of eq. 12"}


@dataclass(frozen=True)
class RateWithSlope(lngd.LayerwiseRate):
    """LNGD's own rate, which keeps ⟨d,∇⟩ beside κ: `optimizer.stats()` then has both."""

    memory: ClassVar[tuple[str, ...]] = ("kappa", "slope")

    def alpha(self, step: Directions) -> Vector:
        step.memory["slope"].copy_(step.slope)
        return super().alpha(step)


def theory(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where theory.md, .png and .jsonl.gz go.")] = Path("runs/theory"),
    widths: Annotated[str, typer.Option(metavar="M,…", help="Widths of the two-layer net.")] = WIDTHS,
    seeds: Annotated[int, typer.Option(min=1, help="Data sets and nets for each width.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each two-layer recursion.")] = 40,
    run_steps: Annotated[int, typer.Option(min=1, help=f"Training steps of {TASK}.")] = 200,
) -> None:
    """Check Theorems 1–3 numerically: say where they hold and where not, and draw it."""
    chosen = _widths_given(widths)
    make_directory(out)
    torch.set_num_threads(1)  # the matrices are so small that a second thread only waits
    generator = torch.Generator().manual_seed(0)
    families = {
        "random": {n: quadratic.random_quadratics(TRIALS, n, BLOCK, generator) for n in LAYERS},
        "least sq.": {n: quadratic.least_squares(TRIALS, n, BLOCK, generator) for n in LAYERS},
    }
    gains = _gains_of_a_run(run_steps)
    runs = list(sweep.recursions(chosen, seeds, steps))
    starts = [sweep.start(width, seed, steps) for width in chosen for seed in range(seeds)]
    said = "\n\n".join([_theorem_1(families, gains), _theorem_2(runs, seeds), *_proof(starts, seeds)])
    console.print(said, markup=False, soft_wrap=True)
    origin = {"command": command_line(), "date": datetime.now(UTC).isoformat(timespec="seconds"), "torch": str(torch.__version__)}
    lines: list[Mapping[str, Any]] = [{"event": "start", **origin}, {"event": "gains", "task": TASK, "gains": gains}]
    lines += [_line(run) for run in runs] + [{"event": "net", **_finite(start)} for start in starts]
    page = (
        f"`{origin['command']}`, {origin['date'][:10]}, torch {origin['torch']}.\n\n# The paper's theorems, tried out\n\n"
        f"[docs/theory.md](../docs/theory.md) explains the tables.\n\n![The theorems]({STUDY}.png)\n\n```\n{said}\n```\n"
    )
    written = leave(out, STUDY, {f"{STUDY}.jsonl": lines}, page, draw(families, gains, runs))
    console.print(f"\n{written}", soft_wrap=True, markup=False)


def _line(run: Run) -> dict[str, Any]:
    """An infinite width is null, and so is the error of a recursion that has diverged."""
    shares = [finite(float(f"{share:.3g}")) for share in run.shares.tolist()]
    return _finite({"event": "run", **asdict(run), "shares": shares, **asdict(run.verdict)})


def _finite(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: finite(value) if isinstance(value, float) else value for name, value in line.items()}


def _theorem_1(families: Mapping[str, Family], gains: Sequence[float]) -> str:
    head = ("H", "layers", "violation", "10 %", "median", "90 %", "worse", "raises", "single")
    rows = [_quadratic_row(name, layers, models) for name, family in families.items() for layers, models in family.items()]
    low, middle, high = _quantiles(torch.tensor(gains, dtype=torch.float64))
    return (
        f"Theorem 1: one rate a layer against one rate, {TRIALS} models a row\n{text(head, rows)}\n"
        "Block-diagonal H: largest (single − per layer) / per layer of the decreases, and\n"
        "quantiles of the gain, per layer / single. Full H, same rates: models where per\n"
        "layer is worse, where it raises the model, and where the single rate raises it.\n"
        f"{TASK} with LNGD, {len(gains)} steps: gain {low:.3g} / {middle:.3g} / {high:.3g} (10 % / median / 90 %),\n"
        f"least {min(gains):.3g}; {sum(gain < 1 for gain in gains)} steps below 1."
    )


def _quadratic_row(name: str, layers: int, models: Quadratics) -> list[str]:
    quantiles = _quantiles(quadratic.gain(models.coupled(0)))
    fall = quadratic.decrease(models, quadratic.layer_rates(models))
    single = quadratic.decrease(models, quadratic.single_rate(models))
    shares = [f"{100 * flags.double().mean().item():.0f} %" for flags in (fall < single, fall < 0, single < 0)]
    largest = quadratic.violation(models.coupled(0)).max().item()
    gains = [f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in quantiles]
    return [name, str(layers), f"{largest:.1e}", *gains, *shares]


def _gains_of_a_run(steps: int) -> list[float]:
    """The gain at every step of a run, from slopes and curvatures that LNGD measures anyway."""
    task = Changes(steps=steps, epoch_steps=1).apply(TASKS[TASK])
    split = task.data(None).first(task.samples)
    with PrivateRandomness(0).active():
        learner = Learner(RunSpec(task, "sgd", rate_of(task, "lngd"), 0), split)
        step_size = RateWithSlope(smoothing=0.0)  # κ of this step alone
        optimizer = lngd.LNGD(learner.model, lr=rate_of(task, "lngd"), step_size=step_size)
        learner.optimizer, learner.schedule = optimizer, scheduler(optimizer, LINEAR, steps)
        try:
            return [_gain_of_a_step(learner, optimizer) for _ in range(steps)]
        except DivergenceError as error:
            raise BenchError(f"{TASK} diverged: {error}; choose fewer --run-steps") from error


def _gain_of_a_step(learner: Learner, optimizer: lngd.LNGD) -> float:
    learner.train_epoch()
    stats = optimizer.stats()
    layers = [name.removeprefix("slope/") for name in stats if name.startswith("slope/")]
    slopes, kappas = (
        torch.tensor([stats[f"{key}/{layer}"] for layer in layers], dtype=torch.float64) for key in ("slope", "kappa")
    )
    return quadratic.measured_gain(slopes, kappas).item()


def _theorem_2(runs: Sequence[Run], seeds: int) -> str:
    parts = []
    for rate, title in TITLES.items():
        rows = [
            [f"{width:g}".replace("inf", "∞"), *(_verdict(runs, (rate, width, alpha)) for alpha in ALPHAS)]
            for width in dict.fromkeys(run.width for run in runs)
        ]
        head = ("m", *(f"α = {alpha:g}" for alpha in ALPHAS))
        parts.append(f"Theorem 2, {title}: of {seeds} seeds, how many keep the bound\n{text(head, rows)}")
    remark = (
        "Then: largest error over the bound (∞: it grew 1e12-fold) @ first step over it.\n"
        f"The printed bound on α allows them up to c = {', '.join(f'{printed_c(alpha):.2f}' for alpha in ALPHAS)}."
    )
    return "\n\n".join(parts) + f"\n{remark}"


def _verdict(runs: Sequence[Run], case: tuple[str, float, float]) -> str:
    verdicts = [run.verdict for run in runs if (run.rate, run.width, run.alpha) == case]
    over = [verdict.first for verdict in verdicts if verdict.first is not None]
    worst = max(verdict.ratio for verdict in verdicts)
    size = f"{worst:.2g}" if worst < 100 else f"{worst:.0e}".replace("e+0", "e").replace("e+", "e").replace("inf", "∞")
    kept = f"{len(verdicts) - len(over)}/{len(verdicts)}"
    return f"{kept} {size} @{min(over)}" if over else kept


def _proof(starts: Sequence[Mapping[str, Any]], seeds: int) -> list[str]:
    """Limits, kernels and conditions, a row for each width."""
    by_width = {start["width"]: [s for s in starts if s["width"] == start["width"]] for start in starts}

    names = ("derived", "exact", "solved", "rated")
    allowed = {width: [fmean(net[name] for net in nets) for name in names] for width, nets in by_width.items()}
    rows = [[str(width), "1", *(f"{mean:.3g}" if mean > 0 else "none" for mean in means)] for width, means in allowed.items()]
    head = ("m", "printed", "λ_max(Z)/η", "exact", "λ_max(Z)/κ²η", "exact, eq. 12")
    limits = f"Largest α at c = 0, by the stages of the proof and by K at θ₀; mean of {seeds} seeds\n{text(head, rows)}"

    kinds = ("proof", "unsigned", "diagonal")
    rows = [[str(width), *(_range([net[kind] for net in nets]) for kind in kinds)] for width, nets in by_width.items()]
    data = [sweep.problem(seed).X for seed in range(seeds)]
    rows.append(["∞", _range([extremes(wide_kernel(X)) for X in data]), "→ 0", "→ ∞"])
    psi = ("m", "Ψ of the proof", "without a_r (eq. 17)", "diagonal (eq. 5)")
    kernels = f"λ_min … λ_max of K at θ₀ by the Ψ in it; mean of {seeds} seeds\n{text(psi, rows)}"

    names = ("gram", "moved", "c", "travelled")
    rows = [[str(width), *(f"{fmean(net[name] for net in nets):.2g}" for name in names)] for width, nets in by_width.items()]
    measured = ("m", "least λ_min(GGᵀ)", "max ‖J−J₀‖", "c it needs", "‖θ−θ₀‖ / Lemma 7")
    smallest = fmean(extremes(wide_gram(X))[0] for X in data)
    width = min(demanded_width(X, NU, FAILURE) for X in data)
    conditions = (
        f"Conditions of the proof along α = {CONDITIONS_ALPHA:g}; mean of {seeds} seeds\n{text(measured, rows)}\n"
        f"λ_K = {smallest:.3g}, λ_K/2 = {smallest / 2:.3g}, √(λ_K/2) = {(smallest / 2) ** 0.5:.3g}; "
        f"c < ½ is demanded; n⁴κ⁸/(ν²ε³λ_K⁴) at ε = {FAILURE:g}: {width:.0e} or more."
    )
    return [limits, kernels, conditions]


def _quantiles(values: torch.Tensor) -> list[float]:
    return values.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=values.dtype)).tolist()


def _range(pairs: Sequence[Sequence[float]]) -> str:
    low, high = (fmean(side) for side in zip(*pairs, strict=True))
    return f"{low:.3g} … {high:.3g}"


def _widths_given(words: str) -> list[int]:
    given = [word.strip() for word in words.split(",") if word.strip()]
    if not given or not all(word.isdecimal() and 1 <= int(word) <= LARGEST_WIDTH for word in given):
        raise BenchError(f"--widths {words}: give whole numbers from 1 to {LARGEST_WIDTH}, separated by commas, such as {WIDTHS}")
    return sorted({int(word) for word in given})
