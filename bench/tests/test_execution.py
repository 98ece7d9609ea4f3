import copy
from dataclasses import replace

import pytest
import torch

from lngd_bench.cli.options import RunOptions
from lngd_bench.tasks import SCALES
from lngd_bench.tasks.execution import Execution
from lngd_bench.training.train import Learner, Run, RunSpec
from runs import TOY, toy_model, toy_split, without_seconds

WAYS = {
    "plain": Execution(),
    "average": Execution(ema=0.9),
    "bfloat16": Execution(precision="bfloat16"),
    "float16": Execution(precision="float16"),
    "channels-last": Execution(channels_last=True),
}


def spec(execution: Execution, optimizer: str = "lngd") -> RunSpec:
    return RunSpec(replace(TOY, execution=execution), optimizer, 0.4 if optimizer == "lngd" else 0.1, 0)


@pytest.mark.parametrize("execution", WAYS.values(), ids=WAYS)
def test_every_way_of_computing_learns_the_toy_and_goes_on_exactly_from_what_it_saved(execution: Execution) -> None:
    whole = Run(spec(execution), toy_split())
    whole.epoch()
    saved = copy.deepcopy(whole.state_dict())
    rest = [whole.epoch(), whole.epoch()]
    assert rest[-1].metric > 0.6
    resumed = Run(spec(execution), toy_split())
    resumed.load_state_dict(saved)
    assert without_seconds([resumed.epoch(), resumed.epoch()]) == without_seconds(rest)


def test_the_average_is_the_exponential_one_and_what_is_evaluated() -> None:
    """Against the definition, weight by weight; the first average is the first weights, as torch has it."""
    learner = Learner(spec(Execution(ema=0.9), "sgd"), toy_split())
    expected = None
    for _ in range(5):
        learner.step(next(learner.batches))
        weights = [p.detach().clone() for p in learner.model.parameters()]
        expected = weights if expected is None else [0.9 * e + 0.1 * w for e, w in zip(expected, weights, strict=True)]
    assert learner.average is not None
    for average, value in zip(learner.average.parameters(), expected or [], strict=True):
        assert torch.allclose(average, value, atol=1e-6)
    averaged = toy_model()
    averaged.load_state_dict(learner.average.module.state_dict())
    assert learner.score() == learner.task.evaluate(averaged, toy_split())


def test_lower_precision_is_used_in_the_forward_pass_and_weights_stay() -> None:
    learner = Learner(spec(Execution(precision="bfloat16"), "sgd"), toy_split())
    seen = set()
    learner.model[0].register_forward_hook(lambda *seen_by_hook: seen.add(seen_by_hook[2].dtype))
    learner.step(next(learner.batches))
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in learner.model.parameters()} == {torch.float32}


def test_a_flag_changes_what_it_names_and_keeps_the_tasks_own_way_otherwise() -> None:
    task = SCALES["imagenet-resnet50"]["full"]
    averaged = RunOptions(ema=0.999).apply(task)
    assert averaged.execution == Execution(precision="bfloat16", channels_last=True, ema=0.999)
    exact = RunOptions(amp="float32", channels_last=False).apply(task)
    assert exact.execution == Execution()
