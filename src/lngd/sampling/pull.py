"""Backward passes of our own: they bring vectors back to a layer's pre-activation, and nobody who watches the graph may see them.

Who watches: the hooks of every optimizer on the model, in whatever thread autograd runs them, the hooks of a forward that
activation checkpointing runs again for such a pass, and running averages that this forward would change a second time. All of
them ask `pulling()`. The mark belongs to the thread that pulls and to the passes that it starts, so another model's training
in another thread sees nothing of it; autograd takes it along to the thread of a GPU.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from lngd.torch_private import mark, marked

MARK = "lngd: a backward pass of our own"
REENTRANT = "use_reentrant"
"""What torch's error says where reentrant activation checkpointing lies on the way."""
C = TypeVar("C")

pulling: Callable[[], bool] = partial(marked, MARK)
"""Whether what runs here belongs to a backward pass of our own, whichever optimizer's."""


@contextmanager
def alone() -> Iterator[None]:
    """What runs inside, a checkpointed forward among it, is no forward or backward of the user."""
    if pulling():
        yield
        return
    mark(MARK, True)
    try:
        yield
    finally:
        mark(MARK)


def pull_back(outputs: Tensor | GradientEdge, grads: Tensor, edges: Sequence[GradientEdge]) -> tuple[Tensor | None, ...]:
    """Jᵀ·grads at each edge, None where nothing leads to; the graph and the `.grad` of every parameter stay as they are.

    Hooks that a user has put on tensors inside the graph, `retain_grad` among them, do see this pass.
    """
    with alone():
        return torch.autograd.grad(outputs, edges, grads, retain_graph=True, allow_unused=True)


def pull_each(
    outputs: Tensor, grads: Tensor, opened: Sequence[tuple[C, GradientEdge]], instead: Callable[[C, GradientEdge], Tensor | None]
) -> Sequence[Tensor | None]:
    """`pull_back` to the edges of some calls, and `instead` for those that only reentrant activation checkpointing leads to."""

    def pulled(edges: list[GradientEdge]) -> Sequence[Tensor | None] | None:
        try:
            return pull_back(outputs, grads, edges)
        except RuntimeError as error:
            if REENTRANT not in str(error):
                raise
            return None

    def alone_or_instead(call: C, edge: GradientEdge) -> Tensor | None:
        found = pulled([edge])
        return instead(call, edge) if found is None else found[0]

    together = pulled([edge for _, edge in opened])
    return [alone_or_instead(*each) for each in opened] if together is None else together
