"""What LNGD will do with a user's own model, and what it will cost, before any training."""

import importlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lngd import LNGD
from lngd.methods import SCHEDULE
from lngd.optimizer.memory import MIB

ROUNDS = 5


class DoctorError(Exception):
    """What a user can put right."""


def examine(factory: str, shape: str | None = None, tokens: int | None = None) -> Iterator[str]:
    """What to print, as soon as it is known.

    Args:
        factory: `module:function`; the function takes nothing and gives the model.
        shape: of an input to take steps on, such as 32x3x224x224; None takes none.
        tokens: the input holds whole numbers below this.

    Raises:
        DoctorError: one of the three is wrong.
    """
    x = None if shape is None else sample_input(shape, tokens)
    optimizer = LNGD(load_model(factory))
    yield str(optimizer.summary())
    yield f"\n{optimizer.memory_report()}\n"
    optimizer.close()
    if x is None:
        yield "Give --input SHAPE to take steps: their time, and the memory that is really allocated."
        return
    cost = measure_cost(lambda: load_model(factory), x)
    yield (
        f"A training step, median: SGD {cost.sgd:.1f} ms; LNGD {cost.ordinary:.1f} ms, a measuring one {cost.measuring:.1f} ms; "
        f"{cost.amortised:.1f} ms over the default interval of {cost.interval} steps ({cost.amortised / cost.sgd:.2f} × SGD)."
    )
    yield f"State after them: {cost.allocated / MIB:.2f} MiB allocated, {cost.expected / MIB:.2f} MiB expected."


@dataclass(frozen=True)
class Cost:
    """Median milliseconds of a whole training step: forward, backward and optimizer."""

    sgd: float
    ordinary: float
    measuring: float
    interval: int
    expected: int
    """Bytes of the optimizer's state by `memory_report`."""
    allocated: int
    """Bytes of its tensors after the steps."""

    @property
    def amortised(self) -> float:
        """Over one curvature interval."""
        return (self.measuring + (self.interval - 1) * self.ordinary) / self.interval


def load_model(spec: str) -> nn.Module:
    """Calls the factory of `module:factory`; the working directory counts as a place to import from.

    Raises:
        DoctorError: there is no such module or factory, or it gives no nn.Module.
    """
    module_name, _, factory_name = spec.partition(":")
    if not module_name or not factory_name or module_name.startswith("."):
        raise DoctorError(f"{spec!r} is no MODULE:FACTORY, such as my_project.model:build")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
        model = factory()
    except ModuleNotFoundError as error:
        raise DoctorError(f"no module {error.name!r} here: call it in your project's folder") from error
    except Exception as error:  # whatever the user's code raises
        if isinstance(error, AttributeError) and error.name == factory_name:
            raise DoctorError(f"module {module_name!r} has no {factory_name!r}") from error
        raise DoctorError(f"{spec} can't be called without arguments: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise DoctorError(f"{spec} gave a {type(model).__name__}, not a torch.nn.Module")
    if not any(p.requires_grad for p in model.parameters()):
        raise DoctorError(f"{spec} gave a model without a parameter that requires a gradient")
    return model


def sample_input(shape: str, tokens: int | None) -> Tensor:
    """A random input of a shape such as 32x3x224x224; with `tokens`, whole numbers below it.

    Raises:
        DoctorError: the shape is none, or no number is below `tokens`.
    """
    if tokens is not None and tokens < 1:
        raise DoctorError(f"--tokens {tokens}: give how many different numbers the model reads, 1 or more")
    sizes = shape.split("x")
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise DoctorError(f"--input {shape}: give sizes with x between them, batch first, such as 32x3x224x224")
    size = tuple(map(int, sizes))
    return torch.randn(size) if tokens is None else torch.randint(tokens, size)


def measure_cost(build: Callable[[], nn.Module], x: Tensor) -> Cost:
    """Times SGD's and LNGD's steps side by side; the loss is the mean square of the output.

    Raises:
        DoctorError: the model does not take the input.
    """
    plain, model = build(), build()
    sgd = torch.optim.SGD(plain.parameters(), lr=1e-3, momentum=0.9)
    lngd = LNGD(model, lr=0.0, schedule=replace(SCHEDULE, curvature_every=2, ramp=False))
    try:
        milliseconds(plain, sgd, x)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise DoctorError(f"the model does not take an input of shape {tuple(x.shape)}: {error}") from error
    milliseconds(model, lngd, x)  # first calls allocate
    milliseconds(model, lngd, x)
    times = [(milliseconds(plain, sgd, x), milliseconds(model, lngd, x), milliseconds(model, lngd, x)) for _ in range(ROUNDS)]
    first, measuring, ordinary = (statistics.median(column) for column in zip(*times, strict=True))
    expected = lngd.memory_report().total
    return Cost(first, ordinary, measuring, SCHEDULE.curvature_every, expected, allocated_bytes(lngd.state))


def allocated_bytes(state: Mapping[Any, Any]) -> int:
    """Bytes of all tensors in a state; one that stands in it twice counts once."""
    tensors = [leaf for leaf in torch.utils._pytree.tree_leaves(state) if isinstance(leaf, Tensor)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def milliseconds(model: nn.Module, optimizer: Optimizer, x: Tensor) -> float:
    """One training step."""
    start = time.perf_counter()
    optimizer.zero_grad()
    first_tensor(model(x)).float().square().mean().backward()
    optimizer.step()
    return 1e3 * (time.perf_counter() - start)


def first_tensor(output: object) -> Tensor:
    """The output, or the first tensor in it."""
    leaves = torch.utils._pytree.tree_leaves(output)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not tensors:
        raise DoctorError(f"the model's output, a {type(output).__name__}, holds no floating-point tensor")
    return tensors[0]
