"""What is drawn: the noise ε of layer-wise sampling, and labels from the model's own distribution."""

from typing import Literal

import torch
from torch import Tensor

from lngd.types import AnyTensor

Noise = Literal["rademacher", "gaussian"]
Likelihood = Literal["categorical", "bernoulli", "gaussian"]
"""What the model's output parametrises: logits of classes, logits of yes or no, or the mean of a unit normal."""


def draw(noise: Noise, generator: torch.Generator, *, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> AnyTensor:
    """ε with E[ε εᵀ] = I, drawn on the generator's device.

    Only that second moment enters the Fisher matrix, so signs (Rademacher) do as well as the paper's Gaussian, and for an
    element-wise activation they give g² = φ'(s)² with no variance at all.
    """
    if noise == "gaussian":
        return torch.empty(shape, dtype=dtype, device=generator.device).normal_(generator=generator).to(device)
    return _signs(shape.numel(), generator).to(device, dtype).mul_(2).sub_(1).reshape(shape)


def sampled_gradient(likelihood: Likelihood, outputs: Tensor, generator: torch.Generator) -> Tensor:
    """−∇ log p(ŷ|outputs), ŷ drawn from the model: softmax(z) − onehot(ŷ), σ(z) − ŷ, or −ε.

    Classes are at `class_axis`. Never fails on a NaN: it comes back, and the step is skipped.

    Raises:
        ValueError: no dimension of classes, or one class only, whose gradient is zero.
    """
    outputs = outputs.detach().to(torch.promote_types(outputs.dtype, torch.float32))
    if likelihood == "gaussian":
        return draw("gaussian", generator, shape=outputs.shape, dtype=outputs.dtype, device=outputs.device)
    if likelihood == "bernoulli":
        p = outputs.sigmoid()
        return p - (_uniform(p, generator) < p).to(p.dtype)
    axis = class_axis(outputs)
    if outputs.dim() < 2 or outputs.shape[axis] < 2:
        raise ValueError(
            f"fisher=Sampled('categorical') needs two classes or more, the model's output has shape {tuple(outputs.shape)}: "
            "for yes-or-no logits give fisher=Sampled('bernoulli'), for regression fisher=Sampled('gaussian')"
        )
    gumbel = -_uniform(outputs, generator).log().neg().log()  # argmax(z + gumbel) is distributed as softmax(z)
    chosen = (outputs + gumbel).argmax(axis, keepdim=True)
    return outputs.softmax(axis).scatter_add(axis, chosen, -torch.ones_like(chosen, dtype=outputs.dtype))


def class_axis(outputs: Tensor) -> int:
    """The classes' dimension: the last of `[n, C]` and `[n, tokens, C]`, the second of `[n, C, height, width]` and beyond."""
    return 1 if outputs.dim() > 3 else -1


def _signs(n: int, generator: torch.Generator) -> Tensor:
    """n random bits, 64 from each draw: a twentieth of the time of n draws."""
    words = torch.empty(-(-n // 64), dtype=torch.int64, device=generator.device).random_(-(2**63), None, generator=generator)
    shifts = torch.arange(8, dtype=torch.uint8, device=generator.device).unsqueeze(1)
    return ((words.view(torch.uint8) >> shifts) & 1).flatten()[:n]


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """In (0, 1)."""
    u = torch.empty(like.shape, dtype=like.dtype, device=generator.device).uniform_(generator=generator)
    return u.clamp(min=torch.finfo(u.dtype).tiny).to(like.device)


WAITING = 8
"""So many forwards that wait for their backward pass have their end remembered."""


class Draws:
    """A generator that draws again what a forward has drawn for nothing.

    So a run is the same whatever forwards, attacks and batches that are dropped come between. Forwards whose backward passes are
    still to come share their numbers, which are independent of their samples.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self._step: Tensor | None = None
        """The generator's state where the step began to draw."""
        self._running = -1
        """The number of the last forward that began."""
        self._ends: dict[int, Tensor] = {}
        """The generator's state where forwards had ended."""
        self._counts: int | None = None
        """The last forward that was not for nothing."""

    def open(self) -> None:
        """Something may be drawn, be it in a part of the model that is called alone."""
        if self._step is None:
            self._step = self.generator.get_state()

    def begin(self, forward_id: int) -> None:
        """A forward begins."""
        if self._step is None:
            self.open()
        else:
            self._ends.setdefault(self._running, self.generator.get_state())
            if len(self._ends) >= WAITING:
                del self._ends[min(self._ends)]
            self.generator.set_state(self._go_on())
        self._running = forward_id

    def finish(self) -> None:
        """The running forward has drawn what it needs: what parts draw later that are called alone is not its own."""
        self._ends[self._running] = self.generator.get_state()

    def count(self, forward_id: int) -> None:
        """What this forward has drawn is used."""
        self._counts = max(self._counts or 0, forward_id)

    def drop(self) -> None:
        """What was drawn since the last step is not used, unless it will be."""
        self._counts = None

    def end(self) -> None:
        """A step has ended."""
        if self._step is not None:
            self.generator.set_state(self._go_on())
        self._step, self._counts = None, None
        self._ends.clear()

    def state(self) -> Tensor:
        """Where the step began to draw: a checkpoint holds no gradients and no measurements, so a run goes on from there."""
        return self.generator.get_state() if self._step is None else self._step

    def _go_on(self) -> Tensor:
        """The state behind the last forward that was not for nothing."""
        assert self._step is not None
        return self._step if self._counts is None else self._ends.get(self._counts, self.generator.get_state())
