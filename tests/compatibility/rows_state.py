"""Rows: checkpoints, copies, and what they hold."""

import copy
import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict
from torch.utils._pytree import tree_leaves

from compatibility.runs import OFTEN, Run, assert_healthy, assert_resumes, assert_same, batches, learnable, plain, start
from compatibility.table import group
from lngd import FisherType
from lngd.methods import Method
from reference import differences, through_a_file

state = group("State")

STEPS = 3


def running(method: type[Method]) -> Run:
    """A run with curvature, averages and a fallback, on the schedule with steps of every kind."""
    return start(method, plain(), **OFTEN).steps(batches(STEPS, 4))


@state("Checkpoint with all state, `weights_only=True`", "resumed in a new model and optimizer, the run goes on bit-equal")
def checkpoint(method: type[Method]) -> None:
    torch.manual_seed(5)
    fresh = Run(model := plain(), method(model, **OFTEN))
    assert_resumes(running(method), fresh, *batches(2, 4))


def through_a_distributed_checkpoint(entries: dict[str, Any]) -> dict[str, Any]:
    """Saved by torch.distributed.checkpoint without a process group, converted by torch's own converter."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process, and it need not be told
        distributed_checkpoint.save({"optimizer": entries}, checkpoint_id=f"{folder}/dcp", no_dist=True)
        dcp_to_torch_save(f"{folder}/dcp", f"{folder}/file")
        return torch.load(f"{folder}/file", weights_only=True)["optimizer"]


@state("`torch.distributed.checkpoint`", "saved, converted by `dcp_to_torch_save` and loaded, the run goes on bit-equal")
def dcp_round_trip(method: type[Method]) -> None:
    fresh = start(method, plain(), **OFTEN)
    assert_resumes(running(method), fresh, *batches(2, 4), through=through_a_distributed_checkpoint)


def copies(method: type[Method], duplicate: Callable[[Any], Any]) -> None:
    """The copy trains on its own and as the original does."""
    run = running(method)
    twin = Run(*duplicate((run.model, run.optimizer)))
    run.losses.clear()
    before = run.snapshot()
    twin.steps(batches(4, 4))
    assert differences(before, run.snapshot()) == []
    assert_same(run.steps(batches(4, 4)), twin)


@state("`copy.deepcopy((model, optimizer))`", "the copy goes on bit-equal to the original and leaves it alone")
def deep_copy(method: type[Method]) -> None:
    copies(method, copy.deepcopy)


@state("`pickle` of (model, optimizer)", "what comes back goes on bit-equal to the original and leaves it alone")
def pickled(method: type[Method]) -> None:
    copies(method, lambda pair: pickle.loads(pickle.dumps(pair)))  # noqa: S301


@state("Statistics too large for float32", "after three batches in float64, a warning says so; a checkpoint resumes bit-equal")
def kept_in_float64(method: type[Method]) -> None:
    run, fresh = (start(method, nn.Sequential(nn.Linear(4, 3)), fisher=FisherType.EMPIRICAL, **OFTEN) for _ in range(2))
    x, y = learnable(16, 4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.steps([(1e25 * x, y)] * 4)
    said = [str(w.message) for w in caught]
    assert [message for message in said if "kept in float64" not in message and "step was skipped" not in message] == []
    assert sum("layer '0': its statistics overflow" in message for message in said) == 1
    assert {t.dtype for t in run.optimizer.blocks["0"].tensors().values() if t.is_floating_point()} == {torch.float64}
    assert_resumes(run, fresh, (1e25 * x, y))


@state("float32 checkpoint in a bfloat16 model", "loads and trains on: all finite, parameters in bfloat16, the loss falls")
def another_dtype(method: type[Method]) -> None:
    x, y = learnable(32, 4)
    run = start(method, plain(), warmup=3).steps([(x, y)] * STEPS)
    half = start(method, plain().bfloat16(), warmup=3)
    half.model.load_state_dict(run.model.state_dict())
    half.optimizer.load_state_dict(through_a_file(run.optimizer.state_dict()))
    half.steps([(x.bfloat16(), y)] * 12)
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    assert_healthy(half, skipped=0)
    assert half.losses[-1] < 0.98 * half.losses[0]
    assert half.optimizer.stats()["steps"] == STEPS + 12


Keys = tuple[Any, ...]


def required(saved: dict[str, Any]) -> Iterator[Keys]:
    """The way to every entry, from the top level down, but for `param_names`, which torch's own checkpoints may lack."""
    yield from ((key,) for key in saved)
    yield from (("state", number) for number in saved["state"])
    yield from (("state", number, key) for number, entry in saved["state"].items() for key in entry)
    yield ("param_groups", 0)
    yield from (("param_groups", 0, key) for key in saved["param_groups"][0] if key != "param_names")
    yield from (("param_groups", 0, "progress", key) for key in saved["param_groups"][0]["progress"])


def without(saved: dict[str, Any], path: Keys) -> dict[str, Any]:
    """The same checkpoint without one entry."""
    damaged = copy.deepcopy(saved)
    inner = damaged
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return damaged


def fault(run: Run, damaged: dict[str, Any]) -> str:
    """What is wrong where ValueError and an untouched optimizer are due; empty if nothing."""
    before, raised = run.snapshot(), "nothing"
    try:
        run.optimizer.load_state_dict(damaged)
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raised = type(error).__name__
    touched = differences(before, run.snapshot()) != []
    return "" if raised == "ValueError" and not touched else f"{raised} raised, optimizer {'changed' if touched else 'untouched'}"


@state(
    "Truncated checkpoint", "whatever entry is missing, at whatever level: ValueError, and the optimizer is bit-equal to before"
)
def truncated(method: type[Method]) -> None:
    run, other = running(method), start(method, plain(), **OFTEN).steps(batches(5, 4))
    saved = through_a_file(other.optimizer.state_dict())
    wrong: dict[str, str] = {}
    for keys in required(saved):
        wrong[".".join(map(str, keys))] = found = fault(run, without(saved, keys))
        run = running(method) if found else run
    assert {entry: found for entry, found in wrong.items() if found} == {}
    assert len(wrong) > 50


@state("Checkpoint of another version", "ValueError that names both versions, and the optimizer is bit-equal to before")
def another_version(method: type[Method]) -> None:
    run = running(method)
    saved = through_a_file(run.optimizer.state_dict())
    version = saved["param_groups"][0]["progress"]["format"]
    run.steps(batches(2, 4))
    before = run.snapshot()
    for other in (version - 1, version + 1):
        foreign = copy.deepcopy(saved)
        foreign["param_groups"][0]["progress"]["format"] = other
        with pytest.raises(ValueError, match=rf"{other}.*{version}"):
            run.optimizer.load_state_dict(foreign)
        assert differences(before, run.snapshot()) == []
    with pytest.raises(ValueError, match=rf"3.*{version}"):
        run.optimizer.load_state_dict({**saved, "lngd": {"version": 3}})  # as it stood beside torch's two entries up to format 4
    assert differences(before, run.snapshot()) == []


def through_torch(source: Run, target: Run, *, flat: bool) -> None:
    """From one optimizer into another as torch.distributed's own trainers do it, parameters under their names."""
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    saved = get_optimizer_state_dict(source.model, source.optimizer, options=options)
    target.model.load_state_dict(copy.deepcopy(source.model.state_dict()))
    set_optimizer_state_dict(target.model, target.optimizer, through_a_file(saved), options=options)


def carried_over(method: type[Method], *, flat: bool) -> None:
    """Into a new optimizer and into one that has trained; asking leaves a run as it was, before its first step too."""
    run, fresh, trained = running(method), start(method, plain(), **OFTEN), start(method, plain(), **OFTEN).steps(batches(5, 4))
    for each in (fresh, run):
        before = each.snapshot()
        get_optimizer_state_dict(each.model, each.optimizer, options=StateDictOptions(flatten_optimizer_state_dict=flat))
        assert differences(before, each.snapshot()) == []
    for target in (fresh, trained):
        through_torch(run, target, flat=flat)
        target.losses = []
    run.losses = []
    data = batches(4, 4)
    assert_same(run.steps(data), fresh.steps(data), trained.steps(data))


CARRIED = "asking changes nothing; a new optimizer and one that has trained both go on from it bit-equal"


@state("`get_optimizer_state_dict`, `set_optimizer_state_dict`", CARRIED)
def distributed_state_dict(method: type[Method]) -> None:
    carried_over(method, flat=False)


@state("The same with `flatten_optimizer_state_dict=True`", CARRIED)
def flattened_state_dict(method: type[Method]) -> None:
    carried_over(method, flat=True)


@state("`memory_report()`", "names every layer that has curvature; its bytes are those allocated, within 5 %")
def memory_report(method: type[Method]) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(40, 60), nn.BatchNorm1d(60), nn.ReLU(), nn.Linear(60, 3))
    run = start(method, model, **OFTEN)
    report = run.optimizer.memory_report()
    run.steps([learnable(8, 40)] * 3)
    assert [name for name in run.optimizer.blocks if name not in str(report)] == []
    tensors = [t for t in tree_leaves(run.optimizer.state_dict()) if isinstance(t, Tensor) and t.dtype != torch.uint8]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}  # averages of weight and bias share one
    assert sum(storage.nbytes() for storage in storages.values()) == pytest.approx(report.total, rel=0.05)
