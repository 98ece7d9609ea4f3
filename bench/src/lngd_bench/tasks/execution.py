"""How a run computes: lower precision, compilation, memory format, and an average of the weights that evaluations use."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Precision = Literal["float32", "bfloat16", "float16"]
DTYPES: Mapping[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Execution:
    """The same for all competitors of a table.

    Attributes:
        precision: of autocast; float16 brings torch's GradScaler with it.
        ema: decay, per step, of an exponential moving average of weights and buffers, which is what is evaluated; None for none.
        compiled: the model goes through `torch.compile` before the optimizer is built.
    """

    precision: Precision = "float32"
    ema: float | None = None
    compiled: bool = False
    channels_last: bool = False

    def __str__(self) -> str:
        named = {
            self.precision: self.precision != "float32",
            f"EMA {self.ema:g}" if self.ema else "": self.ema is not None,
            "compiled": self.compiled,
            "channels last": self.channels_last,
        }
        return ", ".join(name for name, there in named.items() if there) or "float32"

    def prepared(self, model: nn.Module, device: torch.device) -> nn.Module:
        """On its device, in its memory format, compiled where asked for."""
        model = model.to(device)
        if self.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks the keyword
        return torch.compile(model) if self.compiled else model  # type: ignore[return-value]  # a module in, a module out

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        return torch.autocast(device.type, DTYPES[self.precision], enabled=self.precision != "float32")

    def scaler(self, device: torch.device) -> GradScaler:
        """Does nothing but in float16."""
        return GradScaler(device.type, enabled=self.precision == "float16")

    def average(self, model: nn.Module) -> AveragedModel | None:
        return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(self.ema), use_buffers=True) if self.ema else None


def scaled_step(loss: Tensor, optimizer: Optimizer, scaler: GradScaler) -> None:
    """Backward pass and step; an overflow in float16 leaves the step out, for every optimizer alike."""
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
