"""Muon for whole networks.

`torch.optim.Muon` takes matrices only: convolutions are shown to it as matrices, and what is no matrix goes to AdamW.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Muon

from lngd_bench.competitors.joined import Joined, adamw_for_the_rest, trainable_of

RMS_OF_ADAMW = 0.2  # what `match_rms_adamw` scales a step to
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)


class Float32Muon(Muon):
    """torch's Muon with its Newton–Schulz iteration in the weights' own dtype.

    torch's casts to bfloat16, which costs a CPU without such arithmetic several times the float32 product.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group)
        return loss

    def _move(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        direction = self._direction(weight, gradient, group)
        self._decay(weight, direction, group)
        weight.add_(direction, alpha=-group["lr"] * RMS_OF_ADAMW * max(weight.shape) ** 0.5)

    def _direction(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        """Of the Frobenius norm √min(o, i), about; the step adds what makes its RMS AdamW's."""
        momentum = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
        momentum.lerp_(gradient, 1 - group["momentum"])
        smoothed = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        return orthogonalised(smoothed, group["ns_coefficients"], group["ns_steps"], group["eps"])

    def _decay(self, weight: Tensor, direction: Tensor, group: dict[str, Any]) -> None:
        """Before the step, which goes against `direction`."""
        weight.mul_(1 - group["lr"] * group["weight_decay"])


def orthogonalised(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """About the polar factor, by the quintic Newton–Schulz iteration X ← aX + (bXXᵀ + c(XXᵀ)²)X from X = M/‖M‖."""
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix) / matrix.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class MuonWithAdamW(Joined):
    """Hidden weights by Muon, everything else by AdamW at `rest` times the rate.

    Muon's steps are scaled to AdamW's RMS, which is what makes one rate fit both. As its author advises, the first and
    the last layer, embeddings, biases and norms are AdamW's.
    """

    def __init__(
        self, model: nn.Module, lr: float, weight_decay: float = 0.0, *, muon: type[Muon] = Muon, rest: float = 1.0
    ) -> None:
        trainable = trainable_of(model)
        hidden = hidden_weights(model)
        self.matrices = [(weight, _as_matrix(weight)) for weight in hidden]
        inner = adamw_for_the_rest(trainable, hidden, rest * lr, weight_decay)
        if hidden:
            views = [view for _, view in self.matrices]
            inner.append(muon(views, lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
        super().__init__(trainable, inner)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for weight, view in self.matrices:
            view.grad = None if weight.grad is None else weight.grad.flatten(1)
        super().step()
        return loss


def hidden_weights(model: nn.Module) -> list[Tensor]:
    """Linear and convolutional weights but the first and the last layer's; embeddings count as layers here."""
    layers = [module for module in model.modules() if isinstance(module, WEIGHTED)]
    return [layer.weight for layer in layers[1:-1] if not isinstance(layer, nn.Embedding) and layer.weight.requires_grad]


def _as_matrix(weight: Tensor) -> nn.Parameter:
    """`[o, i, k, k]` as `[o, i·k·k]` on the same storage: a step on the view is a step on the weight."""
    return nn.Parameter(weight.detach().view(len(weight), -1))
