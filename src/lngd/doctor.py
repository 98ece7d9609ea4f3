"""What an optimizer will do with a user's own model, and what it will cost, before any training."""

import importlib
import inspect
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lngd import methods
from lngd.optimizer import NaturalGradient
from lngd.optimizer.memory import MIB

Build: TypeAlias = Callable[..., NaturalGradient]

METHODS: dict[str, Build] = {
    name: getattr(methods, name)
    for name in ("SpectralLNGD", "LNGD", "KFAC", "EKFAC", "TKFAC", "NGPlus", "THOR", "LNGDLr", "LNGDSample")
}
ROUNDS = 5


class DoctorError(Exception):
    """What a user can put right."""


def examine(
    factory: str, shape: str | None = None, tokens: int | None = None, method: Build = methods.SpectralLNGD
) -> Iterator[str]:
    """What to print, as soon as it is known.

    Args:
        factory: `module:function`; the function takes nothing and gives the model.
        shape: of an input to take steps on, such as 32x3x224x224; None takes none.
        tokens: the input holds whole numbers below this.
        method: the optimizer, at its defaults.

    Raises:
        DoctorError: one of the first three is wrong.
    """
    if shape is None and tokens is not None:
        raise DoctorError("--tokens says what --input holds: give --input 8x64, batch first, too")
    x = None if shape is None else sample_input(shape, tokens)
    optimizer = method(load_model(factory))
    yield str(optimizer.summary())
    yield f"\n{optimizer.memory_report()}\n"
    optimizer.close()
    if x is None:
        yield "Give --input SHAPE to take steps: their time, and the memory that is really allocated."
        return
    cost = measure_cost(lambda: load_model(factory), x, method)
    name = type(optimizer).__name__
    yield (
        f"A training step, median: SGD {cost.sgd:.1f} ms; AdamW {cost.adamw:.1f} ms; {name} {cost.ordinary:.1f} ms, "
        f"a measuring one {cost.measuring:.1f} ms; {cost.amortised:.1f} ms over the default interval of {cost.interval} steps "
        f"({cost.amortised / cost.sgd:.2f} × SGD)."
    )
    yield f"State after them: {cost.allocated / MIB:.2f} MiB allocated, {cost.expected / MIB:.2f} MiB expected."


@dataclass(frozen=True)
class Cost:
    """Median milliseconds of a whole training step: forward, backward and optimizer."""

    sgd: float
    adamw: float
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
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's code raises
        own = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
        ending = "write the module without .py" if module_name.endswith(".py") else "call it in your project's folder"
        why = f"no module {module_name!r} here: {ending}" if own else f"{module_name} can't be imported: {_said(error)}"
        raise DoctorError(why) from error
    if not hasattr(module, factory_name):
        raise DoctorError(f"module {module_name!r} has no {factory_name!r}")
    factory = getattr(module, factory_name)
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise DoctorError(f"{spec} can't be called without arguments: {error}") from error
    try:
        model = factory()
    except Exception as error:  # whatever the user's code raises
        raise DoctorError(f"{spec} failed: {_said(error)}") from error
    if not isinstance(model, nn.Module):
        raise DoctorError(f"{spec} gave a {type(model).__name__}, not a torch.nn.Module")
    if not any(p.requires_grad for p in model.parameters()):
        raise DoctorError(f"{spec} gave a model without a parameter that requires a gradient")
    return model


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


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


def measure_cost(build: Callable[[], nn.Module], x: Tensor, method: Build) -> Cost:
    """Times SGD's, AdamW's and the method's steps side by side; the loss is the mean square of the output.

    Raises:
        DoctorError: the model does not take the input.
    """
    plain, usual, model = build(), build(), build()
    sgd = torch.optim.SGD(plain.parameters(), lr=0.0, momentum=0.9)
    adamw = torch.optim.AdamW(usual.parameters(), lr=0.0)
    schedule = inspect.signature(method).parameters["schedule"].default
    lngd = method(model, lr=0.0, schedule=replace(schedule, curvature_every=2, ramp=False))
    try:
        milliseconds(plain, sgd, x)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reads = any(isinstance(module, nn.Embedding) for module in plain.modules())
        hint = "; its embedding reads --tokens N, as many as it has rows" if reads else ""
        raise DoctorError(f"the model does not take an input of shape {tuple(x.shape)}: {_said(error)}{hint}") from error
    milliseconds(usual, adamw, x)  # first calls allocate
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "labels are drawn as classes")  # the loss is ours
        milliseconds(model, lngd, x)
    milliseconds(model, lngd, x)
    order: list[tuple[nn.Module, Optimizer]] = [(plain, sgd), (usual, adamw), (model, lngd), (model, lngd)]
    times = [[milliseconds(trained, optimizer, x) for trained, optimizer in order] for _ in range(ROUNDS)]
    first, second, measuring, ordinary = (statistics.median(column) for column in zip(*times, strict=True))
    expected = lngd.memory_report().total
    return Cost(first, second, ordinary, measuring, schedule.curvature_every, expected, allocated_bytes(lngd.state))


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
