"""Ways to drive an optimizer that would give wrong numbers without anybody noticing: an error instead."""

from torch import Tensor, nn

from lngd.sampling import FisherType


def refuse_parts_of_a_model(fisher: FisherType, waiting: bool) -> None:
    """Labels are drawn when the model's own forward ends; a loop that calls its parts would never measure anything."""
    if fisher is FisherType.SAMPLED and waiting:
        raise RuntimeError(
            "no output of the model was seen to draw labels from: call model(x) as a whole, in training mode and with gradients, "
            "or use fisher=FisherType.EMPIRICAL"
        )


def refuse_sparse_gradients(model: nn.Module, grads: list[Tensor]) -> None:
    """AdamW has no step for them either."""
    if not any(grad.is_sparse for grad in grads):
        return
    for name, p in model.named_parameters():
        if p.grad is not None and p.grad.is_sparse:
            raise RuntimeError(
                f"parameter '{name}' has a sparse gradient, which AdamW can't use: build its module with sparse=False"
            )
