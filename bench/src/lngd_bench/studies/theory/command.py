"""`lngd theory`: the paper's theorems, tried out on quadratic models, a real run and a two-layer net."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from lngd_bench.studies.theory import proof, quadratic
from lngd_bench.studies.theory.drawing import Family, draw
from lngd_bench.studies.theory.two_layer import NU, wide_gram, wide_kernel
from lngd_bench.tasks import TASKS
from lngd_bench.tasks.schedule import LINEAR, scheduler
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

Line = Mapping[str, Any]


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
    runs = list(proof.runs(chosen, seeds, steps))
    nets = [proof.start_of(width, seed, steps) for width in chosen for seed in range(seeds)]
    said = "\n\n".join([_theorem_1(families, gains), _theorem_2(runs, seeds), _proof(nets, seeds)])
    console.print(said, markup=False, soft_wrap=True)
    origin = {"command": command_line(), "date": datetime.now(UTC).isoformat(timespec="seconds"), "torch": str(torch.__version__)}
    lines: list[Line] = [{"event": "start", **origin}, {"event": "gains", "task": TASK, "gains": gains}]
    for run in runs:
        short = [finite(float(f"{share:.3g}")) for share in run["shares"]]
        lines.append({"event": "run", **run, "width": finite(run["width"]), "shares": short, "ratio": finite(run["ratio"])})
    lines += [{"event": "net", **{key: finite(v) if isinstance(v, float) else v for key, v in net.items()}} for net in nets]
    page = (
        f"`{origin['command']}`, {origin['date'][:10]}, torch {origin['torch']}.\n\n# The paper's theorems, tried out\n\n"
        f"[docs/theory.md](../docs/theory.md) explains the tables.\n\n![The theorems]({STUDY}.png)\n\n```\n{said}\n```\n"
    )
    written = leave(out, STUDY, {f"{STUDY}.jsonl": lines}, page, draw(families, gains, runs))
    console.print(f"\n{written}", soft_wrap=True, markup=False)


def _theorem_1(families: Mapping[str, Family], gains: Sequence[float]) -> str:
    rows = []
    for name, family in families.items():
        for layers, models in family.items():
            diagonal = models.coupled(0)
            fall = quadratic.decrease(models, quadratic.layer_rates(models))
            single = quadratic.decrease(models, quadratic.single_rate(models))
            shares = [f"{100 * flags.double().mean().item():.0f} %" for flags in (fall < single, fall < 0, single < 0)]
            quantiles = [f"{g:.0f}" if g >= 100 else f"{g:.3g}" for g in _quantiles(quadratic.gain(diagonal))]
            rows.append([name, str(layers), f"{quadratic.violation(diagonal).max().item():.1e}", *quantiles, *shares])
    head = ("H", "layers", "violation", "10 %", "median", "90 %", "worse", "raises", "single")
    low, middle, high = _quantiles(torch.tensor(gains, dtype=torch.float64))
    return (
        f"Theorem 1: one rate a layer against one rate, {TRIALS} models a row\n{text(head, rows)}\n"
        "Block-diagonal H: largest (single − per layer) / per layer of the decreases, and\n"
        "quantiles of the gain, per layer / single. Full H, same rates: models where per\n"
        "layer is worse, where it raises the model, and where the single rate raises it.\n"
        f"{TASK} with LNGD, {len(gains)} steps: gain {low:.3g} / {middle:.3g} / {high:.3g} (10 % / median / 90 %),\n"
        f"least {min(gains):.3g}; {sum(gain < 1 for gain in gains)} steps below 1."
    )


def _gains_of_a_run(steps: int) -> list[float]:
    """The gain at every step of a run, from slopes and curvatures that LNGD measures anyway."""
    task = replace(TASKS[TASK], steps=steps, epoch_steps=1)
    split = task.data(None).first(task.samples)
    gains = []
    with PrivateRandomness(0).active():
        learner = Learner(RunSpec(task, "sgd", rate_of(task, "lngd"), 0), split)
        step_size = RateWithSlope(smoothing=0.0)  # κ of this step alone
        factors = lngd.Factors(raw_damping=1.0)
        optimizer = lngd.LNGD(learner.model, lr=0.5, adamw_lr_ratio=0.02, step_size=step_size, factors=factors)
        learner.optimizer, learner.schedule = optimizer, scheduler(optimizer, LINEAR, steps)
        try:
            for _ in range(steps):
                learner.train_epoch()
                stats = optimizer.stats()
                slopes, kappas = (
                    torch.tensor([v for name, v in stats.items() if name.startswith(f"{key}/")], dtype=torch.float64)
                    for key in ("slope", "kappa")
                )
                gains.append(quadratic.measured_gain(slopes, kappas).item())
        except DivergenceError as error:
            raise BenchError(f"{TASK} diverged: {error}; choose fewer --run-steps") from error
    return gains


def _theorem_2(runs: Sequence[Line], seeds: int) -> str:
    parts = []
    for rate, title in TITLES.items():
        rows = []
        for width in dict.fromkeys(run["width"] for run in runs):
            chosen = [run for run in runs if (run["rate"], run["width"]) == (rate, width)]
            verdicts = [_verdict([run for run in chosen if run["alpha"] == alpha]) for alpha in proof.ALPHAS]
            rows.append([f"{width:g}".replace("inf", "∞"), *verdicts])
        head = ("m", *(f"α = {alpha:g}" for alpha in proof.ALPHAS))
        parts.append(f"Theorem 2, {title}: of {seeds} seeds, how many keep the bound\n{text(head, rows)}")
    allowed = ", ".join(f"{proof.printed_c(alpha):.2f}" for alpha in proof.ALPHAS)
    return "\n\n".join(parts) + (
        "\nThen: largest error over the bound (∞: it grew 1e12-fold) @ first step over it.\n"
        f"The printed bound on α allows them up to c = {allowed}."
    )


def _verdict(runs: Sequence[Line]) -> str:
    over = [run["first"] for run in runs if run["first"] is not None]
    worst = max(run["ratio"] for run in runs)
    size = f"{worst:.2g}" if worst < 100 else f"{worst:.0e}".replace("e+0", "e").replace("e+", "e").replace("inf", "∞")
    kept = f"{len(runs) - len(over)}/{len(runs)}"
    return f"{kept} {size} @{min(over)}" if over else kept


def _proof(nets: Sequence[Line], seeds: int) -> str:
    """Limits, kernels and conditions, a row for each width."""
    by_width = {net["width"]: [other for other in nets if other["width"] == net["width"]] for net in nets}
    data = [proof.problem(seed).X for seed in range(seeds)]
    limits, kernels, conditions = [], [], []
    for width, own in by_width.items():
        means = {name: fmean(net[name] for net in own) for name, value in own[0].items() if isinstance(value, float)}
        allowed = [means[name] for name in ("derived", "exact", "solved", "rated")]
        limits.append([str(width), "1", *(f"{mean:.3g}" if mean > 0 else "none" for mean in allowed)])
        kernels.append([str(width), *(_range([net[kind] for net in own]) for kind in ("proof", "unsigned", "diagonal"))])
        conditions.append([str(width), *(f"{means[name]:.2g}" for name in ("gram", "moved", "c", "travelled"))])
    kernels.append(["∞", _range([proof.extremes(wide_kernel(X)) for X in data]), "→ 0", "→ ∞"])
    stages = ("m", "printed", "λ_max(Z)/η", "exact", "λ_max(Z)/κ²η", "exact, eq. 12")
    psi = ("m", "Ψ of the proof", "without a_r (eq. 17)", "diagonal (eq. 5)")
    measured = ("m", "least λ_min(GGᵀ)", "max ‖J−J₀‖", "c it needs", "‖θ−θ₀‖ / Lemma 7")
    smallest = fmean(proof.extremes(wide_gram(X))[0] for X in data)
    width = min(proof.demanded_width(X, NU, FAILURE) for X in data)
    return (
        f"Largest α at c = 0, by the stages of the proof and by K at θ₀; mean of {seeds} seeds\n{text(stages, limits)}\n\n"
        f"λ_min … λ_max of K at θ₀ by the Ψ in it; mean of {seeds} seeds\n{text(psi, kernels)}\n\n"
        f"Conditions of the proof along α = {proof.CONDITIONS_ALPHA:g}; mean of {seeds} seeds\n{text(measured, conditions)}\n"
        f"λ_K = {smallest:.3g}, λ_K/2 = {smallest / 2:.3g}, √(λ_K/2) = {(smallest / 2) ** 0.5:.3g}; "
        f"c < ½ is demanded; n⁴κ⁸/(ν²ε³λ_K⁴) at ε = {FAILURE:g}: {width:.0e} or more."
    )


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
