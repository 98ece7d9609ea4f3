"""One model type: four steps with each optimizer, in a process of its own."""

import math
import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

import lngd
from lngd.optimizer import NaturalGradient
from lngd_bench.studies.zoo.shrinking import Ways, loss_of

STEPS, SECONDS = 4, 240
ROUNDING = 1e-7
"""Of the largest norm of a gradient; float32's."""
Build = Callable[[nn.Module], NaturalGradient]
METHODS: dict[str, Build] = {"lngd": lngd.LNGD, "lngd-spectral": lngd.SpectralLNGD, "kfac": lngd.KFAC}
FINE = "trains"


def tried(ways: Ways) -> dict[str, Any]:
    """What came of a type, and of each method; a crash or a time-out of the process is one, too."""
    context = multiprocessing.get_context("fork")  # what is imported by now is shared
    queue = context.Queue()

    def put_outcome() -> None:
        try:
            queue.put(outcome(ways))
        except Exception as error:
            queue.put({"outcome": f"{type(error).__name__}: {str(error)[:300]}"})

    process = context.Process(target=put_outcome, daemon=True)
    process.start()
    try:
        found: dict[str, Any] = queue.get(timeout=SECONDS)
    except Exception:
        found = {"outcome": f"nothing within {SECONDS} s"}
    process.kill()
    process.join()
    return found


def outcome(ways: Ways) -> dict[str, Any]:
    """Of one type."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for way, (own, inputs) in enumerate(ways()):
        try:
            seconds, loss = trained(own, torch.optim.AdamW(own.parameters(), 1e-3), inputs)
        except Exception:  # noqa: S112  the next way to build it may do
            continue
        if not math.isfinite(loss):
            continue
        entries = sum(p.numel() for p in own.parameters())
        found: dict[str, Any] = {"outcome": "built", "parameters": entries, "adamw": {"seconds": seconds, "loss": loss}}
        for method, kind in METHODS.items():
            found[method] = of_method(kind, *next(islice(ways(), way, None)))
        return found
    return {"outcome": "AdamW does not train it"}


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: dict[str, Tensor]) -> tuple[float, float]:
    """CPU seconds of a step, and the last loss."""
    start = time.process_time()
    for step in range(STEPS):
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss = loss_of(model(**inputs))
        loss.backward()
        optimizer.step()
    return round((time.process_time() - start) / STEPS, 4), float(f"{float(loss):.4g}")


def of_method(kind: Build, model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """Whether it trains, what it says, and which matrices have no curvature."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            optimizer = kind(model)
            before = {name: p.detach().clone() for name, p in model.named_parameters()}
            seconds, loss = trained(model, optimizer, inputs)
        said = [str(each.message) for each in caught if ours(str(each.message))]
    except Exception as error:
        return {"outcome": f"{type(error).__name__}: {str(error)[:300]}"}
    still = [name for name, p in moving(model) if torch.equal(p, before[name])]
    matrices = [row for row in optimizer.summary() if is_matrix(row, model)]
    sizes = {
        kind: sum(torch.Size(row.shape).numel() for row in matrices if row.kind == kind) for kind in ("curvature", "fallback")
    }
    wrong = f"{len(still)} stay, {still[0]} among them" if still else "" if math.isfinite(loss) else f"its loss is {loss}"
    return {
        "outcome": wrong or FINE,
        "seconds": seconds,
        "loss": loss if math.isfinite(loss) else None,
        "share": sizes["curvature"] / max(1, sum(sizes.values())),
        "lost": sorted({row.reason for row in matrices if row.kind == "fallback"}),
        "warnings": said,
    }


def ours(message: str) -> bool:
    """Whether a warning is one of this library's."""
    return any(words in message for words in ("lngd", "layer '", "curvature"))


def moving(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters with a gradient that is more than rounding, as that of a bias in front of a batch norm is not."""
    found = [(name, p, float(p.grad.norm())) for name, p in model.named_parameters() if p.grad is not None]
    largest = max((norm for *_, norm in found), default=0.0)
    return ((name, p) for name, p, norm in found if norm > ROUNDING * largest)


def is_matrix(row: Any, model: nn.Module) -> bool:
    """Whether a parameter is a matrix that was used, and neither an embedding nor a vector."""
    sides = sum(side > 1 for side in row.shape)
    return (
        sides > 1 and row.kind != "frozen" and "docs/layers" not in row.reason and model.get_parameter(row.name).grad is not None
    )
