"""Which dimension counts samples: sequences first train as batches first, in whatever way the layers are used."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from every import EVERY_STEP, METHODS
from lngd import LNGD, Empirical

SAMPLES, STEPS, INPUTS, WIDTH = 6, 4, 5, 7


class Plain(nn.Module):
    """Two layers on every position, whose mean is classified; in four ways of laying out the rows.

    `way`: how the second layer gets its rows, "as they are", "flat" or "found", by its weight alone.
    """

    def __init__(self, way: str, dim: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.way, self.dim = way, dim
        self.first, self.second, self.head = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.second.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        if self.way == "flat":
            x = self.second(x.reshape(-1, WIDTH)).view_as(x)
        elif self.way == "found":
            x = F.linear(x, self.second.weight)
        elif self.way == "found flat":
            x = F.linear(x.reshape(-1, WIDTH), self.second.weight).view_as(x)
        else:
            x = self.second(x)
        return self.head(torch.tanh(x).mean(1 - self.dim))


class Inside(nn.Module):
    """Batch first from outside, positions first inside."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.transpose(0, 1))


def trained(model: nn.Module, kind: str, *, dim: int, **options: Any) -> list[Tensor]:
    optimizer = METHODS[kind](model.double(), warmup=0, fisher=Empirical(), **EVERY_STEP, **options)
    for step in range(4):
        for group in optimizer.param_groups:
            group["lr"] = 0.0 if step == 0 else optimizer.defaults["lr"]  # the first one only shows how weights are used
        torch.manual_seed(10 + step)
        x = torch.randn(SAMPLES, STEPS, INPUTS).double()
        optimizer.zero_grad()
        F.cross_entropy(model(x.transpose(0, dim)), x[:, 0, :3].argmax(1)).backward()
        optimizer.step()
    return [p.detach() for p in model.parameters()]


WAYS = ["as they are", "flat", "found", "found flat"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", METHODS)
def test_sequences_first_train_as_batches_first(kind: str, way: str) -> None:
    expected = trained(Plain(way, 0), kind, dim=0)
    torch.testing.assert_close(trained(Plain(way, 1), kind, dim=1, batch_dim=1), expected, rtol=1e-9, atol=1e-12)


def of_module(name: str, module: nn.Module) -> int:
    """By name for the first layer and the model, by kind for the others."""
    return int(name in ("", "first") or isinstance(module, nn.Linear))


def test_a_function_says_so_for_each_layer() -> None:
    expected = trained(Plain("as they are", 0), "LNGD", dim=0)
    found = trained(Plain("as they are", 1), "LNGD", dim=1, batch_dim=of_module)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("way", ["as they are", "found"])
def test_positions_first_inside_a_model_are_seen(way: str) -> None:
    """Six samples of four positions: rows that are no multiple of the batch, which is the second dimension."""
    expected = trained(Plain(way, 0), "LNGD", dim=0)
    found = trained(Inside(Plain(way, 1)), "LNGD", dim=0)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_without_being_told_positions_are_taken_for_samples() -> None:
    """So the argument is not for nothing: no shape tells it. LNGD's own rate is the same for any unit of F."""
    expected = trained(Plain("as they are", 0), "LNGDSample", dim=0)
    found = trained(Plain("as they are", 1), "LNGDSample", dim=1)
    assert (found[0] - expected[0]).abs().max() > 1e-6


def test_a_function_that_gives_no_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_dim\('first', …\)=None is out of range: it must be a dimension, 0 or more"):
        LNGD(Plain("flat", 0), batch_dim=lambda _name, _module: None)
