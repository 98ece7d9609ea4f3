"""fisher="sampled": the gradient of labels drawn from the model itself (LNGD eq. 1)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from lngd.sampling.draws import Draws, Likelihood, class_axis, sampled_gradient
from lngd.sampling.empirical import EmpiricalSource
from lngd.sampling.fisher_type import FisherType
from lngd.sampling.pull import pull_each
from lngd.sampling.source import Call, OnSample, Source
from lngd.warned import warn

NO_PREDICTIONS = (
    "no labels can be drawn from the model's output ({reason}), so the curvature comes from the loss itself, as with "
    "fisher='empirical'; fisher=lngd.Sampled(likelihood, predictions=lambda output: …) says where labels are drawn"
)
OF_THE_LOSS = "labels of the data instead of drawn ones: {reason}"
FROM_THE_DATA = "labels of the data instead of drawn ones: reentrant checkpointing; use_reentrant=False draws them"


@dataclass(frozen=True)
class Sampled:
    """g = −∇ₛ log p(ŷ|x) with ŷ drawn from the model: F = E[g gᵀ] is the Fisher matrix itself (LNGD eq. 1).

    Args:
        likelihood: what the model's output holds: "categorical" (logits of classes), "bernoulli" (logits of yes or no) or
            "gaussian" (the mean of a unit normal, as in regression).
        predictions: finds the tensor that labels are drawn from in the model's output; None for the output itself, its
            `.logits`, `["logits"]`, or the first tensor of a tuple. Where there is none the loss's own gradient serves.
    """

    likelihood: Likelihood = "categorical"
    predictions: Callable[[Any], Tensor | None] | None = None
    type: ClassVar[FisherType] = FisherType.SAMPLED

    def __post_init__(self) -> None:
        if self.likelihood not in get_args(Likelihood):
            allowed = "'categorical', 'bernoulli' or 'gaussian'"
            raise ValueError(f"Sampled(likelihood={self.likelihood!r}) is out of range: likelihood must be {allowed}")

    def source(self, deliver: OnSample, generator: torch.Generator) -> "SampledSource":
        """What samples a model's layers in this way."""
        return SampledSource(deliver, likelihood=self.likelihood, generator=generator, predictions=self.predictions)


class SampledSource(Source):
    """Labels are drawn from the model's output, and their gradient is pulled back through the whole model.

    Behind reentrant checkpointing no pass of our own reaches a layer: the user's own backward, with the labels of the data, does.
    """

    fisher = FisherType.SAMPLED

    def __init__(
        self,
        deliver: OnSample,
        *,
        likelihood: Likelihood,
        generator: torch.Generator,
        predictions: Callable[[Any], Tensor | None] | None = None,
    ) -> None:
        super().__init__(deliver, Draws(generator))
        self.predictions, self._said = predictions or find_predictions, False
        self.likelihood: Likelihood = likelihood
        self.generator = generator
        self.labels = EmpiricalSource(deliver)

    def opened(self, call: Call, edge: GradientEdge) -> None:
        """To be pulled back to at the end, unless that can't be."""
        if call.rerun:
            self._wait_for_labels(call, edge, FROM_THE_DATA)
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
        predictions = self.predictions(output)
        if (reason := why_no_labels(self.likelihood, output, predictions)) or predictions is None:
            if not self._said:
                self._said = True
                warn(NO_PREDICTIONS.format(reason=reason))
            for call, edge in opened:
                self.drop(call)
                self._wait_for_labels(call, edge, OF_THE_LOSS.format(reason=reason))
            return
        grads = sampled_gradient(self.likelihood, predictions, self.generator).to(predictions.dtype)
        found: set[str] = set()
        behind = partial(self._wait_for_labels, note=FROM_THE_DATA)
        for (call, _), g in zip(opened, pull_each(predictions, grads, opened, behind), strict=True):
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

    def _wait_for_labels(self, call: Call, edge: GradientEdge, note: str) -> None:
        self.notes[call.name] = note
        self.labels.opened(call, edge)


def why_no_labels(likelihood: Likelihood, output: Any, predictions: Tensor | None) -> str | None:
    """Why none can be drawn; None if they can."""
    if predictions is None:
        return f"a {type(output).__name__} without logits"
    if likelihood == "categorical" and (predictions.dim() < 2 or predictions.shape[class_axis(predictions)] < 2):
        return f"of shape {tuple(predictions.shape)}, which is of no two classes"
    return None


def find_predictions(output: Any) -> Tensor | None:
    """The tensor that labels are drawn from: the output itself, its `.logits`, `["logits"]`, or the first of a tuple.

    A tuple's scalars don't count: one of them is the loss. None if there is none that depends on the model's weights.
    """
    if isinstance(output, dict):
        candidates: Iterable[Any] = [output.get("logits")]
    elif isinstance(output, tuple | list) and not hasattr(output, "logits"):
        candidates = [entry for entry in output if isinstance(entry, Tensor) and entry.dim()]
    else:
        candidates = [output if isinstance(output, Tensor) else getattr(output, "logits", None)]
    return next((found for found in candidates if isinstance(found, Tensor) and found.requires_grad), None)
