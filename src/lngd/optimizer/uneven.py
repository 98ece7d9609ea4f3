"""Processes with unequal numbers of batches, under torch's `Join`: one whose data has ended takes the others' steps with them.

DistributedDataParallel's join hook adds zeros to the others' gradients and drops the sum. An optimizer whose steps have
collectives of their own can't be left out: the process is given the gradients of one that has data, and does what that does.
"""

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.join import JoinHook

from lngd.optimizer.ranks import Ranks
from lngd.torch_private import active_wrapper, joining

Groups: TypeAlias = Sequence[dict[str, Any]]
Shared: TypeAlias = tuple[int, Any, bool]
ANY = object()
"""Stands for the Join that has ended just now, in a process that saw no forward in it: the model's wrapper goes on naming it."""
WITHOUT_THE_OPTIMIZER = (
    "Join has the model and not the optimizer, whose steps the processes take together: write `with Join([model, optimizer]):`"
)
WITHOUT_A_STEP = "no_sync() under Join: a process whose data has ended can't know after which backward passes a step comes"


class StepsAlong(JoinHook):
    """What a process without data does while others have some.

    Args:
        step: of its optimizer.
        finish: told at the end whether this process had data to the last.
    """

    def __init__(self, step: Callable[[], None], finish: Callable[[bool], None]) -> None:
        self._step, self._finish = step, finish

    def main_hook(self) -> None:
        """One step, together with those that still have data."""
        self._step()

    def post_hook(self, is_last_joiner: bool) -> None:
        """A scheduler may have changed the rates after the last step."""
        self._finish(is_last_joiner)


def refuse_other_joins(optimizer: "weakref.ref[Any]") -> None:
    """Raises RuntimeError in a forward pass under a Join in which a process would wait for one that does not come."""
    wrapper, found = active_wrapper(), optimizer()
    if wrapper is None or found is None or (now := joining(wrapper)) is None:
        return
    if joining(found) is None and now is not found.joined and found.joined is not ANY:
        raise RuntimeError(WITHOUT_THE_OPTIMIZER)
    if joining(found) is not None and not wrapper.require_backward_grad_sync:
        raise RuntimeError(WITHOUT_A_STEP)
    found.joined = now


def share_options(groups: Groups, options: Iterable[str], ranks: Ranks, *, joined: bool, besides: Any = None) -> Shared:
    """Gives processes whose data has ended what the groups of one that has some say.

    Args:
        groups: of the optimizer.
        options: the names of what a scheduler may change.
        ranks: the processes.
        joined: whether this one's data has ended.
        besides: what else that process has to tell.

    Returns:
        The place of the process that was followed, what else it had to tell, and whether any process's data has ended.
    """
    chosen = [{name: group[name] for name in options if name in group} for group in groups]
    everybody = ranks.gather(None if joined else (chosen, besides), "who has data left")
    source = next(rank for rank, theirs in enumerate(everybody) if theirs is not None)
    chosen, besides = everybody[source]
    if joined:
        for group, theirs in zip(groups, chosen, strict=True):
            for name, value in theirs.items():
                if isinstance(group[name], Tensor):
                    group[name].copy_(value)
                else:
                    group[name] = value
    return source, besides, None in everybody


def share_gradients(groups: Groups, options: Iterable[str], ranks: Ranks, *, joined: bool) -> None:
    """Gives processes whose data has ended the gradients, and the groups' options, of one that has some; as above."""
    parameters: list[nn.Parameter] = [p for group in groups for p in group["params"]]
    places = [k for k, p in enumerate(parameters) if p.grad is not None]
    source, places, uneven = share_options(groups, options, ranks, joined=joined, besides=places)
    if not uneven:
        return
    if joined:
        for k, p in enumerate(parameters):
            p.grad = torch.zeros_like(p) if k in places else None
    grads = [grad for k in places if (grad := parameters[k].grad) is not None]
    for kind in dict.fromkeys((grad.dtype, grad.device) for grad in grads):
        alike = [grad for grad in grads if (grad.dtype, grad.device) == kind]
        received = ranks.broadcast(torch.cat([grad.detach().reshape(-1) for grad in alike]), source, "gradients")
        if joined:
            for grad, part in zip(alike, received.split([grad.numel() for grad in alike]), strict=True):
                grad.copy_(part.view(grad.shape))
