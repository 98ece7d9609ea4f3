"""The plain Algorithm 1 against the optimizer over whole runs, against dense matrices, and against the page that shows it."""

import copy
import math
import re
import runpy
import textwrap
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lngd.reference
from lngd import LNGD, PAPER, Factors, Schedule
from lngd.reference import Algorithm1
from reference import batch, factors, per_sample_gradients, train_step, with_ones

STEPS, LR, SEED = 12, 0.03, 3
CURVATURE_EVERY, INVERSE_EVERY = 2, 3
UNBOUNDED = {"damping": 0.3, "damping_bounds": (1e-5, math.inf)}
PAGE = Path(__file__).parents[1] / "docs" / "algorithm.md"


def by_the_library(model: nn.Module, **options) -> LNGD:
    """The paper's recipe at short intervals. Nothing else here knows the optimizer's arguments.

    Args:
        model: to train.
        options: `weight_decay`, `damping` and `damping_bounds` where they are not the paper's.
    """
    options = dict(options)
    factors: Factors = PAPER["factors"]
    if "damping_bounds" in options:
        factors = replace(factors, damping_bounds=options.pop("damping_bounds"))
    schedule: Schedule = replace(PAPER["schedule"], curvature_every=CURVATURE_EVERY, inverse_every=INVERSE_EVERY)
    recipe = {**PAPER, "schedule": schedule, "factors": factors, **options}
    return LNGD(model, lr=LR, generator=torch.Generator().manual_seed(SEED), **recipe)


def by_the_reference(model: nn.Sequential, **options) -> Algorithm1:
    """The same of the plain algorithm, whose defaults are the paper's."""
    intervals = {"curvature_every": CURVATURE_EVERY, "inverse_every": INVERSE_EVERY}
    return Algorithm1(model, lr=LR, generator=torch.Generator().manual_seed(SEED), **{**intervals, **options})


def network(*widths: int, bias: bool = True, activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Linear(i, o, bias=bias), activation()]
    return nn.Sequential(*layers[:-1]).double()


def dead_in_the_middle() -> nn.Sequential:
    """No input gets through the second layer, so its Φ and Ψ are zero."""
    model = network(4, 6, 5, 3, activation=nn.ReLU)
    with torch.no_grad():
        model[2].bias.fill_(-100.0)
    return model


def linear_layers(model: nn.Sequential) -> list[nn.Linear]:
    return [module for module in model if isinstance(module, nn.Linear)]


def theta(linear: nn.Linear) -> Tensor:
    """[W b]."""
    weight = linear.weight.detach()
    return weight if linear.bias is None else torch.cat([weight, linear.bias.detach().unsqueeze(1)], 1)


def set_theta(linear: nn.Linear, matrix: Tensor) -> None:
    with torch.no_grad():
        linear.weight.copy_(matrix[:, : linear.in_features])
        if linear.bias is not None:
            linear.bias.copy_(matrix[:, -1])


def relative_difference(one: Tensor, two: Tensor) -> float:
    return ((one - two).norm() / two.norm()).item()


RUNS = {
    "the paper's recipe": (lambda: network(4, 6, 5, 3), {}),
    "without biases": (lambda: network(4, 6, 5, 3, bias=False), {}),
    "without weight decay": (lambda: network(4, 6, 5, 3), {"weight_decay": 0.0}),
    "strong weight decay": (lambda: network(4, 6, 5, 3), {"weight_decay": 0.5}),
    "strong weight decay without biases": (lambda: network(4, 6, 5, 3, bias=False), {"weight_decay": 0.5}),
    "damping that no bound cuts": (lambda: network(4, 6, 5, 3), UNBOUNDED),
    "one layer": (lambda: network(4, 3), {}),
    "two layers with nothing between": (lambda: network(4, 6, 3, activation=nn.Identity), {}),
    "an activation that is not element-wise": (lambda: network(4, 6, 5, 3, activation=lambda: nn.Softmax(-1)), {}),
    "a dead layer": (dead_in_the_middle, {}),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_optimizer_trains_to_the_weights_of_the_plain_algorithm(name):
    build, options = RUNS[name]
    model = build()
    algorithm, optimizer, start = by_the_reference(model, **options), by_the_library(model, **options), copy.deepcopy(model)
    for step in range(STEPS):
        if step == STEPS // 2:  # momentum keeps what the rate was before
            algorithm.lr = optimizer.param_groups[0]["lr"] = LR / 3
        x, y = batch(32, 4, seed=step)
        loss = train_step(model, optimizer, x, y)
        torch.testing.assert_close(algorithm.step(x, lambda z, y=y: F.cross_entropy(z, y)), loss, rtol=1e-10, atol=0)
        for linear, layer in zip(linear_layers(model), algorithm.layers, strict=True):
            assert relative_difference(theta(linear), layer.theta) < 1e-10, f"step {step}"
    assert relative_difference(algorithm.layers[-1].theta, theta(linear_layers(start)[-1])) > 0.01


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_layers_steps_are_dense_linear_algebra(index, bias):
    """F̂ written out and solved, dᵀFd from per-sample Jacobians, averages as sums over all measurements."""
    model = network(3, 4, 3, 3, bias=bias)
    algorithm = Algorithm1(model, lr=LR, generator=noise(), curvature_every=1, inverse_every=1, weight_decay=0.1, **UNBOUNDED)
    drawn, measured, momentum = noise(), [], 0.0
    for step in range(3):
        for linear, layer in zip(linear_layers(model), algorithm.layers, strict=True):
            set_theta(linear, layer.theta)
        x, y = batch(8, 3, seed=step)
        measured.append(measured_by_loops(model, x, index, drawn))
        phi, psi = (weighted_mean(statistics, 0.95) for statistics in zip(*measured, strict=True))
        fisher = torch.kron(damped(torch.diag(psi)), damped(phi))
        gradients = sample_gradients_of(model, x, y, index)  # [n, o·i]
        gradient = gradients.mean(0)
        d = torch.linalg.solve(fisher, gradient)
        alpha = d @ gradient / (d @ (gradients.T @ gradients / len(x)) @ d + 1e-8)
        momentum = 0.9 * momentum - LR * alpha * d
        before = algorithm.layers[index].theta
        algorithm.step(x, lambda z, y=y: F.cross_entropy(z, y))
        expected = (1 - LR * 0.1) * before + momentum.reshape(before.shape)
        assert relative_difference(algorithm.layers[index].theta, expected) < 1e-10


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def measured_by_loops(model: nn.Sequential, x: Tensor, index: int, drawn: torch.Generator) -> tuple[Tensor, Tensor]:
    """Φ and Ψ of a layer, g by the Jacobian of each sample's activation; takes every layer's noise from the generator."""
    linear = linear_layers(model)
    epsilon = [torch.empty(len(x), layer.out_features, dtype=torch.float64).normal_(generator=drawn) for layer in linear]
    a = x
    for layer in linear[:index]:
        a = layer(a).detach().tanh()
    activation = torch.tanh if index < len(linear) - 1 else torch.clone
    s = linear[index](a).detach()
    g = torch.stack([torch.func.jacrev(activation)(row).T @ noise for row, noise in zip(s, epsilon[index], strict=True)])
    a = a if linear[index].bias is None else with_ones(a)
    return factors(a.unsqueeze(1), g.square().unsqueeze(1))


def weighted_mean(measured: tuple[Tensor, ...], decay: float) -> Tensor:
    """Σₖ ϵᵏ Φₖ / Σₖ ϵᵏ, the last measurement first."""
    weights = [decay**k for k in range(len(measured))]
    return sum(w * one for w, one in zip(weights, reversed(measured), strict=True)) / sum(weights)


def damped(factor: Tensor) -> Tensor:
    return factor + UNBOUNDED["damping"] * factor.trace() / len(factor) * torch.eye(len(factor), dtype=torch.float64)


def sample_gradients_of(model: nn.Sequential, x: Tensor, y: Tensor, index: int) -> Tensor:
    """vec(∇⁽ⁿ⁾) of [W b], row by row."""
    found = per_sample_gradients(model, x, y)
    weight, bias = found[f"{2 * index}.weight"], found.get(f"{2 * index}.bias")
    return (weight if bias is None else torch.cat([weight, bias.unsqueeze(2)], 2)).flatten(1)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(),
        nn.Sequential(nn.Linear(2, 2), nn.Tanh()),
        nn.Sequential(nn.Flatten(), nn.Linear(2, 2)),
        nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True), nn.Linear(2, 2)),
    ],
)
def test_a_model_that_the_plain_algorithm_would_get_wrong_is_refused(model):
    with pytest.raises(TypeError, match=r"begin and end with nn\.Linear"):
        Algorithm1(model, lr=0.1, generator=noise())


def code_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_the_pages_example_runs_and_finds_no_difference(tmp_path):
    example = tmp_path / "example.py"
    example.write_text(code_blocks()[0])
    assert runpy.run_path(str(example))["difference"] < 1e-12


def test_every_other_block_of_the_page_stands_in_the_file():
    source = Path(lngd.reference.__file__).read_text()
    for block in code_blocks()[1:]:
        assert any(textwrap.indent(block, indent) in source for indent in ("", " " * 4, " " * 8)), block


def test_the_page_shows_the_whole_file_in_its_order():
    source = Path(lngd.reference.__file__).read_text()
    code = source[source.index("class Layer") :]
    shown = "".join(code_blocks()[1:])
    assert bare_lines(shown) == bare_lines(code)


def bare_lines(code: str) -> list[str]:
    """Without docstrings, blank lines and indentation."""
    without = re.sub(r'"""(.*?)"""', "", code, flags=re.DOTALL)
    return [line.strip() for line in without.splitlines() if line.strip()]
