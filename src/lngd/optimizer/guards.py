"""What has to hold before a step may change anything, without waiting for the device.

The model is as it was planned, the gradients are finite and at a known scale.

A step that may not be taken is skipped whole: no weight, average or statistic moves.
"""

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lngd.capture import GradientHook
from lngd.linalg import HOST
from lngd.optimizer.ranks import several_processes
from lngd.optimizer.shards import here
from lngd.sampling import FisherType
from lngd.torch_private import foreach_norm, when_backward_ends
from lngd.types import Flag, Scalar
from lngd.warned import warn

Place: TypeAlias = tuple[torch.device, torch.dtype, torch.Size]
WITNESSED = 256
"""Entries of one parameter's gradient that are remembered."""
INITIAL, GROWTH_INTERVAL = 2.0**16, 2000
"""torch.amp.GradScaler's defaults: its first scale, and after how many good steps it doubles it."""
LEAST_CLIPPING = 2.0**-10
"""Below this a factor is no clipping."""


@dataclass
class Structure:
    """The model as the plan saw it: its modules, its parameters, and of each that is trained device, dtype and shape."""

    modules: list[tuple[dict[str, nn.Module | None], tuple[nn.Module | None, ...], dict[str, nn.Parameter | None], int]] = field(
        default_factory=list
    )
    """Of each module the modules in it, and how many parameters it holds."""
    parameters: list[tuple[dict[str, nn.Parameter | None], str, nn.Parameter | None, Place | None]] = field(default_factory=list)

    @classmethod
    def of(cls, model: nn.Module) -> "Structure":
        """As it is now."""
        seen = cls()
        for module in model.modules():
            children, parameters = module._modules, module._parameters
            if isinstance(module, torch.jit.ScriptModule):  # it makes what is no dictionary, anew whenever it is asked
                children, parameters = dict(children.items()), dict(parameters.items())
            seen.modules.append((children, tuple(children.values()), parameters, len(parameters)))
            for key, p in parameters.items():
                trained = (p.device, p.dtype, p.shape) if p is not None and p.requires_grad else None
                seen.parameters.append((parameters, key, p, trained))
        return seen

    def still_holds(self) -> bool:
        """Whether nothing was added, removed, replaced, frozen or unfrozen since; microseconds, so that each step can ask."""
        for children, seen, parameters, count in self.modules:
            if tuple(children.values()) != seen or len(parameters) != count:
                return False
        for parameters, key, p, trained in self.parameters:
            now = parameters.get(key)
            if now is None or not now.requires_grad:
                if trained is not None:
                    return False  # frozen ones may be renewed as often as their module likes (PEFT does)
            elif now is not p or (now.device, now.dtype, now.shape) != trained:
                return False
        return True


@dataclass
class Guard:
    """Of one step. `accept`: whether it is taken; `squared_scale`: what `GradientScale.of_squares` gave."""

    accept: Flag
    squared_scale: Scalar | None

    def __post_init__(self) -> None:
        self.readable = self.accept.device.type in HOST
        """Whether the flag lies in the host's own memory, so that reading it waits for nothing."""

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
    """The loss scale: what torch.amp.GradScaler multiplied the loss with, and divided the gradients by before the step.

    What the backward pass brought to the hooks, samples of the rate and of the empirical Fisher matrix, is still multiplied with
    it, and torch tells it to no optimizer whose gradients it has unscaled. So a few entries of two parameters' gradients are
    remembered as they are accumulated. Their ratio to what the step finds is 1/scale, a power of two, which no other number looks
    like; or c/scale with a factor c ≤ 1 of clipping. Clipping is no loss scale: it is meant to shorten the step. Where every step
    is clipped, the scale is taken for what GradScaler starts with and then does by default. Whoever knows it sets
    `optimizer.grad_scale`.
    """

    def __init__(self) -> None:
        self._then: dict[nn.Parameter, Tensor] = {}
        self._hooks = ExitStack()
        weakref.finalize(self, self._hooks.close).atexit = False
        self._scale, self._steps = torch.ones(()), 0

    def watch(self, parameters: Sequence[nn.Parameter]) -> None:
        """Looks at a small one in each half of these, from now on."""
        self._hooks.close()
        halves = parameters[: len(parameters) // 2], parameters[len(parameters) // 2 :]
        witnesses = [min(half, key=Tensor.numel) for half in halves if half]
        for p in witnesses:
            self._hooks.enter_context(p.register_post_accumulate_grad_hook(GradientHook(self, "remember")))

    def remember(self, p: nn.Parameter) -> None:
        """A gradient has been accumulated; where several processes average it, that is done at the end of the backward pass."""
        if several_processes():  # the end of the end: DistributedDataParallel asks to be called there, too
            when_backward_ends(lambda: when_backward_ends(partial(self._remember, p)))
        else:
            self._remember(p)

    def _remember(self, p: nn.Parameter) -> None:
        if p.grad is not None and not p.grad.is_sparse:
            self._then[p] = here(p.grad.detach()).reshape(-1)[:WITNESSED].clone()

    def of_squares(self, told: Tensor | float | None, together: Callable[[Tensor], Tensor] | None = None) -> Scalar | None:
        """1/scale²; None where nobody touched the gradients since they came.

        Args:
            told: the scale, if the user knows it.
            together: sums over the processes that hold parts of the gradients; None where each holds all.
        """
        if told is not None:
            self._scale = torch.as_tensor(told, dtype=torch.float32).reshape(())
            return self._scale.reciprocal().square()
        pairs, touched = [], False
        for p, then in self._then.items():
            if p.grad is not None:
                now = here(p.grad).reshape(-1)[:WITNESSED]
                pairs.append((now, then))
                touched = touched or now.device.type not in HOST or not torch.equal(now, then)
        if together is None and not touched:
            return None
        device = pairs[0][0].device if pairs else self._scale.device
        wide = torch.float32 if device.type == "mps" else torch.float64  # where squares have room
        now, then = (
            torch.cat([t.to(device, wide, non_blocking=True) for t in side]) if pairs else torch.zeros(0, dtype=wide)
            for side in (list(zip(*pairs, strict=True)) or ((), ()))
        )
        found = torch.stack([torch.dot(now, then), torch.dot(then, then), then.new_tensor(float(touched))])
        if together is not None and not (found := together(found))[2]:
            return None
        share = (found[0] / found[1]).float()
        self._scale = self._consistent(share, self._scale.to(device, non_blocking=True))
        return self._scale.reciprocal().square()

    def _consistent(self, share: Scalar, before: Scalar) -> Scalar:
        """The scale that explains what share of the accumulated gradients the step finds."""
        mantissa, exponent = torch.frexp(share)
        power = torch.ldexp(torch.ones_like(share), 1 - exponent)  # of two; share · power is in [1, 2)
        guess = torch.where(share * INITIAL <= 1, INITIAL, power / 2)
        assumed = torch.where(before > 1, before, torch.where(share < LEAST_CLIPPING, guess, 1.0))
        scale = torch.where(mantissa == 0.5, power, assumed)
        self._steps += 1
        if self._steps % GROWTH_INTERVAL == 0:
            scale = torch.where((scale > 1) & (mantissa != 0.5), 2 * scale, scale)
        return torch.where(share.isfinite() & (share > 0), scale, before)

    def overflowed(self) -> None:
        """Gradients that no step has used are being dropped, if there are any: GradScaler then halves its scale."""
        if self._then:
            self._scale, self._steps = torch.where(self._scale > 1, self._scale / 2, self._scale), 0
            self._then.clear()

    def forget(self) -> None:
        """A step has ended."""
        self._then.clear()

    def close(self) -> None:
        """Takes the hooks off."""
        self._hooks.close()
        self._then.clear()

    def memory(self) -> dict[str, float]:
        """What a checkpoint has to know; waits for the device."""
        return {"loss_scale": float(self._scale), "since_growth": self._steps}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Takes what `memory` gave."""
        self._scale, self._steps = torch.tensor(float(memory["loss_scale"])), int(memory["since_growth"])


def lr_of(group: Mapping[str, Any]) -> float | Tensor:
    """A group's lr, as a number where reading it waits for nothing."""
    lr: float | Tensor = group["lr"]
    return float(lr) if isinstance(lr, Tensor) and lr.device.type in HOST else lr


class SkipCounter:
    """Counts skipped steps. The count lives on the device; a host copy follows without synchronisation and serves one warning."""

    def __init__(self, before: int = 0) -> None:
        self._count: Tensor | None = None
        self._before = before
        self._seen = torch.zeros((), dtype=torch.int64)  # pinned once the count is on a GPU: other host memory is waited for
        self._warned = False

    def add(self, accept: Flag) -> None:
        """Counts a step that was not accepted."""
        if accept.device.type in HOST and accept:
            return
        rejected = accept.logical_not().to(torch.int64)
        if self._count is None and rejected.is_cuda:
            self._seen = self._seen.pin_memory()
        self._count = rejected if self._count is None else self._count + rejected
        self._seen.copy_(self._count, non_blocking=True)
        if self._seen and not self._warned:
            self._warned = True
            warn(
                "a gradient or a statistic was not finite: that step was skipped, weights and averages are untouched; "
                "optimizer.stats()['skipped'] counts such steps",
            )

    def count(self) -> int:
        """Skipped steps so far; waits for the device."""
        return self._before + (0 if self._count is None else int(self._count))


@contextmanager
def outside_autocast(devices: Iterable[str]) -> Iterator[None]:
    """Full precision for matrix products, where `step()` is called inside the user's autocast region."""
    with ExitStack() as regions:
        for device in devices:
            if torch.is_autocast_enabled(device):
                regions.enter_context(torch.autocast(device, enabled=False))
        yield


def all_finite(tensors: Sequence[Tensor]) -> Flag:
    """Whether no tensor holds a NaN or an infinity; one pass, and the answer stays on the device.

    The largest magnitude is finite exactly if every entry is, and unlike a sum of squares it cannot overflow. Where reading
    waits for nothing the faster sum of squares is asked first: if it is finite, so is every entry.
    """
    if {t.device.type for t in tensors} <= HOST and (finite := torch.stack(foreach_norm(list(tensors))).isfinite().all()):
        return finite
    largest = largest_magnitude(tensors)
    device = largest[0].device
    return torch.stack([value.isfinite().to(device) for value in largest]).all()


def largest_magnitude(tensors: Sequence[Tensor]) -> list[Scalar]:
    """max |x| of each tensor, NaN if it holds one.

    torch's norm of order infinity takes twenty times as long as its extrema on the CPU, and is one kernel for all elsewhere.
    """
    filled = [t if t.numel() else t.new_zeros(1) for t in tensors]
    if any(t.device.type != "cpu" for t in filled):
        return list(foreach_norm(filled, ord=math.inf))
    extrema = (torch.aminmax(t) for t in filled)
    return [torch.maximum(high, -low) for low, high in extrema]


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
            "no output of the model was seen to draw labels from: call model(x) as a whole, with gradients enabled, "
            "or use fisher='empirical'"
        )
