"""Hooks of the user that change what goes into a layer or comes out of it are a part of the model, whenever they were put on."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from lngd import KFAC, LNGD, LayerwiseRate, NGPlus
from reference import batch, mlp, train_step

METHODS = pytest.mark.parametrize("method", [LNGD, KFAC, NGPlus], ids=lambda method: method.__name__)
Hooking = Callable[[nn.Sequential], RemovableHandle]


class Scaled(nn.Module):
    """What the hooks below do, as a module."""

    def __init__(self, layer: nn.Linear, before: float, after: float) -> None:
        super().__init__()
        self.layer, self.before, self.after = layer, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after * self.layer(self.before * x)


def of_linear(change: Callable[[Tensor], object]) -> Callable[..., object]:
    return lambda module, args, *output: change(output[0] if output else args[0]) if isinstance(module, nn.Linear) else None


AFTER: dict[str, Hooking] = {
    "an ordinary one": lambda m: m[0].register_forward_hook(lambda _module, _args, output: 3 * output),
    "one that comes first": lambda m: m[0].register_forward_hook(lambda _module, _args, output: 3 * output, prepend=True),
    "one that is always called": lambda m: m[0].register_forward_hook(lambda _m, _args, out: 3 * out, always_call=True),
    "one with keywords": lambda m: m[0].register_forward_hook(lambda _m, _args, _kw, out: 3 * out, with_kwargs=True),
    "one in place": lambda m: m[0].register_forward_hook(lambda _module, _args, output: output.mul_(3)),
    "one of all modules": lambda _: register_module_forward_hook(of_linear(lambda output: 3 * output)),
    "one of all modules that is always called": lambda _: register_module_forward_hook(
        of_linear(lambda output: 3 * output), always_call=True
    ),
}
BEFORE: dict[str, Hooking] = {
    "a pre-hook": lambda m: m[2].register_forward_pre_hook(lambda _module, args: (3 * args[0],)),
    "a pre-hook with keywords": lambda m: m[2].register_forward_pre_hook(
        lambda _module, args, _kwargs: ((), {"input": 3 * args[0]}), with_kwargs=True
    ),
    "a pre-hook of all modules": lambda _: register_module_forward_pre_hook(of_linear(lambda x: (3 * x,))),
}
PLACES = {  # (factor on the input, factor on the output) of the layers 0 and 2
    **dict.fromkeys(AFTER, ((1, 3), (1, 1))),
    **dict.fromkeys(BEFORE, ((1, 1), (3, 1))),
    **dict.fromkeys([name for name in AFTER if "all modules" in name], ((1, 3), (1, 3))),
    "a pre-hook of all modules": ((3, 1), (3, 1)),
}


@pytest.fixture(autouse=True)
def _no_hook_of_all_modules_is_left() -> Iterator[None]:
    yield
    assert not torch.nn.modules.module._has_any_global_hook()


def run(method: type, model: nn.Sequential, fisher: str, late: Hooking | None = None, steps: int = 3) -> list[Tensor]:
    optimizer = method(model, schedule=1, fisher=fisher, generator=torch.Generator().manual_seed(0))
    handle = late(model) if late else None
    for seed in range(steps):
        train_step(model, optimizer, *batch(8, 4, seed=seed))
    if handle is not None:
        handle.remove()
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("put_on", ["before", "after"])
@pytest.mark.parametrize("fisher", ["layerwise", "sampled", "empirical"])
@pytest.mark.parametrize("name", PLACES)
@METHODS
def test_a_hook_that_changes_an_input_or_an_output_trains_as_the_module_that_does_it(method, name, fisher, put_on):
    hooking, hooked, written = (AFTER | BEFORE)[name], mlp(4, 5, 3), mlp(4, 5, 3)
    for place, factors in zip((0, 2), PLACES[name], strict=True):
        written[place] = Scaled(written[place], *factors)
    if put_on == "after":
        found = run(method, hooked, fisher, hooking)
    else:
        handle = hooking(hooked)
        found = run(method, hooked, fisher)
        handle.remove()
    assert all(torch.equal(*pair) for pair in zip(found, run(method, written, fisher), strict=True))


def test_of_two_optimizers_each_sees_a_layers_own_output_before_a_hook_that_came_between_them():
    models = [mlp(4, 5, 3), mlp(4, 5, 3)]
    models[1][0] = Scaled(models[1][0], 1, 3)
    for model in models:
        first = LNGD(model, schedule=1, generator=torch.Generator().manual_seed(0))
        if model is models[0]:
            model[0].register_forward_hook(lambda _module, _args, output: 3 * output, prepend=True)
        second = KFAC(model)
        for seed in range(3):
            train_step(model, first, *batch(8, 4, seed=seed))
        second.close()
    assert all(torch.equal(*pair) for pair in zip(*(model.parameters() for model in models), strict=True))


def test_a_call_that_fails_leaves_hooks_that_run_once_in_the_next():
    model, handle = mlp(4, 5, 3), register_module_forward_hook(of_linear(lambda output: 3 * output))
    run(LNGD, model, "layerwise", lambda _: model[0].register_forward_pre_hook(fails_once()), steps=1)
    handle.remove()
    model[0](batch(8, 4)[0])


def fails_once() -> Callable[..., None]:
    """A hook on a layer whose call fails, and is made again."""
    failed = []

    def hook(module: nn.Module, _args: tuple) -> None:
        if not failed:
            failed.append(True)
            with pytest.raises(RuntimeError):
                module(torch.ones(2, 3, dtype=torch.float64))

    return hook


CHANGED_ON_THE_WAY_BACK: dict[str, Hooking] = {
    "of the output's gradient": lambda m: m[0].register_forward_hook(
        lambda _m, _args, output: output.register_hook(lambda g: 3 * g) and None
    ),
    "full": lambda m: m[2].register_full_backward_hook(lambda _module, g, _output_g: (3 * g[0],)),
    "full, before": lambda m: m[2].register_full_backward_pre_hook(lambda _module, g: (3 * g[0],)),
    "of an activation": lambda m: m[1].register_full_backward_hook(lambda _module, g, _output_g: (3 * g[0],)),
}


@pytest.mark.parametrize("put_on", ["before", "after"])
@pytest.mark.parametrize("name", CHANGED_ON_THE_WAY_BACK)
def test_samples_stay_those_of_the_weights_gradient_where_a_hook_changes_gradients(name, put_on):
    model, (x, y) = mlp(4, 5, 3), batch(8, 4)
    if put_on == "before":
        CHANGED_ON_THE_WAY_BACK[name](model)
    optimizer = LNGD(model, step_size=LayerwiseRate(samples=None))
    if put_on == "after":
        CHANGED_ON_THE_WAY_BACK[name](model)
    F.cross_entropy(model(x), y).backward()
    samples = optimizer._capture.gather()
    assert set(samples) == {"0", "2"}
    for place, (sample,) in samples.items():
        torch.testing.assert_close(sample.g.mT @ sample.x, model[int(place)].weight.grad)
