from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.training.race import Place, plan, race, records_of
from lngd_bench.training.records import read_records
from lngd_bench.training.train import RunSpec, train
from runs import TOY, toy_split, without_seconds


def alone(optimizer: str, seed: int = 0) -> list:
    return without_seconds(list(train(RunSpec(TOY, optimizer, TOY.rates.get(optimizer, 0.01), seed), toy_split())))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_repeats_exactly_whatever_the_global_random_state_is(optimizer: str) -> None:
    first = alone(optimizer)
    torch.manual_seed(12345)
    assert alone(optimizer) == first


def test_a_run_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    alone("sgd")
    assert torch.equal(torch.get_rng_state(), before)


def test_another_seed_is_another_run() -> None:
    assert alone("sgd", 0) != alone("sgd", 1)


def test_a_run_is_the_same_alone_and_in_a_race(tmp_path: Path) -> None:
    specs = plan([TOY], ["sgd", "adamw", "lngd"], range(1))
    list(race(specs, Place(out=tmp_path)))
    for spec, record in zip(specs, records_of(specs, tmp_path), strict=True):
        assert without_seconds(list(record.epochs)) == alone(spec.optimizer)


def test_competitors_take_turns_epoch_by_epoch(tmp_path: Path) -> None:
    specs = plan([TOY], ["sgd", "adamw"], range(2))
    turns = [(spec.optimizer, spec.seed, row.epoch) for spec, row in race(specs, Place(out=tmp_path))]
    assert turns[:4] == [("sgd", 0, 1), ("adamw", 0, 1), ("sgd", 0, 2), ("adamw", 0, 2)]
    assert [seed for _, seed, _ in turns] == [0] * 6 + [1] * 6


def test_training_learns_and_stops_at_the_given_step() -> None:
    task = replace(TOY, steps=40)
    rows = list(train(RunSpec(task, "adamw", 0.02, 0), toy_split()))
    assert [row.step for row in rows] == [6, 12, 18, 24, 30, 36, 40]
    assert rows[-1].train_loss < 0.5 * rows[0].train_loss
    assert rows[-1].metric > 0.8


def test_divergence_ends_the_run_and_is_recorded(tmp_path: Path) -> None:
    specs = [RunSpec(TOY, "sgd", 1e20, 0), RunSpec(TOY, "sgd", 0.1, 0)]
    list(race(specs, Place(out=tmp_path)))
    lost, won = records_of(specs, tmp_path)
    assert lost.diverged
    assert len(lost.epochs) == 1
    assert lost.epochs[0].train_loss is None
    assert "at step" in lost.epochs[0].reason
    assert not won.diverged
    assert len(won.epochs) == TOY.epochs


def test_the_header_says_what_ran_where(tmp_path: Path) -> None:
    list(race(plan([TOY], ["adamw"], range(1)), Place(out=tmp_path, command="lngd race toy")))
    header = read_records(tmp_path)[0].header
    assert (header.task, header.optimizer, header.lr, header.seed) == ("toy", "adamw", 0.01, 0)
    assert (header.torch, header.device, header.threads) == (torch.__version__, "cpu", torch.get_num_threads())
    assert header.machine
    assert header.command == "lngd race toy"
    assert header.config == TOY.config()
