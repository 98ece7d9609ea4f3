"""Rows: the hooks on the model, how they come off, and what they must not disturb."""

import gc

import torch
import torch.nn.functional as F

from compatibility.runs import OFTEN, assert_same, batches, hooks, plain, start
from compatibility.table import group
from lngd.methods import Method
from reference import per_sample_gradients

hooking = group("Hooks")


@hooking("`close()`", "takes every hook off; the model then trains with SGD bit-equal to one that was never watched")
def close(method: type[Method]) -> None:
    model, untouched = plain(), plain()
    run = start(method, model).steps(batches(2, 4))
    assert hooks(model) > 0
    run.optimizer.close()
    assert hooks(model) == 0
    untouched.load_state_dict(model.state_dict())
    for each in (model, untouched):
        sgd = torch.optim.SGD(each.parameters(), lr=0.1)
        for x, y in batches(2, 4):
            sgd.zero_grad()
            F.cross_entropy(each(x), y).backward()
            sgd.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), untouched.parameters(), strict=True))


@hooking("Optimizer garbage-collected", "its hooks leave with it: none after three optimizers on one model")
def garbage_collected(method: type[Method]) -> None:
    model = plain()
    for _ in range(3):
        start(method, model).steps(batches(1, 4))
    gc.collect()
    assert hooks(model) == 0


@hooking(
    "`vmap(grad(…))` per-sample gradients",
    "with hooks attached equal to those without, and training goes on bit-equal to a run without them",
)
def vmap_of_grad(method: type[Method]) -> None:
    runs = []
    for disturbed in (False, True):
        run = start(method, plain(), **OFTEN)
        for x, y in batches(3, 4):
            if disturbed:
                model = plain()
                model.load_state_dict(run.model.state_dict())
                expected = per_sample_gradients(model, x, y)
                found = per_sample_gradients(run.model, x, y)
                assert found.keys() == expected.keys()
                assert all(torch.equal(found[name], expected[name]) for name in expected)
            run.step(x, y)
        runs.append(run)
    assert_same(*runs)


@hooking(
    "Outputs and gradients",
    "of a watched model bit-equal to those of an unwatched one; torch's global random state is left alone",
)
def transparent(method: type[Method]) -> None:
    model, untouched = plain(), plain()
    run = start(method, model, **OFTEN)
    for x, y in batches(4, 4):
        untouched.load_state_dict(model.state_dict())
        state = torch.get_rng_state()
        for each in (model, untouched):
            each.zero_grad()
            F.cross_entropy(each(x), y).backward()
        for p, q in zip(model.parameters(), untouched.parameters(), strict=True):
            assert torch.equal(p.grad, q.grad)
        run.optimizer.step()
        assert torch.equal(torch.get_rng_state(), state)
