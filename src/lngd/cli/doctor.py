"""`lngd doctor`: a user's own model under LNGD, before any training."""

from typing import Annotated

import typer

from lngd import LNGD
from lngd.bench.doctor import load_model, measure_cost, sample_input
from lngd.cli.running import console
from lngd.optimizer.memory import MIB


def doctor(
    factory: Annotated[str, typer.Argument(metavar="MODULE:FACTORY", help="A function without arguments that gives the model.")],
    *,
    shape: Annotated[
        str | None, typer.Option("--input", metavar="SHAPE", help="Times a step on it: 32x3x224x224, batch first.")
    ] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="The input holds whole numbers below this.")] = None,
) -> None:
    """Print what becomes of every parameter of your model, and what curvature costs in bytes and time."""
    model = load_model(factory)
    optimizer = LNGD(model)
    console.print(str(optimizer.summary()), markup=False, soft_wrap=True)
    console.print(f"\n{optimizer.memory_report()}\n", markup=False, soft_wrap=True)
    optimizer.close()
    if shape is None:
        console.print("Give --input SHAPE to take steps: their time, and the memory that is really allocated.", markup=False)
        return
    cost = measure_cost(lambda: load_model(factory), sample_input(shape, tokens))
    console.print(
        f"A training step, median: SGD {cost.sgd:.1f} ms; LNGD {cost.ordinary:.1f} ms, a measuring one {cost.measuring:.1f} ms; "
        f"{cost.amortised:.1f} ms over the default interval of {cost.interval} steps ({cost.amortised / cost.sgd:.2f} × SGD).",
        markup=False,
        soft_wrap=True,
    )
    console.print(
        f"State after them: {cost.allocated / MIB:.2f} MiB allocated, {cost.expected / MIB:.2f} MiB expected.",
        markup=False,
        soft_wrap=True,
    )
