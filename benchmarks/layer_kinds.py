"""Do embeddings and normalisations gain by curvature? Each trained with it and by the fallback, AdamW.

    python benchmarks/layer_kinds.py OUT.jsonl --tasks stdlib-charlm fashion-resnet --steps 200 --seeds 1000 1001

Prints and appends one line a run: mean training loss of the last 100 steps and test metric. Scale and shift of a normalisation
are seen as one group a channel, with two inputs, the normalised activation and 1, and one output: LNGD's block is then exact but
for the sum over positions. The adapter stands here and not in the library, since the fallback needs none.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lngd import LNGD
from lngd.layers import LAYERS, Layer
from lngd_bench.competitors.optimizers import Competitor, Setting
from lngd_bench.tasks import TASKS
from lngd_bench.training import train as runner

NORMS = (nn.LayerNorm, nn.BatchNorm2d)
VARIANTS = {"default": (), "embeddings": (nn.Embedding,), "normalisations": NORMS}
"""Which modules have curvature beside those that always have it."""


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
        return F.batch_norm(x, None, None, training=True, eps=self.module.eps)

    def _by_channel(self, t: Tensor) -> Tensor:
        rows = t.flatten(1, -2) if isinstance(self.module, nn.LayerNorm) else t.flatten(2).mT
        return rows.permute(2, 0, 1).unsqueeze(-1)  # [channels, n, s, 1]


def groups(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[dict[str, Any]]:
    """One group that asks for curvature, one that does not have it where the library would not give it."""
    asked = {id(p) for module in model.modules() if isinstance(module, kinds) for p in module.parameters(recurse=False)}
    others = [p for p in model.parameters() if id(p) not in asked]
    chosen = [p for p in model.parameters() if id(p) in asked]
    return [{"params": others}] + ([{"params": chosen, "curvature": True}] if chosen else [])


def optimizer(model: nn.Module, setting: Setting, kinds: tuple[type[nn.Module], ...]) -> LNGD:
    """LNGD with curvature on some more kinds of modules."""
    return LNGD(model, groups(model, kinds), lr=setting.lr, mean_over=setting.mean_over)


def runs(given: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Variants take turns within a seed."""
    for name in given.tasks:
        task = replace(TASKS[name], steps=given.steps, epoch_steps=100)
        split = task.data(None)
        for seed in given.seeds:
            for variant, kinds in VARIANTS.items():
                if kinds and not any(isinstance(m, kinds) for m in task.model().modules()):
                    continue
                LAYERS.update(dict.fromkeys(NORMS, NormLayer) if variant == "normalisations" else {})
                row = Competitor("candidate", lambda model, s, kinds=kinds: optimizer(model, s, kinds), 0.5, 1.0)
                runner.OPTIMIZERS = {"candidate": row}
                *_, last = runner.train(runner.RunSpec(task, "candidate", given.lr, seed), split)
                for kind in NORMS:
                    LAYERS.pop(kind, None)
                yield {
                    "task": name,
                    "steps": given.steps,
                    "seed": seed,
                    "lr": given.lr,
                    "curvature on": variant,
                    "train_loss": last.train_loss,
                    "metric": last.metric,
                }


def main() -> None:
    """Runs them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", nargs="+", default=["stdlib-charlm", "fashion-resnet"], choices=list(TASKS))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1000, 1001])
    parser.add_argument("--lr", type=float, default=0.5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for row in runs(given):
        line = json.dumps(row)
        print(line, flush=True)
        with given.out.open("a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
