"""Embeddings and transposed convolutions in training, with every method: they learn, resume bit-equal, and count their bytes."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lngd
from lngd.optimizer import NaturalGradient
from reference import curved, differences, snapshot, through_a_file
from syncs import UNTIL_ORDINARY, CountSyncs
from tiers import tiered

METHODS = {
    name: getattr(lngd, name)
    for name in ("LNGD", "SpectralLNGD", "LNGDSample", "LNGDLr", "KFAC", "EKFAC", "TKFAC", "NGPlus", "THOR")
}
every_method = tiered("kind", METHODS)


def words() -> nn.Module:
    """Names the class of the most frequent token; token 0 is padding."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Embedding(9, 6, padding_idx=0), nn.Linear(6, 8), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3))


def autoencoder() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
        nn.Tanh(),
        nn.ConvTranspose2d(4, 1, 3, padding=1),
    )


def tokens(seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randint(0, 9, (16, 4), generator=torch.Generator().manual_seed(seed))
    return x, x[:, 0] % 3


def pictures(seed: int) -> tuple[Tensor, Tensor]:
    """Of rank one."""
    generator = torch.Generator().manual_seed(seed)
    columns, rows = (torch.randn(16, 1, *shape, generator=generator) for shape in ((6, 1), (1, 6)))
    return columns * rows, columns * rows


def half_square(output: Tensor, y: Tensor) -> Tensor:
    """−log p of a unit normal, a mean over the batch."""
    return (output - y).square().sum() / (2 * len(y))


OF_LABELS = {"LNGDLr", "KFAC", "EKFAC", "TKFAC", "THOR"}
"""What draws labels, which have to come from the right distribution."""
CLIPPED = {"KFAC", "EKFAC", "TKFAC", "NGPlus", "THOR"}


def regression(kind: str) -> dict[str, Any]:
    sampled = {"fisher": lngd.Sampled("gaussian")} if kind in OF_LABELS else {}
    return sampled | ({"step_size": lngd.KLClip(0.1)} if kind in CLIPPED else {})


Task = tuple[
    Callable[[], nn.Module],
    Callable[[int], tuple[Tensor, Tensor]],
    Callable[[Tensor, Tensor], Tensor],
    Callable[[str], dict[str, Any]],
]
TASKS: dict[str, Task] = {
    "words": (words, tokens, F.cross_entropy, lambda _: {}),
    "autoencoder": (autoencoder, pictures, half_square, regression),
}
every_task = pytest.mark.parametrize("task", TASKS)


def train(task: str, model: nn.Module, optimizer: NaturalGradient, seeds: list[int]) -> list[float]:
    _, data, loss_of, _ = TASKS[task]
    losses = []
    for seed in seeds:
        x, y = data(seed)
        optimizer.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def build(kind: str, task: str, **options) -> tuple[nn.Module, NaturalGradient]:
    model = TASKS[task][0]()
    return model, METHODS[kind](model, curved(model), **TASKS[task][3](kind), **options)


@every_task
@every_method
def test_the_loss_falls_and_every_parameter_has_curvature(kind, task):
    model, optimizer = build(kind, task, warmup=5)
    losses = train(task, model, optimizer, [0] * 30)
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert {o.kind for o in optimizer.summary()} == {"curvature"}
    assert "0 fallback" in str(optimizer.summary())
    assert optimizer.stats()["skipped"] == 0
    assert all(rate > 0 for rate in optimizer.rates.values())


@every_task
@every_method
def test_a_resumed_run_is_bit_equal(kind, task):
    often = {"schedule": lngd.Schedule(curvature_every=2, inverse_every=3)}
    model, optimizer = build(kind, task, **often)
    train(task, model, optimizer, [0, 1, 2, 3])
    weights, state = copy.deepcopy(model.state_dict()), through_a_file(optimizer.state_dict())
    train(task, model, optimizer, [4, 5, 6, 7])
    resumed, again = build(kind, task, generator=torch.Generator().manual_seed(7), **often)
    resumed.load_state_dict(weights)
    again.load_state_dict(state)
    train(task, resumed, again, [4, 5, 6, 7])
    assert differences(snapshot(model, optimizer), snapshot(resumed, again)) == []


@every_task
@every_method
def test_the_summary_counts_the_bytes_of_curvature(kind, task):
    model, optimizer = build(kind, task)
    train(task, model, optimizer, [0, 1])
    held = sum(t.numel() * t.element_size() for block in optimizer.blocks.values() for t in block.tensors().values())
    assert abs(optimizer.summary().state_bytes - held) <= 16 * len(optimizer.blocks)


@every_task
@every_method
def test_neither_an_ordinary_step_nor_a_measuring_forward_waits_for_anything(kind, task):
    model, optimizer = build(kind, task)
    train(task, model, optimizer, [0] * UNTIL_ORDINARY)
    _, data, loss_of, _ = TASKS[task]
    x, y = data(0)
    for measuring in (False, True):
        optimizer._capture.measuring = measuring
        with CountSyncs() as counter:
            loss_of(model(x), y).backward()
            if not measuring:
                optimizer.step()
        assert len(counter.found) <= (0 if measuring else 1)  # the host copy of the skip count


@every_method
def test_padding_has_no_gradient_and_stays(kind):
    model, optimizer = build(kind, "words", weight_decay=0.0)
    train("words", model, optimizer, [0, 1, 2, 3])
    assert torch.equal(model[0].weight[0], torch.zeros(6))
    block = optimizer.blocks["0"]
    for name in ("phi", "A"):
        if hasattr(block, name):
            assert getattr(block, name)[0] == 0
            assert (getattr(block, name)[1:] > 0).all()


def test_a_checkpoint_with_another_limit_is_refused():
    model, optimizer = build("THOR", "words", factors=2)
    train("words", model, optimizer, [0])
    _, other = build("THOR", "words", factors=4)
    with pytest.raises(ValueError, match=r"'B' of parameter '0\.weight' is \[3, 2, 2\] in the checkpoint, \[2, 3, 3\] here"):
        other.load_state_dict(through_a_file(optimizer.state_dict()))


@pytest.mark.parametrize("fisher", lngd.FisherType)
def test_an_embedding_called_twice_has_the_statistics_of_one_call_with_both(fisher):
    """The second call's indices are further positions."""

    class Pair(nn.Module):
        def __init__(self, *, twice: bool) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.embed, self.head, self.twice = nn.Embedding(9, 4), nn.Linear(16, 3), twice

        def forward(self, x: Tensor) -> Tensor:
            halves = [self.embed(part) for part in x.split(2, 1)] if self.twice else [self.embed(x)]
            return self.head(torch.cat(halves, 1).flatten(1))

    found = []
    for twice in (False, True):
        model = Pair(twice=twice)
        generator = torch.Generator().manual_seed(0)
        optimizer = lngd.EKFAC(
            model,
            curved(model),
            fisher=fisher,
            lr=0.0,
            schedule=lngd.Schedule(curvature_every=1, inverse_every=100),
            generator=generator,
        )
        train("words", model, optimizer, [0, 1])
        found.append(optimizer.blocks["embed"])
    if fisher is not lngd.FisherType.LAYERWISE:  # which takes each call's g for itself
        for name in ("A", "B", "scales"):
            torch.testing.assert_close(getattr(found[0], name), getattr(found[1], name))
    torch.testing.assert_close(found[0].A, found[1].A)
