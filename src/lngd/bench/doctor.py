"""What LNGD will do with a user's own model, and what it will cost, before any training."""

import importlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lngd import LNGD
from lngd.bench.errors import BenchError
from lngd.methods import SCHEDULE

ROUNDS = 5


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
        BenchError: there is no such module or factory, or it gives no nn.Module.
    """
    module_name, _, factory_name = spec.partition(":")
    if not module_name or not factory_name:
        raise BenchError(f"{spec!r} is no MODULE:FACTORY, such as my_project.model:build")
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except ModuleNotFoundError as error:
        raise BenchError(f"no module {error.name!r} here: run lngd in your project's folder") from error
    except AttributeError as error:
        raise BenchError(f"module {module_name!r} has no {factory_name!r}") from error
    model = factory()
    if not isinstance(model, nn.Module):
        raise BenchError(f"{spec} gave a {type(model).__name__}, not a torch.nn.Module")
    return model


def sample_input(shape: str, tokens: int | None) -> Tensor:
    """A random input of a shape such as 32x3x224x224; with `tokens`, whole numbers below it.

    Raises:
        BenchError: the shape is none.
    """
    sizes = shape.split("x")
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise BenchError(f"--input {shape}: give sizes with x between them, batch first, such as 32x3x224x224")
    size = tuple(map(int, sizes))
    return torch.randn(size) if tokens is None else torch.randint(tokens, size)


def measure_cost(build: Callable[[], nn.Module], x: Tensor) -> Cost:
    """Times SGD's and LNGD's steps side by side; the loss is the mean square of the output.

    Raises:
        BenchError: the model does not take the input.
    """
    plain, model = build(), build()
    sgd = torch.optim.SGD(plain.parameters(), lr=1e-3, momentum=0.9)
    lngd = LNGD(model, lr=0.0, schedule=replace(SCHEDULE, curvature_every=2, ramp=False))
    try:
        milliseconds(plain, sgd, x)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise BenchError(f"the model does not take an input of shape {tuple(x.shape)}: {error}") from error
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
        raise BenchError(f"the model's output, a {type(output).__name__}, holds no floating-point tensor")
    return tensors[0]
