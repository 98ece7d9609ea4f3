"""How a random model is trained: the optimizer's arguments, the data and the loop, as plain descriptions."""

import inspect
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuzz.models import Model, Network
from lngd import methods
from lngd.methods import Method

METHODS = ("LNGD", "SpectralLNGD", "LNGDSample", "LNGDLr", "KFAC", "EKFAC", "TKFAC", "NGPlus", "THOR")
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "autocast": torch.float32}


@dataclass(frozen=True)
class Settings:
    """The optimizer.

    Args:
        method: a class of `lngd.methods`.
        options: its keyword arguments.
        overrides: of a second parameter group, which holds every other parameter; None for one group.
        likelihood: what the loss is the likelihood of; where labels are drawn, of that, too.
    """

    method: str = "LNGD"
    options: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] | None = None
    likelihood: Literal["categorical", "bernoulli", "gaussian"] = "categorical"

    def build(self, model: nn.Module) -> Method:
        return getattr(methods, self.method)(model, self._groups(model), **self.options)

    def argument(self, name: str) -> Any:
        """Of the constructor: given, or the method's own."""
        return self.options.get(name, inspect.signature(getattr(methods, self.method)).parameters[name].default)

    def _groups(self, model: nn.Module) -> list[dict[str, Any]] | None:
        parameters = [*model.parameters()]
        if self.overrides is None:
            return None
        return [{"params": parameters[::2]}, {"params": parameters[1::2], **self.overrides}]

    @property
    def mean_over(self) -> str:
        """What the loss averages over."""
        return self.options.get("mean_over", "batch")


@dataclass(frozen=True)
class Training:
    """The data and the loop.

    Args:
        dtype: of parameters and inputs; autocast is float32 under bfloat16 autocast.
        batches: the size of each step's batch.
        scale: what the inputs are multiplied with.
        constant: whether all inputs are equal.
        nan_at: the step whose batch holds a NaN.
        micro: how many batches are accumulated in a step.
        clip: the norm that gradients are clipped to.
        between: a forward before each training forward: without gradients in training mode, in evaluation mode, or none.
    """

    dtype: str = "float32"
    batches: tuple[int, ...] = (4, 4, 4, 3)
    scale: float = 1.0
    constant: bool = False
    nan_at: int | None = None
    micro: int = 1
    clip: float | None = None
    between: Literal["nothing", "no_grad", "evaluation"] = "nothing"
    set_to_none: bool = True
    seed: int = 0

    @property
    def computed_in(self) -> torch.dtype:
        """The coarsest dtype that products are computed in."""
        return torch.bfloat16 if self.dtype == "autocast" else DTYPES[self.dtype]


@dataclass(frozen=True)
class Case:
    """Everything about one training run; printed, the code that makes it again."""

    model: Model
    settings: Settings = Settings()
    training: Training = Training()

    def build(self) -> Network:
        torch.default_generator.manual_seed(self.training.seed)
        return self.model.build().to(DTYPES[self.training.dtype])

    def backward(self, model: Network, step: int) -> Tensor:
        """Gradients of step `step`; the loss. The same numbers at every call with the same weights."""
        model.zero_grad(set_to_none=self.training.set_to_none)
        losses = [self._backward(model, step, micro) for micro in range(self.training.micro)]
        if self.training.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), self.training.clip)
        return torch.stack(losses).sum()

    def _backward(self, model: Network, step: int, micro: int) -> Tensor:
        generator = torch.default_generator.manual_seed(1000 * self.training.seed + 10 * step + micro)
        x = self._inputs(step, generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.training.dtype == "autocast"):
            self._look_between(model, x)
            loss = self._loss(model(x.clone()), generator)
        loss.backward()
        return loss.detach().to(torch.float64)

    def _look_between(self, model: Network, x: Tensor) -> None:
        if self.training.between == "no_grad":
            with torch.no_grad():
                model(x.clone())
        elif self.training.between == "evaluation":
            model.eval()(x.clone())
            model.train()

    def _inputs(self, step: int, generator: torch.Generator) -> Tensor:
        plan, batch = self.model, self.training.batches[step]
        if plan.vocabulary:
            return torch.randint(0, plan.vocabulary, (batch, *plan.signal.space), generator=generator)
        shape = (batch, *plan.signal.shape)
        x = torch.ones(shape) if self.training.constant else torch.randn(shape, generator=generator)
        x = x * self.training.scale
        if step == self.training.nan_at and batch:
            x.view(-1)[0] = math.nan
        return x.to(DTYPES[self.training.dtype])

    def _loss(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """The negative log-likelihood of random labels: a mean over samples, over tokens, or a sum."""
        rows = outputs.reshape(-1, outputs.shape[-1])
        total = LOSSES[self.settings.likelihood](rows, generator)
        return total / {"batch": len(outputs), "token": len(rows), "none": 1}[self.settings.mean_over] if len(rows) else total


def categorical(rows: Tensor, generator: torch.Generator) -> Tensor:
    labels = torch.randint(0, rows.shape[-1], (len(rows),), generator=generator)
    return F.cross_entropy(rows, labels, reduction="sum")


def bernoulli(rows: Tensor, generator: torch.Generator) -> Tensor:
    labels = torch.randint(0, 2, rows.shape, generator=generator).to(rows.dtype)
    return F.binary_cross_entropy_with_logits(rows, labels, reduction="sum")


def gaussian(rows: Tensor, generator: torch.Generator) -> Tensor:
    targets = torch.randn(rows.shape, generator=generator).to(rows.dtype)
    return (rows - targets).square().sum() / 2


LOSSES = {"categorical": categorical, "bernoulli": bernoulli, "gaussian": gaussian}
