"""Small runs and hand-made records that several tests start from."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from lngd_bench.tasks.data import Split
from lngd_bench.tasks.task import Task
from lngd_bench.training import records
from lngd_bench.training.records import Epoch, Header, Record


def toy_split(_: Path | None = None) -> Split:
    """Three separable classes in eight dimensions: 96 training and 30 evaluation samples."""
    generator = torch.Generator().manual_seed(7)
    y = torch.arange(126) % 3
    x = torch.randn(126, 8, generator=generator) + 2 * nn.functional.one_hot(y, 8)
    return Split(x[:96], y[:96], x[96:], y[96:])


def toy_model() -> nn.Module:
    """Dropout draws from the global random state in every step."""
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


TOY = Task(
    name="toy",
    title="Three blobs",
    metric="accuracy",
    epochs=3,
    batch_size=16,
    samples=96,
    model=toy_model,
    data=toy_split,
    rates={"sgd": 0.1, "adamw": 0.01, "muon": 0.01, "lngd": 0.1},
    step_seconds=0.001,
    note="30 evaluation samples",
)


def hand_made(
    optimizer: str, seed: int, metrics: list[float], seconds: float, *, metric: str = "accuracy", lr: float = 0.1
) -> Record:
    """A record with the given metric and the same seconds in every epoch; its losses fall from 1 by a tenth."""
    config = {**replace(TOY, metric=metric, epochs=len(metrics)).config()}
    header = Header(
        task="toy",
        optimizer=optimizer,
        seed=seed,
        lr=lr,
        config=config,
        torch="2",
        device="cpu",
        threads=1,
        machine="a machine",
        date="2026-01-01",
        command="lngd race toy",
    )
    epochs = (
        Epoch(epoch=i, step=6 * i, train_loss=1 - 0.1 * i, eval_loss=1.0, metric=value, seconds=seconds)
        for i, value in enumerate(metrics, 1)
    )
    return Record(header, tuple(epochs))


def diverged(record: Record) -> Record:
    """The record with one more epoch, which failed."""
    number = len(record.epochs) + 1
    end = Epoch(
        epoch=number,
        step=6 * number,
        train_loss=None,
        eval_loss=None,
        metric=None,
        seconds=0.1,
        diverged=True,
        reason="training loss nan",
    )
    return Record(record.header, (*record.epochs, end))


def write(record: Record, directory: Path) -> Path:
    header = record.header
    path = directory / f"{header.task}--{header.optimizer}--lr{header.lr:g}--seed{header.seed}.jsonl"
    records.begin(path, header, record.epochs)
    records.end(path)
    return path


def without_seconds(epochs: list[Epoch]) -> list[Epoch]:
    """What must be equal in two runs of the same thing."""
    return [replace(epoch, seconds=0.0) for epoch in epochs]
