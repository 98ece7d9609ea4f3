"""What has to hold before a step may change anything, without waiting for the device: finite gradients, at a known scale.

A step that may not be taken is skipped whole: no weight, average or statistic moves.
"""

import warnings
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lngd.fisher import FisherType
from lngd.linalg import all_finite, readable
from lngd.types import Flag, Scalar

WITNESSED = 256
"""Entries of one parameter's gradient that are remembered."""


@dataclass
class Guard:
    """Of one step. `accept`: whether it is taken; `squared_scale`: the square of `GradientScale.since`, None for 1."""

    accept: Flag
    squared_scale: Scalar | None

    @property
    def readable(self) -> bool:
        """Whether the flag lies in the host's own memory, so that reading it waits for nothing."""
        return readable(self.accept)

    @property
    def refused(self) -> bool:
        """Whether the step is known to be skipped; on a device nobody knows, and the flag works there."""
        return self.readable and not self.accept

    def kept(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """The tensors, or zeros where the step is skipped."""
        return tensors if self.readable else [torch.where(self.accept.to(t.device, non_blocking=True), t, 0.0) for t in tensors]

    def of_squares(self, device: torch.device) -> Scalar | float:
        """What a square of back-propagated gradients has to be multiplied with."""
        return 1.0 if self.squared_scale is None else self.squared_scale.to(device, non_blocking=True)


class GradientScale:
    """What all gradients were multiplied with between the user's backward pass and the step.

    torch.amp.GradScaler divides them by the loss scale, clipping by norm shortens them, pipeline schedules and loops that count tokens
    divide them by a number of samples. What the backward pass brought to the hooks, samples of the rate and of the empirical Fisher
    matrix, has not seen that. So a few entries of one parameter's gradient are remembered as they are accumulated, and compared.
    """

    def __init__(self) -> None:
        self._then: dict[nn.Parameter, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        weakref.finalize(self, remove_all, self._handles).atexit = False

    def watch(self, parameters: Sequence[nn.Parameter]) -> None:
        """Looks at a small one in each half of these, from now on."""
        remove_all(self._handles)
        halves = parameters[: len(parameters) // 2], parameters[len(parameters) // 2 :]
        witnesses = [min(half, key=Tensor.numel) for half in halves if half]
        self._handles += [p.register_post_accumulate_grad_hook(Remember(self)) for p in witnesses]

    def remember(self, p: nn.Parameter) -> None:
        """A gradient has been accumulated."""
        if p.grad is not None and not p.grad.is_sparse:
            self._then[p] = p.grad.detach().reshape(-1)[:WITNESSED].clone()

    def squared(self) -> Scalar | None:
        """(⟨now, then⟩ / ⟨then, then⟩)²; None where nothing was remembered or nobody touched the gradients since."""
        pairs = [(p.grad.reshape(-1)[:WITNESSED], then) for p, then in self._then.items() if p.grad is not None]
        if not pairs or all(readable(now) and torch.equal(now, then) for now, then in pairs):
            return None
        device = pairs[0][0].device
        now, then = (torch.cat([t.to(device, non_blocking=True, dtype=torch.float32) for t in side]) for side in zip(*pairs, strict=True))
        largest = then.abs().amax().clamp(min=torch.finfo(then.dtype).tiny)
        now, then = now / largest, then / largest
        share = torch.dot(now, then) / torch.dot(then, then)
        return torch.where(share.isfinite(), share, 1.0).square()

    def forget(self) -> None:
        """A step has ended."""
        self._then.clear()

    def close(self) -> None:
        """Takes the hooks off."""
        remove_all(self._handles)
        self._then.clear()


class Remember:
    """A hook that keeps nobody alive; a copy of the model carries one that does nothing."""

    def __init__(self, scale: GradientScale | None) -> None:
        self.scale = None if scale is None else weakref.ref(scale)

    def __call__(self, p: nn.Parameter) -> None:
        scale = self.scale and self.scale()
        if scale is not None:
            scale.remember(p)

    def __reduce__(self) -> tuple[type["Remember"], tuple[None]]:
        return Remember, (None,)


class SkipCounter:
    """Counts skipped steps. The count lives on the device; a host copy follows without synchronisation and serves one warning."""

    def __init__(self, before: int = 0) -> None:
        self._count: Tensor | None = None
        self._before = before
        self._seen = torch.zeros((), dtype=torch.int64)  # pinned once the count is on a GPU: other host memory is waited for
        self._warned = False

    def add(self, accept: Flag) -> None:
        """Counts a step that was not accepted."""
        if readable(accept) and accept:
            return
        rejected = accept.logical_not().to(torch.int64)
        if self._count is None and rejected.is_cuda:
            self._seen = self._seen.pin_memory()
        self._count = rejected if self._count is None else self._count + rejected
        self._seen.copy_(self._count, non_blocking=True)
        if self._seen and not self._warned:
            self._warned = True
            warnings.warn(
                "a gradient or a statistic was not finite: that step was skipped, weights and averages are untouched; "
                "optimizer.stats()['skipped'] counts such steps",
                stacklevel=6,
            )

    def count(self) -> int:
        """Skipped steps so far; waits for the device."""
        return self._before + (0 if self._count is None else int(self._count))


def finite(grads: Sequence[Tensor]) -> Flag:
    """Whether every gradient is finite; the answer stays on the device."""
    norms = torch._foreach_norm(list(grads)) if readable(grads[0]) else None
    if norms is not None and torch.stack(norms).isfinite().all():
        return torch.ones((), dtype=torch.bool)  # the sum of squares is finite, so is every entry
    return all_finite(list(grads))


def refuse_no_gradient(grads: Sequence[Tensor]) -> None:
    """Raises RuntimeError for a step before any backward pass."""
    if not grads:
        raise RuntimeError("step() before any backward: no parameter has a gradient; call loss.backward() first")


def refuse_sparse_gradients(named: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Raises RuntimeError for a sparse gradient: AdamW has no step for it either."""
    for name, p in named:
        if p.grad is not None and p.grad.is_sparse:
            raise RuntimeError(
                f"parameter '{name}' has a sparse gradient, which AdamW can't use: build its module with sparse=False"
            )


def refuse_parts_of_a_model(fisher: FisherType, waiting: bool) -> None:
    """Labels are drawn when the model's own forward ends; a loop that calls its parts would never measure anything."""
    if fisher is FisherType.SAMPLED and waiting:
        raise RuntimeError(
            "no output of the model was seen to draw labels from: call model(x) as a whole, in training mode and with gradients, "
            "or use fisher='empirical'"
        )


def remove_all(handles: list[RemovableHandle]) -> None:
    """Takes hooks off."""
    for handle in handles:
        handle.remove()
    handles.clear()
