import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lngd_bench.cli.options import RunOptions
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.errors import BenchError
from lngd_bench.tasks import DEFAULT_TASKS, SCALES, TASKS, at_scale
from lngd_bench.tasks.data import Split
from lngd_bench.tasks.datasets.python_source import load_python_source
from lngd_bench.tasks.schedule import polynomial
from lngd_bench.tasks.scoring import evaluate, mean_cross_entropy
from lngd_bench.tasks.task import Task
from lngd_bench.training.race import Place, plan, race, records_of
from lngd_bench.training.records import Epoch
from lngd_bench.training.train import Run, RunSpec
from runs import TOY, toy_model, toy_split, without_seconds
from test_data_sets import write_small

TINY = {name: scales["tiny"] for name, scales in SCALES.items()}
RUNNABLE = TASKS | TINY  # with no data but the tests' own
OWN_DATA = [task for task in RUNNABLE.values() if not task.name.startswith("fashion")]


@pytest.mark.parametrize("task", RUNNABLE.values(), ids=RUNNABLE)
def test_every_task_evaluates_and_a_step_gives_every_parameter_a_gradient(task: Task, tmp_path: Path) -> None:
    data, model = task.data(write_small(tmp_path)), task.model()
    score = task.evaluate(model, data.evaluated_on(64) if isinstance(data, Split) else data)
    assert 0 < score.loss < 8
    assert 0 <= score.accuracy <= 1
    x, y = next(data.batches(min(3, task.batch_size) if task.batch_unit == "samples" else task.batch_size, torch.Generator()))
    task.loss(model(x), y).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("task", OWN_DATA, ids=lambda task: task.name)
def test_a_task_has_the_samples_that_it_names(task: Task, tmp_path: Path) -> None:
    data = task.data(tmp_path if task.scale == "tiny" else None)
    assert data.first(task.samples)
    if task.scale == "here":
        with pytest.raises(BenchError, match=f"the data set has {task.samples}"):
            data.first(task.samples + 1)


def test_the_language_model_predicts_the_next_character_of_files_it_was_not_trained_on() -> None:
    split = load_python_source()
    assert torch.equal(split.train_x[0, 1:], split.train_y[0, :-1])
    seen = {tuple(window) for window in split.train_x.tolist()}
    shared = sum(tuple(window) in seen for window in split.test_x.tolist())
    assert shared < 0.01 * len(split.test_x)


def test_options_set_the_budget_and_keep_the_rest() -> None:
    assert RunOptions().apply(TOY) == TOY
    assert (TOY.steps_an_epoch, TOY.total_steps, TOY.total_epochs) == (6, 18, 3)
    changed = RunOptions(steps=20, train_samples=64, batch_size=8).apply(TOY)
    assert (changed.steps_an_epoch, changed.total_steps, changed.total_epochs) == (8, 20, 3)
    assert changed.rates == TOY.rates


def test_held_out_samples_are_training_samples_only_and_too_many_are_refused() -> None:
    split = toy_split()
    held_out = split.held_out()
    assert torch.equal(torch.cat([held_out.train_x, held_out.test_x]), split.train_x)
    with pytest.raises(BenchError, match="asks for 97 training samples, the data set has 96"):
        split.first(97)


def test_an_evaluation_in_chunks_equals_the_whole_and_restores_the_mode() -> None:
    split, model = toy_split(), toy_model()
    score = evaluate(model, split)
    assert model.training
    outputs = model.eval()(split.test_x)
    assert score.loss == pytest.approx(mean_cross_entropy(outputs, split.test_y).item(), rel=1e-5)
    assert score.accuracy == pytest.approx((outputs.argmax(1) == split.test_y).float().mean().item())


def test_a_paper_task_says_its_scale_and_names_optimizers_that_exist() -> None:
    for name, scales in SCALES.items():
        for scale, task in scales.items():
            assert (task.name, task.scale) == (name, scale)
            assert set(task.rates) | set(task.dampings) | set(task.schedules) | set(task.budgets) <= set(OPTIMIZERS)
            assert {name for name in task.dampings if OPTIMIZERS[name].damping is None} == set()
            assert all(OPTIMIZERS[name].two_rates for name in task.rests)


@pytest.mark.parametrize("task", TINY.values(), ids=TINY)
def test_every_paper_task_runs_at_tiny_and_repeats_exactly(task: Task, tmp_path: Path) -> None:
    def run(out: Path) -> list[Epoch]:
        specs = plan([task], ["sgd", "lngd"], range(1))
        list(race(specs, Place(out=out, data_dir=tmp_path / "data")))
        return [epoch for record in records_of(specs, out) for epoch in without_seconds(list(record.epochs))]

    first = run(tmp_path / "first")
    assert first == run(tmp_path / "second")
    assert not any(epoch.diverged for epoch in first)
    assert all(epoch.metric is not None for epoch in first)


@pytest.mark.parametrize("task", TINY.values(), ids=TINY)
def test_every_paper_task_resumes_exactly(task: Task, tmp_path: Path) -> None:
    data = task.data(tmp_path).first(task.samples)
    whole = Run(RunSpec(task, "lngd", 0.5, 0), data)
    whole.epoch()
    saved = copy.deepcopy(whole.state_dict())
    rest = [whole.epoch() for _ in range(task.total_epochs - 1)]
    resumed = Run(RunSpec(task, "lngd", 0.5, 0), data)
    resumed.load_state_dict(saved)
    assert without_seconds([resumed.epoch() for _ in rest]) == without_seconds(rest)


def test_an_optimizer_can_have_a_schedule_and_a_budget_of_its_own() -> None:
    task = replace(TOY, schedules={"sgd": polynomial(2)}, budgets={"sgd": 5})
    assert (task.of("sgd").total_epochs, task.of("adamw").total_epochs) == (5, 3)
    assert str(task.of("sgd").schedule) == "(1 − t/T)^2"
    assert [spec.task.total_epochs for spec in plan([task], ["sgd", "adamw"], range(1))] == [5, 3]


def test_the_default_race_needs_no_download_and_a_task_of_one_scale_is_refused_at_another() -> None:
    assert set(DEFAULT_TASKS) <= {task.name for task in OWN_DATA}
    assert at_scale("digits-mlp", "here") is TASKS["digits-mlp"]
    with pytest.raises(BenchError, match="digits-mlp has one scale only"):
        at_scale("digits-mlp", "tiny")
