"""What a user reads who writes what other optimizers take: the error or the warning says what to write."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

import lngd
from lngd import KFAC, LNGD, FisherType, Graft, LNGDSample, NGPlus, SpectralLNGD
from lngd.optimizer import NaturalGradient
from reference import batch, mlp, train_step

SINGLE = torch.float32
METHODS = [kind for kind in vars(lngd).values() if isinstance(kind, type) and issubclass(kind, NaturalGradient)]
every_method = pytest.mark.parametrize("method", METHODS)


def untouched(model: nn.Module) -> bool:
    """Whether there is no hook on a model."""
    hooks = [hook for module in model.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]
    return not hooks and not any(p._post_accumulate_grad_hooks for p in model.parameters())


FIRST: dict[str, tuple[Callable[[nn.Module], object], str]] = {
    "parameters": (lambda m: m.parameters(), "not its parameters"),
    "a list": (lambda m: list(m.parameters()), "not its parameters"),
    "named parameters": (lambda m: m.named_parameters(), "not its parameters"),
    "groups": (lambda m: [{"params": m.parameters()}], "not parameter groups"),
    "a tensor": (lambda m: m[0].weight, "not a tensor"),
    "nothing": (lambda _: None, "not None"),
}


@pytest.mark.parametrize("given", FIRST)
@every_method
def test_the_model_comes_first(method, given):
    make, said = FIRST[given]
    with pytest.raises(TypeError, match=rf"first argument has to be the model, {said}.*give the model itself, and params="):
        method(make(mlp(4, 3)))


SECOND: dict[str, tuple[Callable[[nn.Module], object], type[Exception], str]] = {
    "a rate": (lambda _: 1e-3, TypeError, r"params=0\.001 is neither parameters nor groups.*keyword: lr=0\.001"),
    "a name": (lambda _: "all", TypeError, "params='all' is neither parameters nor groups"),
    "the model": (lambda m: m, ValueError, "params hold Linear.* not one of the model's own"),
    "one group": (lambda m: {"params": m.parameters()}, ValueError, "params hold 'params' that is not one of the model's own"),
    "another model's": (lambda _: mlp(5, 3).parameters(), ValueError, r"shape \(3, 5\) that is not one of the model's own"),
}


@pytest.mark.parametrize("given", SECOND)
@every_method
def test_parameters_come_second_and_a_rate_is_a_keyword(method, given):
    make, error, said = SECOND[given]
    model = mlp(4, 3)
    with pytest.raises(error, match=said):
        method(model, make(model))
    assert untouched(model)


UNKNOWN = {
    "learning_rate": "the learning rate is lr=",
    "betas": "momentum=.* adamw_betas in a parameter group",
    "eps": "of AdamW's part, adamw_eps in a parameter group; damping=",
    "nesterov": "momentum_on='nesterov'",
    "foreach": "layers step together without being asked",
    "fused": "AdamW's part is fused wherever torch can",
    "rate": "step_size=",
    "mu": r"step_size=lngd\.LayerwiseRate\(mu=",
    "kl_clip": r"step_size=lngd\.KLClip",
    "curvature_every": r"schedule=lngd\.Schedule\(curvature_every=",
    "likelihood": r"fisher=lngd\.Sampled",
    "noise": r"fisher=lngd\.Layerwise",
    "max_factor_dim": r"factors=.*lngd\.Factors\(max_dim=",
    "fallback_lr": "adamw_lr_ratio=",
    "amsgrad": "there are: adamw_lr_ratio, batch_dim, damping, decay, .*weight_decay",
}


@pytest.mark.parametrize("name", UNKNOWN)
@every_method
def test_an_argument_that_other_optimizers_have_is_answered_with_what_to_write(method, name):
    model = mlp(4, 3)
    with pytest.raises(TypeError, match=rf"{method.__name__} has no argument '{name}'; {UNKNOWN[name]}"):
        method(model, **{name: 1})
    assert untouched(model)


def test_what_the_answers_say_to_write_exists():
    for hint in lngd.methods.INSTEAD.values():
        for word in hint.replace("(", " ").split():
            if word.startswith("step_size=lngd."):
                assert hasattr(lngd, word.removeprefix("step_size=lngd."))
            elif word.startswith("lngd."):
                assert hasattr(lngd, word.removeprefix("lngd."))


def test_the_ablation_without_a_step_size_takes_none():
    with pytest.raises(TypeError, match="LNGDSample has no argument 'step_size'; there are"):
        LNGDSample(mlp(4, 3), step_size="kl_clip")


@contextmanager
def one_warning(match: str) -> Iterator[None]:
    """Exactly one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert len(caught) == 1, [str(each.message) for each in caught]
    assert caught[0].category is UserWarning
    with pytest.warns(UserWarning, match=match):
        warnings.warn(caught[0].message, stacklevel=1)


OTHER = "is of another optimizer's size: here it is"
A_SHARE = f"{OTHER} a share of each layer's Newton step; the default of LNGD is 0.25"
A_LENGTH = f"{OTHER} a length of which a weight's entry moves by a fifth, or less where a layer is wide"
ODD: dict[str, tuple[type, dict[str, Any], str]] = {
    "LNGD at AdamW's rate": (LNGD, {"lr": 1e-3}, f"lr=0.001 {A_SHARE}"),
    "LNGD at a smaller one": (LNGD, {"lr": 3e-4}, f"lr=0.0003 {A_SHARE}"),
    "LNGD at a large one": (LNGD, {"lr": 10}, f"lr=10 {A_SHARE}"),
    "SpectralLNGD at AdamW's rate": (SpectralLNGD, {"lr": 1e-3}, f"lr=0.001 {A_LENGTH}; the default of SpectralLNGD is 0.02"),
    "SpectralLNGD at LNGD's rate": (SpectralLNGD, {"lr": 0.5}, f"lr=0.5 {A_LENGTH}; the default of SpectralLNGD is 0.02"),
    "grafted at LNGD's rate": (LNGD, {"step_size": "graft"}, f"lr=0.25 {OTHER} a rate of Adam's; 0.2 would be much"),
    "grafted by an object": (KFAC, {"step_size": Graft(), "lr": 1}, f"lr=1 {OTHER} a rate of Adam's; the default of KFAC is 0.1"),
}


@pytest.mark.parametrize("case", ODD)
def test_an_lr_of_another_optimizers_size_is_warned_of(case):
    method, options, said = ODD[case]
    with one_warning(said):
        method(mlp(4, 3), **options)


USUAL: list[tuple[type, dict[str, Any]]] = [
    (LNGD, {"lr": 0.0}),
    (LNGD, {"lr": 1.0}),
    (LNGD, {"lr": 0.01}),
    (LNGD, {"lr": 1e-3, "step_size": "constant"}),
    (LNGD, {"lr": 1e-3, "step_size": "graft"}),
    (LNGD, {"lr": 1e-4, **lngd.PAPER}),
    (SpectralLNGD, {"lr": 2e-3}),
    (KFAC, {"lr": 1e-3}),
    (NGPlus, {"lr": 1e-3}),
    (LNGDSample, {"lr": 1e-4}),
    (LNGD, {"lr": torch.tensor(1e-3)}),
]


@pytest.mark.parametrize(("method", "options"), USUAL, ids=str)
def test_an_lr_of_its_own_size_is_not_warned_of(method, options):
    method(mlp(4, 3), **options)


def test_a_groups_lr_is_looked_at_too_unless_it_is_adamws():
    model = mlp(4, 3, 2)
    first, last = ({"params": list(model[place].parameters()), "lr": 1e-3} for place in (0, 2))
    with one_warning(f"lr=0.001 {OTHER}"):
        LNGD(model, [first, last])
    LNGD(model, [{"params": first["params"]}, {**last, "curvature": False}])


@every_method
def test_the_defaults_are_not_warned_of(method):
    method(mlp(4, 3))


FISHERS: list[tuple[object, type]] = [
    ("sampled", lngd.Sampled),
    (FisherType.SAMPLED, lngd.Sampled),
    (lngd.Sampled(), lngd.Sampled),
    ("empirical", lngd.Empirical),
    (FisherType.EMPIRICAL, lngd.Empirical),
    ("layerwise", lngd.Layerwise),
    (FisherType.LAYERWISE, lngd.Layerwise),
]


@pytest.mark.parametrize(("given", "kind"), FISHERS, ids=str)
def test_a_fisher_type_is_given_by_its_name_its_member_or_its_object(given, kind):
    runs = []
    for fisher in (given, kind()):
        model, (x, y) = mlp(4, 6, 3), batch(16, 4)
        optimizer = LNGD(model, fisher=fisher, generator=torch.Generator().manual_seed(0))
        train_step(model, optimizer, x, y)
        assert optimizer.param_groups[0]["progress"]["fisher"] == kind.type.value
        runs.append(optimizer.blocks["0"].phi)
    assert torch.equal(*runs)


def test_fisher_types_differ():
    found = []
    for fisher in FisherType:
        model, (x, y) = mlp(4, 6, 3), batch(16, 4)
        optimizer = LNGD(model, fisher=fisher, generator=torch.Generator().manual_seed(0))
        train_step(model, optimizer, x, y)
        found.append(optimizer.blocks["0"].phi)
    assert not any(torch.allclose(found[i], found[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_a_step_size_of_an_unknown_name_is_answered_with_the_known_ones():
    names = "'invariant', 'layerwise', 'graft', 'kl_clip', 'rms', 'constant', or an object such as LayerwiseRate"
    with pytest.raises(ValueError, match=f"step_size='adam' is out of range: it must be one of {names}"):
        LNGD(mlp(4, 3), step_size="adam")


STEP_SIZES = ["layerwise", "graft", "kl_clip", "rms", "constant"]


@pytest.mark.parametrize("step_size", STEP_SIZES)
@pytest.mark.parametrize("momentum_on", ["gradient", "update"])
def test_stats_are_json_without_nan_before_and_after_the_first_step(step_size, momentum_on):
    model, (x, y) = mlp(4, 6, 3, dtype=SINGLE), batch(16, 4, dtype=SINGLE)
    optimizer = LNGD(model, lr=0.1, step_size=step_size, momentum_on=momentum_on)
    before = json.loads(json.dumps(optimizer.stats(), allow_nan=False))
    assert (before["steps"], before["rate/0"], before["rate/2"]) == (0, 0, 0)
    train_step(model, optimizer, x, y)
    after = json.loads(json.dumps(optimizer.stats(), allow_nan=False))
    assert set(after) == set(before)
    assert after["rate/0"] > 0


def test_stats_of_layers_without_a_gradient_are_json_without_nan():
    """A zero head sends nothing back; a branch is not used."""
    model, (x, y) = mlp(4, 6, 3, dtype=SINGLE), batch(16, 4, dtype=SINGLE)
    model.unused = nn.Linear(2, 2)
    model.forward = lambda inputs: model[2](model[1](model[0](inputs)))
    nn.init.zeros_(model[2].weight)
    optimizer = LNGD(model)
    for _ in range(3):
        json.dumps(optimizer.stats(), allow_nan=False)
        train_step(model, optimizer, x, y)
    json.dumps(optimizer.stats(), allow_nan=False)


class Squared(nn.Bilinear):
    """Of an input with itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x, x)


FEW = r"only {}% of the entries of the model's matrices get curvature, AdamW trains the others: {}.*summary"


def test_a_model_of_which_less_than_half_gets_curvature_is_warned_of_with_the_reasons():
    with one_warning(FEW.format(20, r"no curvature for Squared \(16 entries\)")):
        model = nn.Sequential(nn.Linear(2, 2), Squared(2, 2, 4))
        train_step(model, LNGD(model), torch.randn(3, 2), torch.tensor([0, 1, 2]))


def test_half_a_model_without_curvature_or_one_without_matrices_is_not_warned_of():
    half = nn.Sequential(nn.Bilinear(2, 2, 2), nn.Linear(4, 2))
    assert LNGD(half).summary().count("curvature") == 10
    LNGD(nn.LayerNorm(5))
    LNGD(nn.Sequential(nn.LSTM(4, 4).requires_grad_(False), nn.Linear(2, 2)))


def test_parameters_that_were_sent_to_adamw_or_are_on_request_are_not_counted_as_missing():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    LNGD(model, [{"params": model[0].parameters(), "curvature": False}, {"params": model[1].parameters()}])
    LNGD(nn.Sequential(nn.Embedding(50, 4), nn.Linear(4, 2)))


LINES = """
import json, sys, warnings
import torch, torch.nn.functional as F
from torch import nn
from lngd import KFAC, LNGD

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.called, self.other, self.borrowed = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
    def forward(self, x):
        return (self.other(self.called(x)).tanh().unsqueeze(-2) * self.borrowed.weight).sum(-1)

def backward(poison=0.0):
    optimizer.zero_grad()
    model(torch.randn(8, 4)).square().mean().backward()
    model.called.weight.grad[0, 0] += poison

warnings.simplefilter("always")
with warnings.catch_warnings(record=True) as caught:
    odd = LNGD(nn.Linear(2, 2), lr=1e-3)  # lr=0.001 is of another optimizer's size
    weight = torch.nn.utils.parametrizations.orthogonal(nn.Linear(4, 4))
    few = LNGD(weight)
    weight(torch.randn(8, 4)).square().mean().backward()
    few.step()  # only 0%
    model = Net()
    optimizer = LNGD(model, [model.called.weight, model.other.weight, model.borrowed.weight], schedule=1)
    backward()
    optimizer.step()  # layer 'borrowed': AdamW trains it from now on
    backward(poison=torch.nan)
    optimizer.step()  # a gradient or a statistic was not finite
    model.late = nn.Linear(2, 2)
    backward()
    optimizer.step()  # parameter 'late.weight' came into the model
    backward()
    optimizer.blocks["called"].phi.mul_(-1e3)
    optimizer.step()  # layer 'called': Fisher factor not positive definite
    model.tied = nn.Embedding(4, 4)
    model.tied.weight = model.other.weight
    optimizer.add_param_group({"params": model.late.parameters()})  # layer 'other': AdamW trains it from now on
    model = nn.Sequential(nn.Linear(4, 3))
    labelled = KFAC(model)
    model(torch.randn(8, 4)).square().mean().backward()
    labelled.step()  # labels are drawn as classes
print(json.dumps([(each.filename, each.lineno, str(each.message)) for each in caught]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("first", ["", "import torch._dynamo"])
def test_every_warning_points_to_the_line_of_the_user_who_caused_it(tmp_path, first):
    """In a process of its own: the shape checks of these tests lie between the core's functions."""
    script = tmp_path / "script.py"
    text = f"{first}\n{LINES}"
    script.write_text(text)
    environment = {**os.environ, "JAXTYPING_DISABLE": "1"}
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, env=environment)
    caught, lines = json.loads(ran.stdout), text.splitlines()
    expected = [(number, line.partition("  # ")[2]) for number, line in enumerate(lines, 1) if "  # " in line]
    assert [number for _, number, _ in caught] == [number for number, _ in expected]
    assert {filename for filename, _, _ in caught} == {str(script)}
    assert all(message.startswith(start) for (*_, message), (_, start) in zip(caught, expected, strict=True))


def test_the_optimizer_prints_its_groups_and_their_options():
    text = repr(LNGD(mlp(4, 3), lr=0.25))
    assert text.startswith("LNGD (\n  group 0: 2 parameters, lr=0.25, momentum=0.9")
    assert "progress" not in text


def test_a_step_before_any_backward_says_so():
    with pytest.raises(RuntimeError, match=r"step\(\) without a gradient"):
        LNGD(mlp(4, 3)).step()


def test_a_group_that_is_no_dictionary_is_torchs_own_error():
    with pytest.raises(TypeError, match="param_group must be a dict"):
        LNGD(mlp(4, 3)).add_param_group([nn.Parameter(torch.zeros(2))])
