"""Ways to drive an optimizer that would give wrong numbers without anybody noticing: an error instead."""

from collections.abc import Collection

import torch

from lngd.curvature import CurvatureBlock
from lngd.fisher import FisherType


def refuse_gradient_scaling(optimizer: torch.optim.Optimizer) -> None:
    """Gradients inside the graph stay scaled by a factor that the optimizer is not told: α_l would be wrong by its square."""
    if getattr(optimizer, "found_inf", None) is not None:
        raise RuntimeError("torch.amp.GradScaler is not supported: use autocast with bfloat16, which needs no scaling")


def refuse_parts_of_a_model(fisher: FisherType, called: set[str], blocks: Collection[CurvatureBlock]) -> None:
    """Labels are drawn when the model's own forward ends; a loop that calls its parts would never measure anything."""
    if fisher is FisherType.SAMPLED and called and blocks and not any(block.measured for block in blocks):
        raise RuntimeError(
            "no output of the model was seen to draw labels from: call model(x) as a whole, in training mode and with gradients, "
            "or use fisher=FisherType.EMPIRICAL"
        )
