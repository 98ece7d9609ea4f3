"""Muon for whole networks.

`torch.optim.Muon` takes matrices only: convolutions are shown to it as matrices, and what is no matrix goes to AdamW.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)


class MuonWithAdamW(Optimizer):
    """Hidden weights by Muon, everything else by AdamW at the same rate.

    Muon's steps are scaled to AdamW's RMS, which is what makes one rate fit both. As its author advises, the first and
    the last layer, embeddings, biases and norms are AdamW's. Both optimizers' param groups are this one's, so a
    scheduler drives both.
    """

    def __init__(self, model: nn.Module, *, lr: float, weight_decay: float = 0.0) -> None:
        trainable = [p for p in model.parameters() if p.requires_grad]
        super().__init__(trainable, {"lr": lr, "weight_decay": weight_decay})
        hidden = hidden_weights(model)
        taken = {id(weight) for weight in hidden}
        rest = [p for p in trainable if id(p) not in taken]
        self.matrices = [(weight, _as_matrix(weight)) for weight in hidden]
        self.inner: list[Optimizer] = [AdamW(rest, lr, weight_decay=weight_decay)]
        if hidden:
            views = [view for _, view in self.matrices]
            self.inner.append(Muon(views, lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
        self.trainable = trainable
        self._share_groups()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for weight, view in self.matrices:
            view.grad = None if weight.grad is None else weight.grad.flatten(1)
        for optimizer in self.inner:
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Both optimizers' own: moments and param groups live there."""
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


def hidden_weights(model: nn.Module) -> list[Tensor]:
    """Linear and convolutional weights but the first and the last layer's; embeddings count as layers here."""
    layers = [module for module in model.modules() if isinstance(module, WEIGHTED)]
    return [layer.weight for layer in layers[1:-1] if not isinstance(layer, nn.Embedding) and layer.weight.requires_grad]


def _as_matrix(weight: Tensor) -> nn.Parameter:
    """`[o, i, k, k]` as `[o, i·k·k]` on the same storage: a step on the view is a step on the weight."""
    return nn.Parameter(weight.detach().view(len(weight), -1))
