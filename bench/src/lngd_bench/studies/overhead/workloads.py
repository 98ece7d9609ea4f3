"""What `lngd overhead` can train: one row a model, with its inputs, its targets and its customary batch sizes."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lngd_bench.tasks.execution import Execution, Precision
from lngd_bench.tasks.models.gpt import GPT, ViT
from lngd_bench.tasks.models.mobilenet import V1, MobileNet
from lngd_bench.tasks.models.plain import mlp
from lngd_bench.tasks.models.resnet import ResNet, ResNet18, ResNet50
from lngd_bench.tasks.models.transformer import Sentences, Transformer
from lngd_bench.tasks.task import MeanOver

CLASSES = 10
VOCABULARY, TOKENS = 512, 128
GPT2_VOCABULARY, GPT2_TOKENS = 50257, 1024
ON_A_GPU = ("gpt2", "resnet50-224")
"""Those that take a CPU minutes a step."""
HEAD = 64
"""Width of an attention head."""

Inputs = tuple[Any, ...]


@dataclass(frozen=True)
class Network:
    """A row.

    Args:
        build: the model of a width.
        width: that of the real thing.
        inputs: what the model is called with, for n samples.
        batches: customary numbers of samples a step; a sequence is a sample.
        outputs: the shape of a sample's targets, which are classes.
        images: whether the inputs are images that are convolved.
    """

    title: str
    build: Callable[[int], nn.Module]
    width: int
    inputs: Callable[[int], Inputs]
    batches: tuple[int, ...]
    outputs: tuple[int, ...] = ()
    images: bool = False


def images(channels: int, size: int) -> Callable[[int], Inputs]:
    """Noise of unit variance, the same at every call."""
    return lambda n: (torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0)),)


def sequences(count: int) -> Callable[[int], Inputs]:
    """`count` inputs of random tokens `[n, TOKENS]`."""
    return lambda n: torch.randint(VOCABULARY, (count, n, TOKENS), generator=torch.Generator().manual_seed(0)).unbind()


def _gpt(width: int) -> nn.Module:
    return GPT(VOCABULARY, TOKENS, width, heads=max(1, width // HEAD), layers=6)


def _gpt2(width: int) -> nn.Module:
    return GPT(GPT2_VOCABULARY, GPT2_TOKENS, width, heads=max(1, width // HEAD), layers=12)


def _texts(n: int) -> Inputs:
    return (torch.randint(GPT2_VOCABULARY, (n, GPT2_TOKENS), generator=torch.Generator().manual_seed(0)),)


def _transformer(width: int) -> nn.Module:
    return Transformer(VOCABULARY, width=width, heads=max(1, width // HEAD), layers=6, inner=4 * width)


def _pairs(n: int) -> Inputs:
    return (Sentences(*(tokens.clamp(min=1) for tokens in sequences(2)(n))),)


def _mobilenet(width: int) -> nn.Module:
    return MobileNet([(channels * width // 32, stride) for channels, stride in V1], stem=width)


NETWORKS: Mapping[str, Network] = {
    "mlp": Network("MLP 784-1024-1024-10", lambda w: mlp(784, w, w, CLASSES), 1024, images(1, 28), (128, 1024)),
    "resnet": Network("ResNet, 3 blocks, 28×28", lambda w: ResNet((w, 2 * w, 4 * w)), 16, images(1, 28), (128,), images=True),
    "resnet18": Network("ResNet-18, 32×32", ResNet18, 64, images(3, 32), (32, 128), images=True),
    "resnet18-28": Network("ResNet-18, 28×28", lambda w: ResNet18(w, channels=1), 64, images(1, 28), (128,), images=True),
    "resnet50": Network("ResNet-50, 64×64", ResNet50, 64, images(3, 64), (32,), images=True),
    "resnet50-224": Network("ResNet-50, 224×224", ResNet50, 64, images(3, 224), (128,), images=True),
    "gpt2": Network("GPT-2, 124 M", _gpt2, 768, _texts, (8,), (GPT2_TOKENS,)),
    "gpt": Network("GPT, 6 layers of 384", _gpt, 384, sequences(1), (8, 32), (TOKENS,)),
    "transformer": Network("Transformer base, 6+6 layers of 512", _transformer, 512, _pairs, (8,), (TOKENS,)),
    "vit": Network("ViT-S, 32×32", lambda w: ViT(width=w, heads=max(1, w // HEAD)), 384, images(3, 32), (32,)),
    "mobilenet": Network("MobileNet, 32×32", _mobilenet, 32, images(3, 32), (128,), images=True),
}


@dataclass(frozen=True)
class Workload:
    """A model of NETWORKS and the batch it sees at every step."""

    name: str
    width: int
    batch: int
    device: str = "cpu"
    precision: Precision = "float32"

    @property
    def network(self) -> Network:
        return NETWORKS[self.name]

    @property
    def mean_over(self) -> MeanOver:
        return "token" if self.network.outputs else "batch"

    @property
    def title(self) -> str:
        """For a table; a width that is not the real thing's is named."""
        own = "" if self.width == self.network.width else f" at width {self.width}"
        low = "" if self.precision == "float32" else f", {self.precision}"
        return f"{self.network.title}{own}, batch {self.batch}{low}"

    @property
    def file_name(self) -> str:
        """Of its records."""
        own = "" if self.width == self.network.width else f"-width{self.width}"
        low = "" if self.precision == "float32" else f"-{self.precision}"
        return (
            f"{self.name}{own}-{self.batch}{low}.jsonl"
            if self.device == "cpu"
            else f"{self.name}{own}-{self.batch}{low}-gpu.jsonl"
        )

    def model(self) -> nn.Module:
        """A new one, always the same."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self._execution.prepared(self.network.build(self.width), torch.device(self.device))

    def batch_of_data(self) -> tuple[Inputs, Tensor]:
        shape = (self.batch, *self.network.outputs)
        targets = (torch.arange(torch.Size(shape).numel()) % CLASSES).view(shape)
        inputs, targets = pytree.tree_map(lambda t: t.to(self.device), (self.network.inputs(self.batch), targets))
        return tuple(
            x.to(memory_format=torch.channels_last) for x in inputs
        ) if self._execution.channels_last else inputs, targets

    def autocast(self) -> AbstractContextManager[object]:
        """Around the forward pass."""
        return self._execution.autocast(torch.device(self.device))

    @property
    def _execution(self) -> Execution:
        """GPUs want images with their channels last."""
        return Execution(precision=self.precision, channels_last=self.network.images and torch.device(self.device).type == "cuda")
