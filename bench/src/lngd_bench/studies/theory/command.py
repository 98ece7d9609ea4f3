"""`lngd theory`: the paper's theorems, tried out on quadratic models, a real run and a two-layer net."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, ClassVar

import torch
import typer

import lngd
from lngd.step_size import Directions
from lngd.types import Vector
from lngd_bench.cli.running import console, make_directory
from lngd_bench.errors import BenchError
from lngd_bench.report.tables import plain_table
from lngd_bench.studies.theory import quadratic, sweep
from lngd_bench.studies.theory.figures import Family, draw_theorem_1, draw_theorem_2
from lngd_bench.studies.theory.proof import demanded_width, extremes, printed_c
from lngd_bench.studies.theory.quadratic import Quadratics
from lngd_bench.studies.theory.sweep import ALPHAS, Run, Start
from lngd_bench.studies.theory.two_layer import NU, diagonal_kernel, kernel, unsigned_kernel, wide_gram, wide_kernel
from lngd_bench.tasks import TASKS
from lngd_bench.tasks.schedule import LINEAR, scheduler
from lngd_bench.tasks.task import Changes
from lngd_bench.training.race import rate_of
from lngd_bench.training.randomness import PrivateRandomness
from lngd_bench.training.train import DivergenceError, Learner, RunSpec

WIDTHS = "16,64,256,1024,4096"
LARGEST_WIDTH = 100_000  # half a gigabyte of gates and weights
TRIALS, LAYERS, BLOCK = 1000, (2, 3, 8), 4  # random models, their layers, parameters a layer
FAILURE = 0.1  # ε of Theorem 2
TASK = "mnist-mlp"


@dataclass(frozen=True)
class RateWithSlope(lngd.LayerwiseRate):
    """LNGD's own rate, which keeps ⟨d,∇⟩ beside κ: `optimizer.stats()` then has both."""

    memory: ClassVar[tuple[str, ...]] = ("kappa", "slope")

    def alpha(self, step: Directions) -> Vector:
        step.memory["slope"].copy_(step.slope)
        return super().alpha(step)


def theory(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the figures go.")] = Path("runs/theory"),
    widths: Annotated[str, typer.Option(metavar="M,…", help="Widths of the two-layer net.")] = WIDTHS,
    seeds: Annotated[int, typer.Option(help="Data sets and nets for each width.")] = 5,
    steps: Annotated[int, typer.Option(help="Steps of each two-layer recursion.")] = 40,
    run_steps: Annotated[int, typer.Option(help=f"Training steps of {TASK}.")] = 200,
) -> None:
    """Check Theorems 1–3 numerically: print where they hold and where not, draw theorem-1.png and theorem-2.png."""
    for option, value in (("--seeds", seeds), ("--steps", steps), ("--run-steps", run_steps)):
        _check_positive(option, value)
    chosen = _widths_given(widths)
    make_directory(out)
    torch.set_num_threads(1)  # the matrices are so small that a second thread only waits
    written = [_theorem_1(run_steps, out), _theorem_2(chosen, seeds, steps, out)]
    console.print("\nWritten: " + ", ".join(str(path) for path in written), soft_wrap=True, markup=False)


def _theorem_1(run_steps: int, out: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    families = {
        "random": {n: quadratic.random_quadratics(TRIALS, n, BLOCK, generator) for n in LAYERS},
        "least sq.": {n: quadratic.least_squares(TRIALS, n, BLOCK, generator) for n in LAYERS},
    }
    _print_quadratics(families)
    gains = _gains_of_a_run(run_steps)
    low, middle, high = _quantiles(torch.tensor(gains, dtype=torch.float64))
    console.print(
        f"{TASK} with LNGD, {run_steps} steps: gain {low:.3g} / {middle:.3g} / {high:.3g} (10 % / median / 90 %), "
        f"least {min(gains):.3g}; {sum(gain < 1 for gain in gains)} steps below 1.",
        markup=False,
    )
    return draw_theorem_1(families, gains, out / "theorem-1.png")


def _print_quadratics(families: Mapping[str, Family]) -> None:
    head = ("H", "layers", "violation", "10 %", "median", "90 %", "worse", "raises", "single")
    rows = [_quadratic_row(name, layers, models) for name, family in families.items() for layers, models in family.items()]
    _print(f"Theorem 1: one rate a layer against one rate, {TRIALS} models a row", head, rows)
    console.print(
        "Block-diagonal H: largest (single − per layer) / per layer of the decreases, and\n"
        "quantiles of the gain, per layer / single. Full H, same rates: models where per\n"
        "layer is worse, where it raises the model, and where the single rate raises it.",
        markup=False,
    )


def _quadratic_row(name: str, layers: int, models: Quadratics) -> list[str]:
    low, middle, high = _quantiles(quadratic.gain(models.coupled(0)))
    fall = quadratic.decrease(models, quadratic.layer_rates(models))
    single = quadratic.decrease(models, quadratic.single_rate(models))
    shares = [f"{100 * flags.double().mean().item():.0f} %" for flags in (fall < single, fall < 0, single < 0)]
    largest = quadratic.violation(models.coupled(0)).max().item()
    return [name, str(layers), f"{largest:.1e}", *map(_plain, (low, middle, high)), *shares]


def _gains_of_a_run(steps: int) -> list[float]:
    """The gain at every step of a run, from slopes and curvatures that LNGD measures anyway."""
    task = Changes(steps=steps, epoch_steps=1).apply(TASKS[TASK])
    split = task.data(None).first(task.samples)
    randomness = PrivateRandomness(0)
    with randomness.active():
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


def _theorem_2(widths: Sequence[int], seeds: int, steps: int, out: Path) -> Path:
    runs = [*sweep.finite_runs(widths, seeds, steps), *sweep.limit_runs(max(widths), seeds, steps)]
    for rate, title in (("none", "the update of the proof"), ("eq. 12", "that update with the rate of eq. 12")):
        _print_verdicts(f"Theorem 2, {title}: seeds that keep the bound", [run for run in runs if run.rate == rate], seeds)
    console.print(
        "Then: largest error over the bound (∞: it grew 1e12-fold) @ first step over it.\n"
        f"The printed bound on α allows them up to c = {', '.join(f'{printed_c(alpha):.2f}' for alpha in ALPHAS)}.",
        markup=False,
    )
    starts = list(sweep.starts(widths, seeds, steps))
    _print_limits(widths, starts, seeds)
    _print_kernels(widths, seeds)
    _print_conditions(widths, starts, seeds)
    return draw_theorem_2(runs, out / "theorem-2.png")


def _print_verdicts(title: str, runs: Sequence[Run], seeds: int) -> None:
    found = {width: [_verdict(runs, width, alpha, seeds) for alpha in ALPHAS] for width in dict.fromkeys(r.width for r in runs)}
    rows = [[f"{width:g}" if math.isfinite(width) else "∞", *cells] for width, cells in found.items()]
    _print(title, ("m", *(f"α = {alpha:g}" for alpha in ALPHAS)), rows)


def _verdict(runs: Sequence[Run], width: float, alpha: float, seeds: int) -> str:
    verdicts = [run.verdict for run in runs if (run.width, run.alpha) == (width, alpha)]
    over = [verdict.first for verdict in verdicts if verdict.first is not None]
    kept = f"{seeds - len(over)}/{seeds}"
    return f"{kept} {_power(max(verdict.ratio for verdict in verdicts))} @{min(over)}" if over else kept


def _print_limits(widths: Sequence[int], starts: Sequence[Start], seeds: int) -> None:
    names = ("derived", "exact", "solved", "rated")
    means = {width: [fmean(getattr(s.limits, name) for s in starts if s.width == width) for name in names] for width in widths}
    rows = [[str(width), "1", *(f"{mean:.3g}" if mean > 0 else "none" for mean in row)] for width, row in means.items()]
    head = ("m", "printed", "λ_max(Z)/η", "exact", "λ_max(Z)/κ²η", "exact, eq. 12")
    _print(f"Largest α at c = 0, by the stages of the proof and by K at θ₀; mean of {seeds} seeds", head, rows)


def _print_kernels(widths: Sequence[int], seeds: int) -> None:
    rows = [[str(width), *_spectra(width, seeds)] for width in widths]
    limit = [extremes(wide_kernel(sweep.problem(seed).X)) for seed in range(seeds)]
    rows.append(["∞", _range(limit), "→ 0", "→ ∞"])
    head = ("m", "Ψ of the proof", "without a_r (eq. 17)", "diagonal (eq. 5)")
    _print(f"λ_min … λ_max of K at θ₀ by the Ψ in it; mean of {seeds} seeds", head, rows)


def _spectra(width: int, seeds: int) -> list[str]:
    found = []
    for seed in range(seeds):
        X, net = sweep.problem(seed).X, sweep.net(width, seed)
        G = net.gates(X)
        found.append([extremes(K) for K in (kernel(X, G), unsigned_kernel(X, G, net.signs), diagonal_kernel(X, G))])
    return [_range(column) for column in zip(*found, strict=True)]


def _print_conditions(widths: Sequence[int], starts: Sequence[Start], seeds: int) -> None:
    names = ("gram", "moved", "c", "travelled")
    rows = [
        [str(width), *(f"{fmean(getattr(s.conditions, name) for s in starts if s.width == width):.2g}" for name in names)]
        for width in widths
    ]
    head = ("m", "least λ_min(GGᵀ)", "max ‖J−J₀‖", "c it needs", "‖θ−θ₀‖ / Lemma 7")
    _print(f"Conditions of the proof along α = {sweep.CONDITIONS_ALPHA:g}; mean of {seeds} seeds", head, rows)
    data = [sweep.problem(seed).X for seed in range(seeds)]
    smallest = fmean(extremes(wide_gram(X))[0] for X in data)
    width = min(demanded_width(X, NU, FAILURE) for X in data)
    console.print(
        f"λ_K = {smallest:.3g}, λ_K/2 = {smallest / 2:.3g}, √(λ_K/2) = {(smallest / 2) ** 0.5:.3g}; "
        f"c < ½ is demanded; n⁴κ⁸/(ν²ε³λ_K⁴) at ε = {FAILURE:g}: {width:.0e} or more.",
        markup=False,
    )


def _print(title: str, head: Sequence[str], rows: Iterable[Iterable[str]]) -> None:
    console.print(f"\n[bold]{title}[/bold]")
    console.print(plain_table(head, rows, words=0, gap=2))


def _quantiles(values: torch.Tensor) -> list[float]:
    return values.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=values.dtype)).tolist()


def _range(pairs: Iterable[tuple[float, float]]) -> str:
    low, high = (fmean(side) for side in zip(*pairs, strict=True))
    return f"{low:.3g} … {high:.3g}"


def _plain(value: float) -> str:
    """Three digits, never an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _power(value: float) -> str:
    """A number in four characters."""
    if value < 100:
        return f"{value:.2g}"
    return f"{value:.0e}".replace("e+0", "e").replace("e+", "e") if math.isfinite(value) else "∞"


def _check_positive(option: str, value: int) -> None:
    if value < 1:
        raise BenchError(f"{option} {value}: give a whole number of 1 or more")


def _widths_given(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() and 1 <= int(word) <= LARGEST_WIDTH for word in words):
        raise BenchError(f"--widths {text}: give whole numbers from 1 to {LARGEST_WIDTH}, separated by commas, such as {WIDTHS}")
    return sorted({int(word) for word in words})
