"""InvariantRate: against per-sample gradients in float64, the same run for every scale of the loss, and bounded steps."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lngd import LNGD, Factors, InvariantRate, Schedule, SpectralLNGD
from lngd.methods import Method
from reference import batch

EVERY_STEP = {"schedule": Schedule(curvature_every=1, inverse_every=1, ramp=False, refresh_over=1, samples=None)}


def conv() -> nn.Sequential:
    return nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3))


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 3))


def sequence() -> nn.Sequential:
    return nn.Sequential(nn.Unflatten(1, (4, 4)), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def gradients_of(model: nn.Sequential, x: Tensor, y: Tensor) -> dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Of each layer and each sample, or token: its own loss's gradient as [W b], g at the output, the output s, the input."""
    outputs, inputs = {}, {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):

            def keep(_module: nn.Module, args: tuple, output: Tensor, name: str = name) -> None:
                outputs[name], inputs[name] = output, args[0].detach()
                output.retain_grad()

            hooks.append(module.register_forward_hook(keep))
    z = model(x)
    for hook in hooks:
        hook.remove()
    losses = F.cross_entropy(z.flatten(0, -2), y.flatten(), reduction="none")
    found: dict[str, list] = {name: [] for name in outputs}
    tokens = z.dim() > 2
    for n, loss in enumerate(losses):
        model.zero_grad()
        for output in outputs.values():
            output.grad = None
        loss.backward(retain_graph=True)
        for name, output in outputs.items():
            weight, bias = model.get_submodule(name).weight, model.get_submodule(name).bias
            gradient = torch.cat([weight.grad.flatten(1), bias.grad.unsqueeze(1)], 1)
            row = n // z.shape[1] if tokens else n
            own = (row, n % z.shape[1]) if tokens else (row,)
            found[name].append((gradient, output.grad[own], output.detach()[own], inputs[name][own]))
    model.zero_grad()
    return {name: tuple(map(torch.stack, zip(*each, strict=True))) for name, each in found.items()}


class Expected:
    """The rate in words of its docstring."""

    def __init__(self) -> None:
        self.kappa, self.largest = 0.0, 0.0

    def alpha(self, weight: Tensor, d: Tensor, mean: Tensor, each: tuple[Tensor, Tensor, Tensor, Tensor]) -> float:
        gradients, g, s, a = each
        dFd = (gradients * d).sum((1, 2)).square().mean().item()
        squared_g = g.flatten(1).square().sum(1).mean().item()
        gain = a.square().mean().item() * s[0].numel()  # what inputs of this size give at unit gain
        length_s = math.sqrt(max(s.flatten(1).square().sum(1).mean().item(), 0.01 * gain))
        self.largest = max(math.sqrt(squared_g), 0.99 * self.largest)
        kappa = (self.largest / length_s) / squared_g * dFd / (d * mean).sum().item()
        self.kappa = max(kappa, 0.9 * self.kappa + 0.1 * kappa)
        alike = math.sqrt(len(weight))
        norm = max(weight.norm().item(), 0.1 * alike)
        return min(1 / self.kappa, 0.2 * min(norm, math.sqrt(norm * alike)) / d.norm().item())


@pytest.mark.parametrize("kind", ["constructor", "micro-batches", "scaled"])
@pytest.mark.parametrize("make", [plain, conv, sequence])
@pytest.mark.parametrize("gain", [0.01, 1.0, 8.0])
def test_rates_and_steps_are_those_of_per_sample_gradients(make, gain, kind):
    torch.manual_seed(3)
    model = make().double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(gain)
    mean_over = "token" if make is sequence else "batch"
    options = {"momentum": 0.0, "warmup": 0, "keep_norms": False, "factors": Factors(convolution="full")}
    optimizer = LNGD(model, lr=0.3, step_size=InvariantRate(samples=None), mean_over=mean_over, **options, **EVERY_STEP)
    layers = {name: model.get_submodule(name) for name in optimizer.blocks}
    rules = {name: Expected() for name in layers}
    for seed in range(6):
        x = torch.randn(12, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        y = torch.randint(3, (12, 4) if make is sequence else (12,), generator=torch.Generator().manual_seed(seed))
        each = gradients_of(model, x, y)
        before = {name: torch.cat([m.weight.detach().flatten(1), m.bias.detach().unsqueeze(1)], 1) for name, m in layers.items()}
        weights = {name: m.weight.detach().flatten(1).clone() for name, m in layers.items()}
        optimizer.zero_grad()
        parts = [(x, y)] if kind != "micro-batches" else [(x[:5], y[:5]), (x[5:], y[5:])]
        for part, labels in parts:
            share = len(part) / len(x) if kind == "micro-batches" else 1.0
            loss = F.cross_entropy(model(part).flatten(0, -2), labels.flatten()) * share
            (loss * 64.0 if kind == "scaled" else loss).backward()
        if kind == "scaled":
            for p in model.parameters():
                p.grad /= 64.0
            optimizer.grad_scale = 64.0
        optimizer.step()
        for name, module in layers.items():
            after = torch.cat([module.weight.detach().flatten(1), module.bias.detach().unsqueeze(1)], 1)
            alpha = optimizer.rates[name].item()
            d = (before[name] - after) / (0.3 * alpha)
            expected = rules[name].alpha(weights[name], d, each[name][0].mean(0), each[name])
            assert alpha == pytest.approx(expected, rel=1e-6), (seed, name)


def trained(
    model: nn.Module, scale: float, loss_of: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy, method: type[Method] = LNGD
) -> list[Tensor]:
    """All weights after some steps on a loss with a factor."""
    optimizer = method(model, generator=torch.Generator().manual_seed(5))
    for seed in range(12):
        x, y = batch(16, 16, seed=seed, dtype=torch.float32)
        optimizer.zero_grad()
        (scale * loss_of(model(x), y)).backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


class Branch(nn.Module):
    """A projection that begins at zero, as of LoRA, ControlNet or Fixup, behind layers that see no gradient at first."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.inner, self.zero = nn.Linear(16, 8), nn.Linear(16, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)
        for p in self.zero.parameters():
            nn.init.zeros_(p)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.trunk(x) + self.zero(torch.tanh(self.inner(x)))))


@pytest.mark.parametrize("make", [plain, conv, Branch])
@pytest.mark.parametrize("power", [-20, 1, 20])
@pytest.mark.parametrize("method", [LNGD, SpectralLNGD])
def test_a_factor_on_the_loss_changes_nothing(method, make, power):
    """From 2⁻²⁰ to 2²⁰ bit by bit."""
    runs = []
    for scale in (1.0, 2.0**power):
        torch.manual_seed(2)
        runs.append(trained(make(), scale, method=method))
    assert all(torch.equal(one, two) for one, two in zip(*runs, strict=True))


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 300.0, 1e6])
def test_a_factor_that_rounds_changes_next_to_nothing(scale):
    runs = []
    for factor in (1.0, scale):
        torch.manual_seed(2)
        runs.append(trained(plain(), factor))
    for one, two in zip(*runs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_targets_and_outputs_in_other_units_change_nothing():
    """Outputs multiplied outside of the model: a factor on the loss is all that the layers see."""
    runs = []
    for unit in (1.0, 2.0**10):
        torch.manual_seed(2)
        runs.append(trained(plain(), 1.0, lambda z, y, u=unit: F.mse_loss(u * z, u * F.one_hot(y, 3).float())))
    assert all(torch.equal(one, two) for one, two in zip(*runs, strict=True))


@pytest.mark.parametrize("make", [plain, conv, Branch, sequence])
@pytest.mark.parametrize("std", [None, 0.001, 0.02, 3.0])
def test_no_layer_leaves_its_own_size_at_once(make, std):
    """A step moves a weight by lr · max_move of its norm, or of what its norm would be at unit gain, at most."""
    torch.manual_seed(4)
    model = make()
    if std is not None:
        for p in model.parameters():
            if p.dim() > 1 and p.any():
                nn.init.normal_(p, std=std)
    optimizer = LNGD(model, warmup=0)
    for seed in range(10):
        before = {name: model.get_submodule(name).weight.detach().clone() for name in optimizer.blocks}
        x, y = batch(16, 16, seed=seed, dtype=torch.float32)
        optimizer.zero_grad()
        z = model(x)
        F.cross_entropy(z.mean(1) if z.dim() > 2 else z, y).backward()
        optimizer.step()
        for name, old in before.items():
            most = 0.25 * 0.2 * max(old.norm().item(), 0.1 * math.sqrt(len(old)))
            moved = (model.get_submodule(name).weight.detach() - old).norm().item()
            assert moved < 1.001 * most
            assert moved > 0 or seed == 0  # behind a zero there is no gradient yet


def test_what_begins_at_zero_and_what_lies_behind_it_moves():
    torch.manual_seed(2)
    model, x = Branch(), torch.randn(64, 16)
    y = (x[:, 0] * x[:, 1] > 0).long()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = LNGD(model)
    for _ in range(30):
        optimizer.zero_grad()
        (1e-4 * F.cross_entropy(model(x), y)).backward()
        optimizer.step()
    for name, p in model.named_parameters():
        assert (p.detach() - start[name]).abs().max() > 0.01, name


@pytest.mark.parametrize("size", [1.0, 30.0, 300.0])
def test_large_targets_are_reached(size):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer, draw = LNGD(model), torch.Generator().manual_seed(0)
    losses = []
    for _ in range(300):
        x = torch.randn(64, 8, generator=draw)
        loss = F.mse_loss(model(x), size * (x[:, :1] + x[:, 1:2].abs() + 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item() / size**2)
    assert losses[-1] < (0.5 if size < 100 else 0.8 * losses[0])


def test_one_exploding_gradient_does_not_stop_a_layer_for_good():
    """Of the largest gradient and curvature of late a thousand times today's is remembered at most."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    optimizer, moves = LNGD(model, warmup=0, momentum=0.0), []
    for step in range(4):
        x, y = batch(32, 8, seed=step, dtype=torch.float32)
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        ((1e12 if step == 1 else 1.0) * F.cross_entropy(model(x), y)).backward()
        optimizer.step()
        moves.append([float((p.detach() - old).norm()) for p, old in zip(model.parameters(), before, strict=True)])
    assert all(moved > 1e-6 for moved in moves[2] + moves[3])


def test_a_bias_moves_where_inputs_weight_and_bias_are_zero():
    """As a decoder's queries that begin at zero: the layer's output is zero, and the constant is all that reaches it."""
    model = nn.Linear(4, 3)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = LNGD(model, warmup=0)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.zeros(16, 4)), torch.zeros(16, dtype=torch.long)).backward()
        optimizer.step()
    assert model.bias.abs().min() > 1e-3
    assert not model.weight.any()


def test_a_batch_without_any_gradient_leaves_the_rate_as_it_was():
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = LNGD(model, warmup=0)
    kept = []
    for step in range(6):
        x, _ = batch(32, 8, seed=step, dtype=torch.float32)
        optimizer.zero_grad()
        (F.relu(1.0 - model(x)).mean() * (step != 4)).backward()
        optimizer.step()
        kept.append({key: value for key, value in optimizer.stats().items() if "gradient_norm" in key})
    assert all(0.98 * kept[3][key] < value < kept[3][key] for key, value in kept[4].items())
