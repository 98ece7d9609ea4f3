"""Which part of a model's output parametrises the distribution that labels are drawn from."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor


def predictions_of(output: Any) -> Tensor:
    """The tensor that labels are drawn from: the output itself, its `.logits`, `["logits"]`, or the first of a tuple.

    A tuple's scalars don't count: one of them is the loss.

    Raises:
        TypeError: there is none that depends on the model's weights.
    """
    if isinstance(output, dict):
        candidates: Iterable[Any] = [output.get("logits")]
    elif isinstance(output, tuple | list) and not hasattr(output, "logits"):
        candidates = [entry for entry in output if isinstance(entry, Tensor) and entry.dim()]
    else:
        candidates = [output if isinstance(output, Tensor) else getattr(output, "logits", None)]
    for found in candidates:
        if isinstance(found, Tensor) and found.requires_grad:
            return found
    raise TypeError(
        f"the model's output, a {type(output).__name__}, holds no tensor to draw labels from: return the logits, "
        "an object with .logits, or use fisher=FisherType.EMPIRICAL or LAYERWISE"
    )
