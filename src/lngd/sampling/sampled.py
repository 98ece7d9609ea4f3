"""fisher="sampled": the gradient of labels drawn from the model itself (LNGD eq. 1)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from lngd.sampling.draws import Draws, Likelihood, sampled_gradient
from lngd.sampling.empirical import EmpiricalSource
from lngd.sampling.fisher_type import FisherType
from lngd.sampling.pull import pull_each
from lngd.sampling.source import Call, OnSample, Source

FROM_THE_DATA = "labels of the data instead of drawn ones: reentrant checkpointing; use_reentrant=False draws them"


@dataclass(frozen=True)
class Sampled:
    """g = −∇ₛ log p(ŷ|x) with ŷ drawn from the model: F = E[g gᵀ] is the Fisher matrix itself (LNGD eq. 1).

    Args:
        likelihood: what the model's output holds: "categorical" (logits of classes), "bernoulli" (logits of yes or no) or
            "gaussian" (the mean of a unit normal, as in regression).
    """

    likelihood: Likelihood = "categorical"
    type: ClassVar[FisherType] = FisherType.SAMPLED

    def __post_init__(self) -> None:
        if self.likelihood not in get_args(Likelihood):
            allowed = "'categorical', 'bernoulli' or 'gaussian'"
            raise ValueError(f"Sampled(likelihood={self.likelihood!r}) is out of range: likelihood must be {allowed}")

    def source(self, deliver: OnSample, generator: torch.Generator) -> "SampledSource":
        """What samples a model's layers in this way."""
        return SampledSource(deliver, likelihood=self.likelihood, generator=generator)


class SampledSource(Source):
    """Labels are drawn from the model's output, and their gradient is pulled back through the whole model.

    Behind reentrant checkpointing no pass of our own reaches a layer: the user's own backward, with the labels of the data, does.
    """

    fisher = FisherType.SAMPLED

    def __init__(self, deliver: OnSample, *, likelihood: Likelihood, generator: torch.Generator) -> None:
        super().__init__(deliver, Draws(generator))
        self.likelihood: Likelihood = likelihood
        self.generator = generator
        self.labels = EmpiricalSource(deliver)

    def opened(self, call: Call, edge: GradientEdge) -> None:
        """To be pulled back to at the end, unless that can't be."""
        if call.rerun:
            self._wait_for_labels(call, edge)
        else:
            super().opened(call, edge)

    def finished(self, output: Any) -> None:
        """One backward pass of our own; layers that the output does not depend on are noted."""
        super().finished(output)
        if output is None:
            self.labels.finished(None)
            return
        opened, self.open = self.open, []
        if not opened:
            return
        predictions = predictions_of(output)
        grads = sampled_gradient(self.likelihood, predictions, self.generator).to(predictions.dtype)
        found: set[str] = set()
        for (call, _), g in zip(opened, pull_each(predictions, grads, opened, self._wait_for_labels), strict=True):
            if g is not None:
                self.give(call, g)
                found.add(call.name)
            else:
                self.drop(call)
        self.unreached |= {call.name for call, _ in opened} - found - self.notes.keys()

    def kept(self, call: Call, gradient: Tensor) -> Tensor | None:
        """Behind reentrant checkpointing, g itself."""
        return self.labels.kept(call, gradient) if self.labels.awaits(call) else None

    def arrived(self, call: Call, gradient: Tensor | None) -> None:
        """Of a call behind reentrant checkpointing, the gradient itself is g."""
        super().arrived(call, gradient)
        self.labels.arrived(call, gradient)

    def forget_arrived(self) -> None:
        """The user has dropped the gradients so far."""
        super().forget_arrived()
        self.labels.forget_arrived()

    def forget_arrived_of(self, name: str) -> None:
        """The user has dropped the gradient of one layer."""
        super().forget_arrived_of(name)
        self.labels.forget_arrived_of(name)

    def forget_layers(self, names: Iterable[str]) -> None:
        """These layers are not watched any more."""
        super().forget_layers(names)
        self.labels.forget_layers(names)

    def discard(self) -> None:
        """A step has ended."""
        super().discard()
        self.labels.discard()

    def _wait_for_labels(self, call: Call, edge: GradientEdge) -> None:
        self.notes[call.name] = FROM_THE_DATA
        self.labels.opened(call, edge)


def predictions_of(output: Any) -> Tensor:
    """The tensor that labels are drawn from: the output itself, its `.logits`, `["logits"]`, or the first of a tuple.

    A tuple's scalars don't count: one of them is the loss.

    Raises:
        TypeError: there is none that depends on the model's weights.
    """
    found = find_predictions(output)
    if found is None:
        raise TypeError(
            f"the model's output, a {type(output).__name__}, holds no tensor to draw labels from: return the logits, "
            "an object with .logits, or use fisher='empirical' or 'layerwise'"
        )
    return found


def find_predictions(output: Any) -> Tensor | None:
    """As `predictions_of`; None if there is none."""
    if isinstance(output, dict):
        candidates: Iterable[Any] = [output.get("logits")]
    elif isinstance(output, tuple | list) and not hasattr(output, "logits"):
        candidates = [entry for entry in output if isinstance(entry, Tensor) and entry.dim()]
    else:
        candidates = [output if isinstance(output, Tensor) else getattr(output, "logits", None)]
    return next((found for found in candidates if isinstance(found, Tensor) and found.requires_grad), None)
