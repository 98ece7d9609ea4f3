"""Optimizers that train one model together, seen as one by its schedule, its checkpoint and its training loop."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer


class Joined(Optimizer):
    """Each inner optimizer has some of the parameters; their param groups are this one's, so a scheduler drives all."""

    def __init__(self, trainable: list[nn.Parameter], inner: Sequence[Optimizer]) -> None:
        super().__init__(trainable, {})
        self.trainable, self.inner = trainable, list(inner)
        self._share_groups()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for optimizer in self.inner:
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizers' own: moments and param groups live there."""
        return {"inner": [optimizer.state_dict() for optimizer in self.inner]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for optimizer, state in zip(self.inner, state_dict["inner"], strict=True):
            optimizer.load_state_dict(state)
        self._share_groups()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.trainable:
            parameter.grad = None if set_to_none or parameter.grad is None else parameter.grad.zero_()

    def _share_groups(self) -> None:
        self.param_groups = [group for optimizer in self.inner for group in optimizer.param_groups]


def trainable_of(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def adamw_for_the_rest(trainable: Sequence[Tensor], taken: Sequence[Tensor], lr: float, weight_decay: float) -> list[Optimizer]:
    """AdamW for what nobody has taken, or nothing where that is nothing."""
    known = {id(p) for p in taken}
    rest = [p for p in trainable if id(p) not in known]
    return [AdamW(rest, lr, weight_decay=weight_decay)] if rest else []
