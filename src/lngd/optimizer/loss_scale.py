"""torch.amp.GradScaler: by how much the loss was multiplied, and whether that overflowed.

Statistics of layer-wise and model samples come from the forward pass and know nothing of it. What the user's backward pass brings
is scaled: the gradients, the samples of the learning rate and those of the empirical Fisher, the latter two quadratically.
"""

import inspect
from dataclasses import dataclass

import torch
from torch import Tensor

from lngd.types import Flag, Scalar

FRAMES = 12
"""How far up the stack `GradScaler.step` is looked for: it calls the optimizer through a few wrappers."""


@dataclass(frozen=True)
class LossScale:
    """Of one step. `scale`: None if nothing was scaled; `overflow`: whether a gradient was not finite, None if nobody looked."""

    scale: Scalar | None = None
    overflow: Flag | None = None

    def of_squares(self, device: torch.device) -> Scalar | float:
        """What a square of back-propagated gradients has to be multiplied with."""
        return 1.0 if self.scale is None else self.scale.to(device, non_blocking=True).reciprocal().square()

    def accept(self, flag: Flag) -> Flag:
        """The flag, unless the scaler found an overflow."""
        return flag if self.overflow is None else flag & self.overflow.logical_not().to(flag.device, non_blocking=True)


def unscaled(optimizer: torch.optim.Optimizer, grads: list[Tensor]) -> LossScale:
    """Divides the gradients by the scale, in place, unless `scaler.unscale_` has done so; says what the scale is."""
    found_inf: Tensor | None = getattr(optimizer, "found_inf", None)
    if found_inf is None:
        return LossScale()
    scale: Tensor | None = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return LossScale(_scale_of_the_caller(found_inf), found_inf > 0)
    share = scale.reciprocal()
    for grad in grads:
        grad.mul_(share.to(grad.device, non_blocking=True))
    return LossScale(scale, found_inf > 0)


def _scale_of_the_caller(like: Tensor) -> Scalar:
    """The scale of a scaler whose `unscale_` ran before its `step`: torch hands it to no optimizer, but the scaler is our caller.

    Raises:
        RuntimeError: it is not.
    """
    frame = inspect.currentframe()
    for _ in range(FRAMES):
        caller = None if frame is None else frame.f_locals.get("self")
        if isinstance(caller, torch.amp.GradScaler):
            return torch.as_tensor(caller.scale(like.new_ones(())))
        frame = None if frame is None else frame.f_back
    raise RuntimeError("found_inf is set, but no torch.amp.GradScaler calls step(): set optimizer.grad_scale too")
