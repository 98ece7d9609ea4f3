"""One schedule for all competitors: linear warm-up over the first twentieth of the steps, then linear decay to zero."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

WARMUP_SHARE = 0.05


def multiplier(step: int, total: int) -> float:
    """What the rate is multiplied by at a step counted from zero; positive before `total`, zero from there on."""
    warmup = max(1, round(WARMUP_SHARE * total))
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (total - step) / max(1, total - warmup))


def linear_schedule(optimizer: Optimizer, total: int) -> LambdaLR:
    """The same multiplier for every param group, so groups keep the proportion of their rates."""
    return LambdaLR(optimizer, lambda step: multiplier(step, total))
