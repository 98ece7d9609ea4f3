"""K-FAC of asdl (PyPI: asdfghjkl) beside ours: it runs forward and backward by itself, so it is no competitor's row."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from lngd_bench.clock import clock
from lngd_bench.errors import BenchError
from lngd_bench.studies.overhead.overhead import ASDL, INTERVAL, Trainable, Trainee

DAMPING, DECAY = 1e-3, 0.05
"""asdl's own examples'. Neither changes what a step costs."""


class AsdlTrainee(Trainee):
    """Measures and inverts every INTERVAL steps; the step itself is SGD's with the preconditioned gradient."""

    def __init__(self, workload: Trainable) -> None:
        if not find_spec("asdl"):
            raise BenchError("asdl's K-FAC needs asdfghjkl: pip install asdfghjkl")
        super().__init__(workload, "sgd")
        self.method = ASDL
        with tolerated():
            library: Any = import_module("asdl")
        settings = library.PreconditioningConfig(
            preconditioner_upd_interval=INTERVAL,
            curvature_upd_interval=INTERVAL,
            damping=DAMPING,
            ema_decay=DECAY,
            data_size=len(self.targets),
            ignore_modules=[nn.Embedding],
        )
        self.maker = library.KfacGradientMaker(self.model, settings)

    def step(self) -> float:
        """Milliseconds."""
        start = clock()
        self.optimizer.zero_grad()
        outputs = self.maker.setup_model_call(self.model, *self.inputs)
        if self.targets.dim() > 1:
            outputs = outputs.flatten(0, -2)
        self.maker.setup_loss_call(functional.cross_entropy, outputs, self.targets.flatten())
        with tolerated():
            self.maker.forward_and_backward()
        self.optimizer.step()
        return 1e3 * (clock() - start)

    def kept(self) -> Any:
        """SGD's momentum, and the factors and inverses that asdl hangs on modules."""
        return [super().kept(), *(vars(module).get("fisher") for module in self.model.modules())]


def takes(model: nn.Module, inputs: int) -> bool:
    """Whether asdl can: no grouped convolutions, one input."""
    return inputs == 1 and all(module.groups == 1 for module in model.modules() if isinstance(module, nn.Conv2d))


@contextmanager
def tolerated() -> Iterator[None]:
    """What asdl does is outdated in today's torch, and its ranges for CUDA's profiler are refused where there is no CUDA."""
    nvtx: Any = torch.cuda.nvtx
    before = nvtx.range_push, nvtx.range_pop
    if not torch.cuda.is_available():
        nvtx.range_push = nvtx.range_pop = _nothing
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        nvtx.range_push, nvtx.range_pop = before


def _nothing(*_: Any) -> int:
    return 0
