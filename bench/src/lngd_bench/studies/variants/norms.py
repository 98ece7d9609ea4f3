"""Do embeddings and normalisations gain by curvature? Each trained with it and by the fallback, AdamW: `docs/layers.md`.

Scale and shift of a normalisation are seen as one group a channel, with two inputs, the normalised activation and 1, and one
output: LNGD's block is then exact but for the sum over positions. The adapter stands here and not in the library, since the
fallback needs none.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any
from unittest.mock import patch

import torch.nn.functional as F
from torch import Tensor, nn

from lngd import LNGD
from lngd.layers import LAYERS, Layer
from lngd_bench.competitors.optimizers import Setting
from lngd_bench.studies.variants.changes import Wanted, last_epoch
from lngd_bench.tasks import TASKS
from lngd_bench.tasks.data import Data
from lngd_bench.tasks.task import Task
from lngd_bench.training.records import Epoch

NORMS = (nn.LayerNorm, nn.BatchNorm2d)
VARIANTS: dict[str, tuple[type[nn.Module], ...]] = {"default": (), "embeddings": (nn.Embedding,), "normalisations": NORMS}
"""Which modules have curvature beside those that always have it."""
LR = 0.5


class NormLayer(Layer):
    """γx̂ + β, channel by channel."""

    batched_dims = 2

    def __init__(self, module: nn.Module, *, with_bias: bool) -> None:
        super().__init__(module, with_bias=with_bias)
        self.groups = self.weight.numel()

    def activations(self, x: Tensor) -> Tensor:
        return self.with_ones(self._by_channel(self._normalised(x.to(self.dtype))))

    def gradients(self, grad: Tensor) -> Tensor:
        return self._by_channel(grad.to(self.dtype))

    def output(self, x: Tensor, matrix: Tensor) -> Tensor:
        scale, *shift = self.split(matrix)
        normalised = self._normalised(x.to(self.dtype))
        shape = (-1,) if isinstance(self.module, nn.LayerNorm) else (1, -1, *[1] * (x.dim() - 2))
        return sum([t.reshape(shape) for t in shift], normalised * scale.reshape(shape))

    def _normalised(self, x: Tensor) -> Tensor:
        if isinstance(self.module, nn.LayerNorm):
            return F.layer_norm(x, self.module.normalized_shape, eps=self.module.eps)
        assert isinstance(self.module, nn.BatchNorm2d)
        return F.batch_norm(x, None, None, training=True, eps=self.module.eps)

    def _by_channel(self, t: Tensor) -> Tensor:
        rows = t.flatten(1, -2) if isinstance(self.module, nn.LayerNorm) else t.flatten(2).mT
        return rows.permute(2, 0, 1).unsqueeze(-1)  # [channels, n, s, 1]


def wanted(given: argparse.Namespace) -> Iterator[Wanted]:
    """Variants take turns within a seed; one that no module of the task has is left out."""
    for name in given.tasks:
        task = replace(TASKS[name], steps=given.steps, epoch_steps=100)
        modules, data = list(task.model().modules()), task.data(None)
        for seed, (variant, kinds) in product(given.seeds, VARIANTS.items()):
            if not kinds or any(isinstance(module, kinds) for module in modules):
                about = {"task": name, "steps": given.steps, "seed": seed, "lr": LR, "curvature on": variant}
                yield about, partial(_measured, task, data, kinds, seed)


def _measured(task: Task, data: Data, kinds: tuple[type[nn.Module], ...], seed: int) -> Epoch:
    adapters = dict.fromkeys(kinds, NormLayer) if kinds == NORMS else {}
    with patch.dict(LAYERS, adapters):
        return last_epoch(task, partial(_optimizer, kinds), LR, seed, data)


def _optimizer(kinds: tuple[type[nn.Module], ...], model: nn.Module, setting: Setting) -> LNGD:
    """A group that asks for curvature where the library would not give it."""
    asked = {id(p) for module in model.modules() if isinstance(module, kinds) for p in module.parameters(recurse=False)}
    chosen = [p for p in model.parameters() if id(p) in asked]
    groups: list[dict[str, Any]] = [{"params": [p for p in model.parameters() if id(p) not in asked]}]
    groups += [{"params": chosen, "curvature": True}] if chosen else []
    return LNGD(model, groups, lr=setting.lr, mean_over=setting.mean_over)
