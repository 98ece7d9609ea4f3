"""What `lngd overhead` can train: one row a model, with its inputs, its targets and its customary batch sizes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lngd_bench.tasks.models.gpt import GPT, ViT
from lngd_bench.tasks.models.mobilenet import V1, MobileNet
from lngd_bench.tasks.models.plain import mlp
from lngd_bench.tasks.models.resnet import ResNet, ResNet18, ResNet50
from lngd_bench.tasks.models.transformer import Sentences, Transformer
from lngd_bench.tasks.task import MeanOver

CLASSES = 10
VOCABULARY, TOKENS = 512, 128
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
    """

    title: str
    build: Callable[[int], nn.Module]
    width: int
    inputs: Callable[[int], Inputs]
    batches: tuple[int, ...]
    outputs: tuple[int, ...] = ()


def images(channels: int, size: int) -> Callable[[int], Inputs]:
    """Noise of unit variance, the same at every call."""
    return lambda n: (torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0)),)


def sequences(count: int) -> Callable[[int], Inputs]:
    """`count` inputs of random tokens `[n, TOKENS]`."""
    return lambda n: torch.randint(VOCABULARY, (count, n, TOKENS), generator=torch.Generator().manual_seed(0)).unbind()


def _gpt(width: int) -> nn.Module:
    return GPT(VOCABULARY, TOKENS, width, heads=max(1, width // HEAD), layers=6)


def _transformer(width: int) -> nn.Module:
    return Transformer(VOCABULARY, width=width, heads=max(1, width // HEAD), layers=6, inner=4 * width)


def _pairs(n: int) -> Inputs:
    return (Sentences(*(tokens.clamp(min=1) for tokens in sequences(2)(n))),)


def _mobilenet(width: int) -> nn.Module:
    return MobileNet([(channels * width // 32, stride) for channels, stride in V1], stem=width)


NETWORKS: Mapping[str, Network] = {
    "mlp": Network("MLP 784-1024-1024-10", lambda w: mlp(784, w, w, CLASSES), 1024, images(1, 28), (128, 1024)),
    "resnet": Network("ResNet, 3 blocks, 28×28", lambda w: ResNet((w, 2 * w, 4 * w)), 16, images(1, 28), (128,)),
    "resnet18": Network("ResNet-18, 32×32", ResNet18, 64, images(3, 32), (32, 128)),
    "resnet18-28": Network("ResNet-18, 28×28", lambda w: ResNet18(w, channels=1), 64, images(1, 28), (128,)),
    "resnet50": Network("ResNet-50, 64×64", ResNet50, 64, images(3, 64), (32,)),
    "gpt": Network("GPT, 6 layers of 384", _gpt, 384, sequences(1), (8, 32), (TOKENS,)),
    "transformer": Network("Transformer base, 6+6 layers of 512", _transformer, 512, _pairs, (8,), (TOKENS,)),
    "vit": Network("ViT-S, 32×32", lambda w: ViT(width=w, heads=max(1, w // HEAD)), 384, images(3, 32), (32,)),
    "mobilenet": Network("MobileNet, 32×32", _mobilenet, 32, images(3, 32), (128,)),
}


@dataclass(frozen=True)
class Workload:
    """A model of NETWORKS and the batch it sees at every step."""

    name: str
    width: int
    batch: int

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
        return f"{self.network.title}{own}, batch {self.batch}"

    @property
    def file_name(self) -> str:
        """Of its records."""
        own = "" if self.width == self.network.width else f"-width{self.width}"
        return f"{self.name}{own}-{self.batch}.jsonl"

    def model(self) -> nn.Module:
        """A new one, always the same."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.network.build(self.width)

    def batch_of_data(self) -> tuple[Inputs, Tensor]:
        shape = (self.batch, *self.network.outputs)
        return self.network.inputs(self.batch), (torch.arange(torch.Size(shape).numel()) % CLASSES).view(shape)
