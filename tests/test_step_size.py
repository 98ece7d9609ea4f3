"""α_l against explicit per-sample gradients in float64, and its envelope by hand."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lngd import LNGD, Constant, Factors, FixedRMS, Graft, InvariantRate, KLClip, LayerwiseRate
from lngd.capture import RateSample
from lngd.layers import EmbeddingLayer, LinearLayer
from lngd.step_size import STEP_SIZES, Averages, Directions, StepSize, _squares_of_some_tokens
from reference import batch, mlp, per_sample_gradients, train_step

ACCEPT, REJECT = torch.tensor(True), torch.tensor(False)
Kept: TypeAlias = tuple[dict[str, Tensor], dict[str, list[list[Tensor]]]]
"""Numbers and tensors that a step size keeps of a layer."""


def plain(mu: float = 1e-8, samples: int | None = None) -> dict[str, Any]:
    """Eq. 12 as printed: without momentum, without an envelope, without a warm-up, damped alike whatever a layer sees."""
    step_size, factors = LayerwiseRate(mu=mu, smoothing=0.0, samples=samples), Factors(raw_damping=1.0)
    return {"momentum": 0.0, "warmup": 0, "step_size": step_size, "factors": factors}


def matrix(weight: Tensor, bias: Tensor | None) -> Tensor:
    """`[n, o, i]` with the bias last, from per-sample gradients."""
    rows = weight.flatten(2)
    return rows if bias is None else torch.cat([rows, bias.unsqueeze(-1)], -1)


def direction(optimizer: LNGD, name: str, gradient: Tensor) -> Tensor:
    """F̂⁻¹ ∇ by a dense solve."""
    group = optimizer.param_groups[0]
    phi, psi = optimizer.blocks[name].phi, optimizer.blocks[name].psi
    low, high = Factors().damping_bounds
    phi_damping = (group["damping"] * phi.trace() / len(phi)).clamp(low, high)
    psi_damping = (group["damping"] * psi.mean()).clamp(low, high)
    return torch.diag(1 / (psi + psi_damping)) @ gradient @ torch.linalg.inv(phi + phi_damping * torch.eye(len(phi)))


def expected_rate(optimizer: LNGD, name: str, samples: Tensor, gradient: Tensor, mu: float) -> Tensor:
    """⟨d,∇⟩ / (mean ⟨d,∇⁽ⁿ⟩² + µ)."""
    d = direction(optimizer, name, gradient)
    slopes = (samples * d).flatten(1).sum(1)
    return (d * gradient).sum() / (slopes.square().mean() + mu)


def conv_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 2, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(27, 3)
    ).double()


MODELS = {"mlp": (lambda: mlp(4, 6, 5, 3), (4,)), "conv": (conv_net, (2, 4, 4))}


@pytest.mark.parametrize("mu", [1e-8, 1e-2, 10.0])
@pytest.mark.parametrize("kind", MODELS)
def test_rates_are_those_of_explicit_per_sample_gradients(kind, mu):
    build, shape = MODELS[kind]
    model, (x, y) = build(), batch(12, *shape)
    samples = per_sample_gradients(model, x, y)
    optimizer = LNGD(model, **plain(mu))
    train_step(model, optimizer, x, y)
    for name in optimizer.blocks:
        each = matrix(samples[f"{name}.weight"], samples.get(f"{name}.bias"))
        torch.testing.assert_close(optimizer.rates[name], expected_rate(optimizer, name, each, each.mean(0), mu))


@pytest.mark.parametrize(("n", "wanted", "chosen"), [(12, 4, range(0, 12, 3)), (40, 32, range(0, 40, 2)), (9, 1, range(1))])
def test_a_sub_batch_of_evenly_spread_samples_measures_the_curvature(n, wanted, chosen):
    model, (x, y) = mlp(4, 6, 3), batch(n, 4)
    samples = per_sample_gradients(model, x, y)
    optimizer = LNGD(model, **plain(samples=wanted))
    train_step(model, optimizer, x, y)
    for name in optimizer.blocks:
        each = matrix(samples[f"{name}.weight"], samples[f"{name}.bias"])
        expected = expected_rate(optimizer, name, each[list(chosen)], each.mean(0), 1e-8)
        torch.testing.assert_close(optimizer.rates[name], expected)


def token_net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def per_token_gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """∇⁽ᵗ⟩ of half the squared output at every token of a model without interaction between tokens, `[n·s, o, i]`, by a loop."""
    each: dict[str, list[Tensor]] = {"0": [], "2": []}
    for token in x.flatten(0, 1):
        model.zero_grad()
        (model(token[None]).square().sum() / 2).backward()
        for name, found in each.items():
            module = model.get_submodule(name)
            found.append(matrix(module.weight.grad[None], module.bias.grad[None])[0].clone())
    model.zero_grad()
    return {name: torch.stack(found) for name, found in each.items()}


@pytest.mark.parametrize("positions", [1, 6])
def test_with_a_mean_over_tokens_tokens_are_the_samples_that_measure_the_rate(positions):
    """Per-token gradients, one backward a token, and the mean of ⟨d, ∇⁽ᵗ⟩² over all of them."""
    model, x = token_net(), batch(10, positions, 4)[0] + 1  # tokens that agree: the gradients of a sequence add up
    each = per_token_gradients(model, x)
    optimizer = LNGD(model, mean_over="token", **plain())
    (model(x).square().sum(-1).mean() / 2).backward()
    optimizer.step()
    for name, tokens in each.items():
        torch.testing.assert_close(optimizer.rates[name], expected_rate(optimizer, name, tokens, tokens.mean(0), 1e-8))


@pytest.mark.parametrize("seen", [1.0, 0.02])
@pytest.mark.parametrize("scale", [None, 3.0])
def test_of_many_tokens_some_measure_the_rate_and_their_expectation_is_that_of_all(seen, scale):
    """Also where the loss sees a few tokens only: those are the ones that are drawn."""
    torch.manual_seed(0)
    layer = LinearLayer(nn.Linear(6, 5, dtype=torch.float64), with_bias=True)
    x, g = torch.randn(4, 2000, 6, dtype=torch.float64), torch.randn(4, 2000, 5, dtype=torch.float64)
    g *= (torch.rand(4, 2000, 1) < seen) * torch.rand(4, 2000, 1).exp()
    d = torch.randn(5, 7, dtype=torch.float64)
    scale = None if scale is None else torch.tensor(scale, dtype=torch.float64)
    slopes = (layer.output(x, d) * g).sum(-1)
    of_all = slopes.square().sum(1).mean() / (1.0 if scale is None else scale**2)
    estimates = []
    for _ in range(40):
        order = torch.randperm(8000)
        mixed = [t.flatten(0, 1)[order].unflatten(0, (4, 2000)) for t in (x, g)]
        estimates.append(_squares_of_some_tokens(layer, d, RateSample(*mixed, batch=4, forward_id=0), scale, 128))
    assert estimates[0].shape == (4,)
    each = torch.stack([estimate.mean() for estimate in estimates])
    assert each.std() < 0.3 * of_all
    torch.testing.assert_close(each.mean(), of_all, rtol=0.08, atol=0)


def test_many_tokens_measure_the_rate_exactly_if_one_of_them_has_a_gradient_or_none():
    layer, d = LinearLayer(nn.Linear(6, 5, dtype=torch.float64), with_bias=True), torch.randn(5, 7, dtype=torch.float64)
    x, g = torch.randn(2, 300, 6, dtype=torch.float64), torch.zeros(2, 300, 5, dtype=torch.float64)
    for filled in (False, True):
        if filled:
            g[1, 299] = torch.randn(5, dtype=torch.float64)
        squares = (layer.output(x, d) * g).sum(-1).square().sum(1)
        found = _squares_of_some_tokens(layer, d, RateSample(x, g, batch=2, forward_id=0), None, 128)
        torch.testing.assert_close(found.mean(), squares.mean())


@pytest.mark.parametrize(("samples", "rows"), [(16, 128), (None, 160)])
def test_a_step_measures_the_rate_on_as_many_tokens_as_its_samples_stand_for(samples, rows, monkeypatch):
    seen, output = [], LinearLayer.output

    def counted(layer: LinearLayer, x: Tensor, direction: Tensor) -> Tensor:
        seen.append(x[..., 0].numel())
        return output(layer, x, direction)

    monkeypatch.setattr(LinearLayer, "output", counted)
    model, x = token_net(), batch(4, 40, 4)[0]
    optimizer = LNGD(model, mean_over="token", **plain(samples=samples))
    (model(x).square().sum(-1).mean() / 2).backward()
    optimizer.step()
    assert set(seen) == {rows}


def test_tokens_of_a_layer_called_twice_count_each_by_itself():
    """Two calls are two sets of tokens: their slopes are squared before anything is added up."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.layer = nn.Linear(4, 4, dtype=torch.float64)

        def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer(x), self.layer(z)

    model, x, z = Twice(), batch(6, 3, 4, seed=0)[0], batch(6, 3, 4, seed=1)[0]
    optimizer = LNGD(model, mean_over="token", **plain())
    one, two = model(x, z)
    (one.square().sum(-1).mean() / 2 + two.square().sum(-1).mean() / 2).backward()
    gradient = matrix(model.layer.weight.grad[None], model.layer.bias.grad[None])[0]
    ones = torch.ones(6 * 3, 1, dtype=torch.float64)
    rows = [torch.cat([part.flatten(0, 1), ones], 1) for part in (x, z)]
    each = [
        torch.stack([torch.outer(g, a) for g, a in zip(s.flatten(0, 1).detach(), r, strict=True)])
        for s, r in zip((one, two), rows, strict=True)
    ]
    optimizer.step()
    d = direction(optimizer, "layer", gradient)
    squares = [(tokens * d).flatten(1).sum(1).square().mean() for tokens in each]
    torch.testing.assert_close(optimizer.rates["layer"], (d * gradient).sum() / (squares[0] + squares[1] + 1e-8))


def test_the_rate_of_a_layer_called_twice_uses_whole_per_sample_gradients():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.layer = nn.Linear(4, 4, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x).tanh())

    model, (x, y) = Twice(), batch(10, 4, classes=4)
    samples = per_sample_gradients(model, x, y)
    optimizer = LNGD(model, **plain())
    train_step(model, optimizer, x, y)
    each = matrix(samples["layer.weight"], samples["layer.bias"])
    torch.testing.assert_close(optimizer.rates["layer"], expected_rate(optimizer, "layer", each, each.mean(0), 1e-8))


def test_the_rate_minimises_the_layers_quadratic_model():
    """h(−α d) = −α⟨d,∇⟩ + ½α² dᵀFd is least at α_l (eq. 6 with the empirical Fisher matrix)."""
    model, (x, y) = mlp(4, 3), batch(20, 4)
    samples = per_sample_gradients(model, x, y)
    each = matrix(samples["0.weight"], samples["0.bias"])
    optimizer = LNGD(model, **plain(mu=0.0))
    train_step(model, optimizer, x, y)
    d = direction(optimizer, "0", each.mean(0)).flatten()
    fisher = each.flatten(1).T @ each.flatten(1) / 20
    alphas = optimizer.rates["0"] * torch.tensor([0.9, 1.0, 1.1], dtype=torch.float64)
    model_values = -alphas * d.dot(each.mean(0).flatten()) + 0.5 * alphas**2 * (d @ fisher @ d)
    assert model_values.argmin() == 1


def kept_by(rule: StepSize, weight: Tensor | None = None) -> Kept:
    """What a step size keeps of one layer, as it is before the first step."""
    weight = torch.zeros(1, 1, dtype=torch.float64) if weight is None else weight
    return {name: weight.new_zeros(1) for name in rule.memory}, {name: [[torch.zeros_like(weight)]] for name in rule.tensors}


def move(curvature: float | None, kept: Kept, *, slope: float = 1.0, accept: Tensor = ACCEPT) -> Directions:
    """A step along a single coordinate with ⟨d,∇⟩ = slope; dᵀFd is that of one sample with x = √curvature and g = 1."""
    one = torch.ones(1, 1, dtype=torch.float64)
    samples = [] if curvature is None else [RateSample(math.sqrt(curvature) * one, one, batch=1, forward_id=0)]
    return directions(slope * one, one, kept, samples=samples, accept=accept)


def directions(
    gradient: Tensor, d: Tensor, kept: Kept, *, samples: Sequence[RateSample] = (), accept: Tensor = ACCEPT
) -> Directions:
    """A step of one linear layer without bias, where ∇ itself was preconditioned."""
    layer = LinearLayer(nn.Linear(d.shape[1], d.shape[0], bias=False, dtype=d.dtype), with_bias=False)
    memory, tensors = kept
    return Directions(
        layers=[layer],
        averages=Averages([[gradient]], [[gradient]], [gradient], [gradient.flatten()]),
        directions=[d],
        samples=[samples],
        memory=memory,
        tensors=tensors,
        accept=accept,
        squared_scale=None,
        mean_over="batch",
        lr=1.0,
    )


def test_the_envelope_rises_at_once_and_falls_slowly():
    rule = LayerwiseRate(mu=0.0, smoothing=0.9)
    kept = kept_by(rule)
    kappas = [1 / rule.alpha(move(curvature, kept)).item() for curvature in (2.0, 5.0, 1.0, 1.0, 8.0)]
    assert kappas == pytest.approx([2.0, 5.0, 0.9 * 5 + 0.1, 0.9 * 4.6 + 0.1, 8.0])


def test_the_curvature_is_taken_in_units_of_the_slope():
    rule = LayerwiseRate(mu=3.0, smoothing=0.0)
    assert rule.alpha(move(2.0, kept_by(rule), slope=0.5)).item() == pytest.approx(0.5 / (2.0 + 3.0))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_curvature_that_is_not_finite_is_forgotten(bad):
    rule = LayerwiseRate(mu=0.0, smoothing=0.9)
    kept = kept_by(rule)
    rule.alpha(move(4.0, kept))
    assert rule.alpha(move(bad, kept)).item() == 0.25
    assert kept[0]["kappa"].item() == 4.0


def test_a_rejected_step_leaves_the_envelope():
    rule = LayerwiseRate(mu=0.0, smoothing=0.9)
    kept = kept_by(rule)
    rule.alpha(move(4.0, kept))
    rule.alpha(move(100.0, kept, accept=REJECT))
    assert kept[0]["kappa"].item() == 4.0


def test_without_any_sample_the_last_curvature_serves_and_else_nothing_moves():
    rule = LayerwiseRate(mu=0.0, smoothing=0.9)
    kept = kept_by(rule)
    assert rule.alpha(move(None, kept)).item() == 0.0
    rule.alpha(move(4.0, kept))
    assert rule.alpha(move(None, kept)).item() == 0.25


ZERO_STARTED = [LayerwiseRate(mu=0.0, smoothing=0.9), LayerwiseRate(mu=1e-8, smoothing=0.0), Graft(), FixedRMS()]


@pytest.mark.parametrize("rule", ZERO_STARTED)
def test_a_zero_gradient_moves_nothing_and_leaves_a_finite_state(rule):
    zero = torch.zeros(2, 3)
    kept, samples = kept_by(rule, zero), [RateSample(torch.zeros(1, 3), torch.zeros(1, 2), batch=1, forward_id=0)]
    alpha = rule.alpha(directions(zero, zero, kept, samples=samples))
    assert alpha.isfinite()
    assert alpha.item() == 0.0
    assert all(value.isfinite().all() for value in (*kept[0].values(), *(t for part in kept[1].values() for (t,) in part)))


def test_a_constant_rate_is_one():
    assert Constant().alpha(move(7.0, kept_by(Constant()))).item() == 1.0


@pytest.mark.parametrize("rms", [0.2, 3.0])
def test_a_fixed_rate_makes_every_entry_move_by_the_same_root_mean_square(rms):
    d, rule = torch.randn(4, 5, dtype=torch.float64), FixedRMS(rms, base_width=None)
    alpha = rule.alpha(directions(d, d, kept_by(rule, d)))
    assert (alpha * d).square().mean().sqrt().item() == pytest.approx(rms)


@pytest.mark.parametrize("inputs", [16, 32, 128, 500])
def test_a_fixed_rate_moves_a_layer_of_every_width_by_the_same_share_of_a_weight_at_unit_gain(inputs):
    """Such a weight has entries of 1/√i: at a base width of 128 a step is lr · 0.2 · √128 of its norm."""
    d = torch.randn(40, inputs, dtype=torch.float64)
    alpha = FixedRMS().alpha(directions(d, d, kept_by(FixedRMS(), d)))
    assert (alpha * d).norm().item() == pytest.approx(0.2 * 128**0.5 * 40**0.5)


@pytest.mark.parametrize("inputs", [1, 4, 15])
def test_few_inputs_count_as_an_eighth_of_the_base_width(inputs):
    d = torch.randn(40, inputs, dtype=torch.float64)
    alpha = FixedRMS().alpha(directions(d, d, kept_by(FixedRMS(), d)))
    assert (alpha * d).square().mean().sqrt().item() == pytest.approx(0.2 * 8**0.5)


def test_an_embeddings_fixed_rate_does_not_depend_on_its_vocabulary():
    d = torch.randn(4, 1000)
    step = replace(directions(d, d, kept_by(FixedRMS(), d)), layers=[EmbeddingLayer(nn.Embedding(1000, 4), with_bias=False)])
    assert (FixedRMS().alpha(step) * d).square().mean().sqrt().item() == pytest.approx(0.2)


def test_grafting_makes_the_step_as_long_as_adams():
    rule = Graft(decay=0.99, eps=1e-8)
    weight = nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))
    kept = kept_by(rule, weight.detach())
    adam = torch.optim.Adam([weight], lr=1.0, betas=(0.0, 0.99))
    for _ in range(5):
        before = weight.detach().clone()
        weight.grad = torch.randn(2, 3, dtype=torch.float64)
        d = torch.randn(2, 3, dtype=torch.float64)
        alpha = rule.alpha(directions(weight.grad, d, kept))
        adam.step()
        torch.testing.assert_close((alpha * d).norm(), (weight.detach() - before).norm())


def test_a_rejected_step_leaves_the_grafts_second_moment():
    rule = Graft()
    kept = kept_by(rule)
    rule.alpha(move(None, kept, slope=2.0))
    before = kept[0]["square_weight"].clone(), kept[1]["square"][0][0].clone()
    assert all(t.any() for t in before)
    rule.alpha(move(None, kept, slope=math.nan, accept=REJECT))
    assert torch.equal(kept[0]["square_weight"], before[0])
    assert torch.equal(kept[1]["square"][0][0], before[1])


def test_grafted_training_takes_a_layers_adam_length_in_the_optimizer():
    model, (x, y) = mlp(4, 6, 3), batch(16, 4)
    optimizer = LNGD(model, step_size="graft", lr=1e-2, warmup=0, momentum=0.0, keep_norms=False)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    moved = [(p.detach() - b) for p, b in zip(model.parameters(), before, strict=True)]
    for weight, bias in (moved[:2], moved[2:]):
        length = math.sqrt(weight.square().sum() + bias.square().sum())
        assert length == pytest.approx(1e-2 * math.sqrt(weight.numel() + bias.numel()), rel=1e-3)


def test_a_gradient_whose_square_overflows_does_not_freeze_a_grafted_layer():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = LNGD(model, step_size="graft", lr=0.1, warmup=0, momentum=0.0)
    for scale in (1.0, 1e20, 1.0):
        optimizer.zero_grad()
        (model(torch.randn(4, 3)) * scale).sum().backward()
        optimizer.step()
    assert optimizer.rates[""] > 0
    assert all(value.isfinite().all() for value in optimizer.state[model.weight].values() if isinstance(value, Tensor))


NAMED: dict[str, StepSize] = {
    "invariant": InvariantRate(),
    "layerwise": LayerwiseRate(),
    "graft": Graft(),
    "kl_clip": KLClip(),
    "rms": FixedRMS(),
    "constant": Constant(),
}


def test_every_step_size_has_a_name():
    assert {name: kind() for name, kind in STEP_SIZES.items()} == NAMED


@pytest.mark.parametrize("name", NAMED)
def test_a_name_stands_for_the_step_size_with_its_defaults(name):
    runs = []
    for given in (name, NAMED[name]):
        model, (x, y) = mlp(4, 6, 3), batch(16, 4)
        optimizer = LNGD(model, lr=0.1, step_size=given)
        for _ in range(3):
            train_step(model, optimizer, x, y)
        runs.append([*(p.detach() for p in model.parameters()), *optimizer.rates.values()])
    assert all(torch.equal(one, two) for one, two in zip(*runs, strict=True))


def test_a_step_size_of_ones_own_sizes_the_steps():
    """Half a Newton step without looking at the curvature; it counts in `optimizer.state`, which a checkpoint holds."""

    class Counting(StepSize):
        memory = ("count",)

        def alpha(self, step: Directions) -> Tensor:
            step.memory["count"].add_(1)
            return torch.full_like(step.memory["count"], 0.5)

    model, (x, y) = mlp(4, 6, 3), batch(16, 4)
    optimizer = LNGD(model, lr=0.1, step_size=Counting())
    for _ in range(3):
        train_step(model, optimizer, x, y)
    assert {rate.item() for rate in optimizer.rates.values()} == {0.5}
    assert optimizer.state_dict()["state"][0]["count"].item() == optimizer.stats()["count/0"] == 3


@pytest.mark.parametrize(("samples", "sequences"), [(None, None), (16, 4), (1, 1), (0, 0)])
def test_a_sequence_of_tokens_stands_for_four_samples(samples, sequences):
    rule = Constant() if samples == 0 else LayerwiseRate(samples=samples)
    assert rule.sequences() == sequences
