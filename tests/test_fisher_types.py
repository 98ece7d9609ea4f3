"""What each Fisher type hands to each method's block, through the optimizer, against loops over samples and positions."""

import re
import warnings
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lngd import EKFAC, KFAC, LNGD, THOR, TKFAC, Factors, FisherType, Layerwise, LayerwiseRate, LNGDLr, NGPlus, Sampled, Schedule
from lngd.optimizer import NaturalGradient
from lngd.sampling import Fisher, draw, sampled_gradient
from reference import (
    backpropagated,
    batch,
    curved,
    differences,
    mlp,
    sample_gradients,
    snapshot,
    statistics,
    train_step,
    unrolled,
)

DOUBLE = torch.float64
METHODS = {"LNGD": LNGD, "KFAC": KFAC, "EKFAC": EKFAC, "TKFAC": TKFAC, "NGPlus": NGPlus, "THOR": THOR}
LAYERWISE, EMPIRICAL, SAMPLED = FisherType.LAYERWISE, FisherType.EMPIRICAL, FisherType.SAMPLED
GAUSSIAN = {LAYERWISE: Layerwise("gaussian")}
EVERY_STEP = Schedule(curvature_every=1, inverse_every=1000, ramp=False, samples=None)
STILL = {"lr": 0.0, "step_size": "constant", "schedule": EVERY_STEP, "damping": 0.3, "decay": 0.9}
"""Measures at every step, refreshes once, moves nothing."""
every_method = pytest.mark.parametrize("kind", METHODS)
every_fisher = pytest.mark.parametrize("fisher", FisherType)

Calls = dict[str, list[tuple[nn.Module, Tensor, Tensor]]]
"""By layer: the module, its input and its output, once a call."""


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(kind: str, model: nn.Module, fisher: FisherType | Fisher, **options) -> NaturalGradient:
    return METHODS[kind](model, fisher=fisher, generator=seeded(), **{**STILL, **options})


class Watched:
    """Inputs and outputs of a model's layers and the model's output, by one plain forward without the optimizer's hooks."""

    def __init__(self, model: nn.Module, x: Tensor, names: tuple[str, ...]) -> None:
        self.calls: Calls = {name: [] for name in names}
        modules = dict(model.named_modules())
        handles = [modules[name].register_forward_hook(self._keep(name)) for name in names]
        self.output = model(x)
        for handle in handles:
            handle.remove()

    def _keep(self, name: str) -> Callable:
        return lambda module, args, output: self.calls[name].append((module, args[0], output))

    def samples(self, name: str, target: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
        """`a` and `g` of all calls as positions, with a group dimension; g = Jᵀ · upstream from `target`."""
        found = []
        for module, x, output in self.calls[name]:
            (grad,) = torch.autograd.grad(target, output, upstream, retain_graph=True)
            found.append((unrolled(module, x), backpropagated(module, grad)))
        return torch.cat([a for a, _ in found], 2).detach(), torch.cat([g for _, g in found], 2).detach()


def assert_statistics(kind: str, block, steps: list[tuple[Tensor, Tensor]], decay: float = 0.9) -> None:
    """The block's statistics are the bias-corrected averages of those by loops; EKFAC's S is of all steps but the first."""
    groups, grouped = steps[0][0].shape[0], steps[0][0].shape[0] > 1
    for k in range(groups):
        singles = [statistics(kind, a[k], g[k]) for a, g in steps]
        for name in singles[0]:
            found = getattr(block, name)[k] if grouped else getattr(block, name)
            found = torch.diag(found) if name in ("A", "phi") and found.dim() == 1 else found
            expected = averaged([single[name] for single in singles], decay)
            torch.testing.assert_close(found.reshape(expected.shape), expected, rtol=1e-9, atol=1e-12, msg=f"{name} of {kind}")
        if kind == "EKFAC":
            U_A, U_B, S = ((t[k] if grouped else t) for t in (block.A_basis, block.B_basis, block.scales))
            U_A = torch.diag(U_A) if U_A.dim() == 1 else U_A
            expected = averaged([second_moments(U_A, U_B, a[k], g[k]) for a, g in steps[1:]], decay)
            torch.testing.assert_close(S, expected, rtol=1e-9, atol=1e-12, msg="S of EKFAC")


def averaged(values: list[Tensor], decay: float) -> Tensor:
    weights = [decay ** (len(values) - 1 - k) for k in range(len(values))]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def second_moments(U_A: Tensor, U_B: Tensor, a: Tensor, g: Tensor) -> Tensor:
    return sum((U_B.T @ G @ U_A).square() for G in sample_gradients(a, g)) / len(a)


def labels_of(logits: Tensor, generator: torch.Generator, axis: int = -1) -> Tensor:
    """Gumbel's way to draw from softmax(logits), with the numbers that the optimizer's generator gives."""
    u = torch.empty(logits.shape, dtype=logits.dtype).uniform_(generator=generator)
    return (logits.detach() - (-u.log()).log()).argmax(axis)


def score(logits: Tensor, labels: Tensor) -> Tensor:
    """−∇ log p(labels) = softmax − onehot."""
    return (logits.softmax(-1) - F.one_hot(labels, logits.shape[-1])).detach()


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), (4,)),
    "linear without bias": (lambda: nn.Linear(4, 3, bias=False), (4,)),
    "tokens": (lambda: nn.Linear(4, 3), (3, 4)),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1), (2, 7)),
    "conv2d": (lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 1), dilation=(1, 2), padding=(1, 2)), (2, 5, 4)),
    "grouped": (lambda: nn.Conv2d(4, 6, 2, groups=2, bias=False), (4, 3, 3)),
    "depthwise": (lambda: nn.Conv2d(3, 3, 2, groups=3), (3, 3, 3)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, bias=False), (2, 2, 3, 3)),
    "transposed1d": (lambda: nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1, output_padding=1), (2, 4)),
    "transposed2d": (lambda: nn.ConvTranspose2d(4, 6, (3, 2), stride=(1, 2), dilation=(2, 1), groups=2), (4, 1, 2)),
    "transposed3d": (lambda: nn.ConvTranspose3d(2, 2, 2, padding=1, stride=2, bias=False), (2, 2, 2, 2)),
    "embedding": (lambda: nn.Embedding(5, 3), (4,)),
    "embedding with padding": (lambda: nn.Embedding(5, 3, padding_idx=1), (2, 3)),
}


def two_layers(layer: str) -> tuple[nn.Sequential, tuple[int, ...]]:
    torch.manual_seed(1)
    make, shape = LAYERS[layer]
    model = nn.Sequential(make(), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3)).double()
    model(inputs_of(model[0], 2, shape)[0])
    return model, shape


def inputs_of(module: nn.Module, n: int, shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Numbers, or for an embedding indices, and labels."""
    x, y = batch(n, *shape, seed=seed)
    return (x.abs() * 3).long() % module.num_embeddings if isinstance(module, nn.Embedding) else x, y


def pulled_back(watched: Watched, fisher: FisherType, y: Tensor, generator: torch.Generator) -> dict[str, tuple[Tensor, Tensor]]:
    """`a` and `g` of both layers, as each Fisher type defines them."""
    logits, hidden = watched.output, watched.calls["3"][0][1]
    if fisher is LAYERWISE:
        epsilon = [torch.empty(t.shape, dtype=DOUBLE).normal_(generator=generator) for t in (hidden, logits)]
        return {"0": watched.samples("0", hidden, epsilon[0]), "3": watched.samples("3", logits, epsilon[1])}
    labels = y if fisher is EMPIRICAL else labels_of(logits, generator)
    return {name: watched.samples(name, logits, score(logits, labels)) for name in ("0", "3")}


@every_fisher
@pytest.mark.parametrize("layer", LAYERS)
@every_method
def test_statistics_of_every_layer_kind_are_those_of_loops(kind, layer, fisher):
    model, shape = two_layers(layer)
    twin, expected = seeded(), {"0": [], "3": []}
    optimizer = build(kind, model, GAUSSIAN.get(fisher, fisher), params=curved(model))
    for step in range(2):
        x, y = inputs_of(model[0], 4, shape, seed=step)
        for name, samples in pulled_back(Watched(model.eval(), x, ("0", "3")), fisher, y, twin).items():
            expected[name].append(samples)
        train_step(model.train(), optimizer, x, y)
    for name, steps in expected.items():
        assert_statistics(kind, optimizer.blocks[name], steps)


def token_model() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def token_loss(logits: Tensor, y: Tensor, mean_over: str) -> Tensor:
    total = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum")
    return total / {"batch": len(y), "token": y.numel(), "none": 1}[mean_over]


@pytest.mark.parametrize("fisher", [EMPIRICAL, SAMPLED])
@pytest.mark.parametrize("mean_over", ["batch", "token", "none"])
@every_method
def test_the_scale_is_that_of_the_loss(kind, mean_over, fisher):
    """With samples of T tokens: F of a sample, a T-th of it for a mean over tokens, N times it for a sum over samples."""
    model, tokens, n = token_model(), 6, 4
    twin, expected = seeded(), {"0": [], "2": []}
    optimizer = build(kind, model, fisher, mean_over=mean_over)
    scale = {"batch": 1.0, "token": tokens**-0.5, "none": n**0.5}[mean_over]
    for step in range(2):
        x, y = batch(n, tokens, 4, seed=step)[0], torch.randint(0, 3, (n, tokens))
        watched = Watched(model.eval(), x, ("0", "2"))
        labels = y if fisher is EMPIRICAL else labels_of(watched.output, twin)
        for name, steps in expected.items():
            a, g = watched.samples(name, watched.output, score(watched.output, labels))
            steps.append((a, scale * g))
        optimizer.zero_grad()
        token_loss(model.train()(x), y, mean_over).backward()
        optimizer.step()
    for name, steps in expected.items():
        assert_statistics(kind, optimizer.blocks[name], steps)


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.layer(x).tanh()).tanh())


@pytest.mark.parametrize("fisher", [EMPIRICAL, SAMPLED])
@pytest.mark.parametrize("mean_over", ["batch", "token"])
@every_method
def test_a_layer_called_twice_has_the_gradient_of_both_calls(kind, mean_over, fisher):
    model, tokens, n = Twice(), 2, 4
    twin, steps = seeded(), []
    optimizer = build(kind, model, fisher, mean_over=mean_over)
    scale = {"batch": 1.0, "token": tokens**-0.5}[mean_over]
    for step in range(2):
        x, y = batch(n, tokens, 4, seed=step)[0], torch.randint(0, 3, (n, tokens))
        watched = Watched(model.eval(), x, ("layer",))
        labels = y if fisher is EMPIRICAL else labels_of(watched.output, twin)
        a, g = watched.samples("layer", watched.output, score(watched.output, labels))
        steps.append((a, scale * g))
        optimizer.zero_grad()
        token_loss(model.train()(x), y, mean_over).backward()
        optimizer.step()
    assert_statistics(kind, optimizer.blocks["layer"], steps)


def tensors(optimizer: NaturalGradient) -> dict[str, Tensor]:
    return {f"{name}.{key}": t.clone() for name, block in optimizer.blocks.items() for key, t in block.tensors().items()}


def assert_same_tensors(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert set(one) == set(two)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("fisher", [EMPIRICAL, SAMPLED])
@pytest.mark.parametrize("mean_over", ["batch", "none"])
@pytest.mark.parametrize("kind", ["KFAC", "EKFAC", "NGPlus"])
def test_micro_batches_are_one_batch(kind, fisher, mean_over):
    runs = []
    for parts in ((24,), (4, 14, 6)):
        model = mlp(4, 5, 3)
        optimizer = build(kind, model, fisher, mean_over=mean_over, schedule=replace(EVERY_STEP, inverse_every=2))
        for step in range(4):
            x, y = batch(24, 4, seed=step)
            optimizer.zero_grad()
            for part, labels in zip(x.split(parts), y.split(parts), strict=True):
                share = 1 / 24 if mean_over == "batch" else 1
                (F.cross_entropy(model(part), labels, reduction="sum") * share).backward()
            optimizer.step()
        runs.append(tensors(optimizer))
    assert_same_tensors(*runs)


@every_fisher
@every_method
def test_two_backward_passes_through_one_graph_are_one_measurement(kind, fisher):
    runs = []
    for parts in ((1.0,), (0.25, 0.75)):
        model, (x, y) = mlp(4, 5, 3), batch(8, 4)
        optimizer = build(kind, model, fisher)
        for _ in range(2):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            for part in parts:
                (part * loss).backward(retain_graph=True)
            optimizer.step()
        runs.append(tensors(optimizer))
    assert_same_tensors(*runs)


@pytest.mark.parametrize("size", [1, 5, 64, 130])
@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_noise_is_white_across_positions_and_draws(noise, size):
    """E[ε εᵀ] = I, off the diagonal too, and one draw says nothing about the next."""
    generator = seeded()
    options = {"shape": torch.Size((size,)), "dtype": DOUBLE, "device": torch.device("cpu")}
    draws = torch.stack([draw(noise, generator, **options) for _ in range(1000)])
    assert draws.mean(0).abs().max() < 5 * 1000**-0.5
    assert (draws.T @ draws / 1000 - torch.eye(size, dtype=DOUBLE)).abs().max() < 7.5 * 1000**-0.5
    assert (draws[1:].T @ draws[:-1] / 999).abs().max() < 6 * 1000**-0.5


def test_a_large_draw_is_as_white_as_a_small_one():
    """No part of it repeats another part."""
    signs = draw("rademacher", seeded(), shape=torch.Size((2**16,)), dtype=torch.float32, device=torch.device("cpu"))
    spectrum = torch.fft.rfft(signs).abs().square() / len(signs)
    assert spectrum.max() < 25
    assert torch.equal(signs.abs(), torch.ones_like(signs))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (), (2, 3, 5)])
@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_noise_has_any_shape_and_dtype(noise, shape):
    for dtype in (torch.float16, torch.bfloat16, torch.float32, DOUBLE):
        epsilon = draw(noise, seeded(), shape=torch.Size(shape), dtype=dtype, device=torch.device("cpu"))
        assert epsilon.shape == shape
        assert epsilon.dtype == dtype


OUTPUT_FISHER: dict[str, Callable[[Tensor], Tensor]] = {
    "categorical": lambda z: torch.diag(z.softmax(0)) - torch.outer(z.softmax(0), z.softmax(0)),
    "bernoulli": lambda z: torch.diag(z.sigmoid() * (1 - z.sigmoid())),
    "gaussian": lambda z: torch.eye(len(z), dtype=DOUBLE),
}


@pytest.mark.parametrize("shape", [(4,), (2, 4), (4, 2, 2), (4, 1, 2, 1)])
@pytest.mark.parametrize("likelihood", OUTPUT_FISHER)
def test_drawn_gradients_have_mean_zero_and_the_likelihoods_fisher_matrix(likelihood, shape):
    """Classes are last in [n, C] and [n, tokens, C], second in [n, C, height, width, …]."""
    z = 1.5 * torch.randn(shape, dtype=DOUBLE)
    drawn = sampled_gradient(likelihood, z.expand(20_000, *shape), seeded())
    axis = 0 if len(shape) > 2 else -1
    rows, logits = drawn.movedim(axis + (axis >= 0), -1).reshape(20_000, -1, 4), z.movedim(axis, -1).reshape(-1, 4)
    for position, each in enumerate(logits):
        g = rows[:, position]
        assert g.mean(0).abs().max() < 0.04
        assert (g.T @ g / 20_000 - OUTPUT_FISHER[likelihood](each)).abs().max() < 0.05
    if len(logits) > 1:
        assert (rows[:, 0].T @ rows[:, 1] / 20_000).abs().max() < 0.04, "positions are drawn independently"


@pytest.mark.parametrize("likelihood", OUTPUT_FISHER)
def test_sampling_is_exact_on_average_over_labels(likelihood):
    """B of both layers against E over labels: mean over samples of Jᵀ H J, H the Fisher matrix of the output."""
    model, (x, y) = mlp(4, 5, 3), batch(6, 4)
    expected = {"0": torch.zeros(5, 5, dtype=DOUBLE), "2": torch.zeros(3, 3, dtype=DOUBLE)}
    for row in model[0](x).detach():
        H = OUTPUT_FISHER[likelihood](model[2](row.tanh()).detach())
        J = torch.func.jacrev(lambda s: model[2](s.tanh()))(row).detach()
        expected["0"] += J.T @ H @ J / 6
        expected["2"] += H / 6
    optimizer = build("KFAC", model, Sampled(likelihood))
    train_step(model, optimizer, x.repeat(1000, 1), y.repeat(1000))
    for name, B in expected.items():
        assert (optimizer.blocks[name].B - B).norm() < 0.06 * B.norm(), name


def dropout_net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 9), nn.Dropout(0.4), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(9, 3))


@every_fisher
def test_measuring_touches_no_output_no_gradient_and_no_global_generator(fisher):
    watched, plain, (x, y) = dropout_net(), dropout_net(), batch(8, 4, dtype=torch.float32)
    optimizer = build("KFAC", watched, fisher)
    results = []
    for model in (watched, plain):
        torch.manual_seed(11)
        outputs = [model(x), model(x)]
        assert all(p.grad is None for p in model.parameters())
        F.cross_entropy(outputs[1], y).backward()
        results.append([*(o.detach() for o in outputs), torch.get_rng_state(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))
    torch.manual_seed(12)
    state = torch.get_rng_state()
    optimizer.step()
    assert torch.equal(state, torch.get_rng_state())


@dataclass
class Output:
    """As Hugging Face's models return it."""

    loss: Tensor | None
    logits: Tensor


Pair = namedtuple("Pair", ["logits", "hidden"])

SHAPES: dict[str, Callable[[Tensor], object]] = {
    "a dataclass": lambda z: Output(None, z),
    "a dataclass with a loss": lambda z: Output(z.square().mean(), z),
    "a dictionary": lambda z: {"aux": z.sum(), "logits": z},
    "a tuple": lambda z: (z, z.sum()),
    "a tuple with the loss first": lambda z: (z.square().mean(), z),
    "a list": lambda z: [z, None],
    "a named tuple": lambda z: Pair(z, None),
    "a view": lambda z: z.view(len(z), 3),
}


class Wrapped(nn.Module):
    """A model with another kind of output."""

    def __init__(self, wrap: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.body, self.wrap = mlp(4, 5, 3), wrap

    def forward(self, x: Tensor) -> object:
        self.logits = self.body(x)
        return self.wrap(self.logits)


@pytest.mark.parametrize("shape", SHAPES)
def test_labels_are_drawn_from_the_logits_wherever_they_are(shape):
    runs, (x, y) = [], batch(8, 4)
    for wrap in (lambda z: z, SHAPES[shape]):
        model = Wrapped(wrap)
        optimizer = build("KFAC", model, SAMPLED)
        model(x)
        F.cross_entropy(model.logits, y).backward()
        optimizer.step()
        runs.append(tensors(optimizer))
    assert_same_tensors(*runs)


def test_segmentation_logits_have_their_classes_second():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 1)).double()
    x, y, twin = batch(4, 2, 3, 3)[0], torch.randint(0, 3, (4, 3, 3)), seeded()
    optimizer = build("NGPlus", model, SAMPLED, mean_over="token")
    watched = Watched(model.eval(), x, ("0", "2"))
    labels = labels_of(watched.output, twin, axis=1)
    upstream = score(watched.output.movedim(1, -1), labels).movedim(-1, 1)
    expected = {name: watched.samples(name, watched.output, upstream / 3) for name in ("0", "2")}  # √9 pixels
    F.cross_entropy(model.train()(x), y).backward()
    optimizer.step()
    for name, samples in expected.items():
        assert_statistics("NGPlus", optimizer.blocks[name], [samples])


NO_LABELS: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "one class": (lambda z: z[:, :1], r"of shape \(8, 1\)"),
    "a dictionary without logits": (lambda z: {"scores": z}, "a dict without logits"),
    "an object without logits": (lambda z: SimpleNamespace(scores=z), "a SimpleNamespace without logits"),
    "only a loss in a tuple": (lambda z: (z.square().mean(),), "a tuple without logits"),
    "one number a sample": (lambda z: z[:, 0], r"of shape \(8,\)"),
}


def scores_in(output: object) -> Tensor:
    """The only tensor of an output."""
    found = output["scores"] if isinstance(output, dict) else getattr(output, "scores", output)
    return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize("kind", NO_LABELS)
def test_without_labels_to_draw_the_losss_own_gradient_serves(kind):
    """As with fisher="empirical", and one warning says what to do."""
    wrap, message = NO_LABELS[kind]
    runs = []
    for fisher in (SAMPLED, FisherType.EMPIRICAL):
        model, (x, _) = Wrapped(wrap), batch(8, 4)
        optimizer = build("KFAC", model, fisher)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                optimizer.zero_grad()
                scores_in(model(x)).square().mean().backward()
                optimizer.step()
        said = [str(each.message) for each in caught if "no labels" in str(each.message)]
        assert len(said) == (fisher is SAMPLED)
        assert all(re.search(rf"{message}.*fisher=lngd\.Sampled\(likelihood, predictions=", text) for text in said)
        notes = {row.reason for row in optimizer.summary() if row.kind == "curvature"}
        assert all("labels of the data" in note for note in notes) == (fisher is SAMPLED)
        runs.append(tensors(optimizer))
    assert_same_tensors(*runs)


def test_predictions_say_where_labels_are_drawn():
    runs, (x, y) = [], batch(8, 4)
    for wrap, fisher in ((lambda z: z, SAMPLED), (lambda z: {"scores": z}, Sampled(predictions=lambda output: output["scores"]))):
        model = Wrapped(wrap)
        optimizer = build("KFAC", model, fisher)
        F.cross_entropy(scores_in(model(x)), y).backward()
        optimizer.step()
        runs.append(tensors(optimizer))
    assert_same_tensors(*runs)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_one_number_a_sample_is_enough_for_yes_or_no_and_for_regression(likelihood):
    model, (x, _) = Wrapped(lambda z: z[:, 0]), batch(8, 4)
    optimizer = build("KFAC", model, Sampled(likelihood))
    model(x).square().mean().backward()
    optimizer.step()
    assert optimizer.blocks["body.0"].ready


@every_fisher
@pytest.mark.parametrize("layer", ["linear", "tokens", "conv1d", "grouped"])
def test_in_place_activations_give_the_same_numbers(layer, fisher):
    runs = []
    make, shape = LAYERS[layer]
    for inplace in (False, True):
        torch.manual_seed(4)
        model = nn.Sequential(make(), nn.SiLU(inplace=inplace), nn.Flatten(), nn.LazyLinear(3)).double()
        x, y = batch(8, *shape)
        model(x)
        optimizer = build("EKFAC", model, fisher, lr=0.1, step_size="layerwise")
        for _ in range(3):
            train_step(model, optimizer, x, y)
        runs.append(snapshot(model, optimizer))
        assert all(rate > 0 for rate in optimizer.rates.values())
    assert differences(*runs) == []


class Auxiliary(nn.Module):
    """A head beside the model's output, trained by a loss of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.aux = mlp(4, 5, 5), nn.Linear(5, 3).double(), nn.Linear(5, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x).tanh()
        self.beside = self.aux(h)
        return self.head(h)


def auxiliary_step(model: Auxiliary, optimizer: NaturalGradient, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    (F.cross_entropy(model(x), y) + model.beside.square().mean()).backward()
    optimizer.step()


@pytest.mark.parametrize("kind", ["KFAC", "EKFAC", "TKFAC", "THOR"])
def test_a_head_beside_the_output_falls_back_with_a_reason_and_trains(kind):
    model, (x, y) = Auxiliary(), batch(8, 4)
    optimizer = METHODS[kind](model)
    before = model.aux.weight.detach().clone()
    with pytest.warns(UserWarning, match="layer 'aux': AdamW trains it from now on.*does not depend on it"):
        auxiliary_step(model, optimizer, x, y)
    for _ in range(2):
        auxiliary_step(model, optimizer, x, y)
    assert set(optimizer.blocks) == {"body.0", "body.2", "head"}
    outcomes = {o.name: o for o in optimizer.summary()}
    assert outcomes["aux.weight"].kind == outcomes["aux.bias"].kind == "fallback"
    assert "does not depend on it" in outcomes["aux.weight"].reason
    assert not torch.equal(before, model.aux.weight)


@pytest.mark.parametrize("fisher", [LAYERWISE, EMPIRICAL])
def test_a_head_beside_the_output_keeps_its_curvature_where_no_labels_are_drawn(fisher):
    model, (x, y) = Auxiliary(), batch(8, 4)
    optimizer = build("KFAC", model, fisher)
    auxiliary_step(model, optimizer, x, y)
    assert optimizer.blocks["aux"].ready


class Checkpointed(nn.Module):
    """Part of the forward runs again in the backward."""

    def __init__(self, recompute: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Linear(4, 5)
        self.body = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5), nn.Sigmoid())
        self.head, self.recompute = nn.Linear(5, 3), recompute
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        h = checkpoint(self.body, h, use_reentrant=False) if self.recompute else self.body(h)
        return self.head(h)


@every_fisher
@every_method
def test_activation_checkpointing_gives_the_same_numbers(kind, fisher):
    runs, (x, y) = [], batch(8, 4)
    for recompute in (False, True):
        model = Checkpointed(recompute)
        optimizer = build(kind, model, fisher, step_size="layerwise")
        for _ in range(2):
            train_step(model, optimizer, x, y)
        runs.append(tensors(optimizer) | optimizer.rates)
    assert_same_tensors(*runs)


@pytest.mark.parametrize("other", FisherType)
@every_fisher
def test_another_optimizer_on_the_same_model_changes_nothing(fisher, other):
    """One for the layers around it: its own backward passes are not the loss's."""
    runs, (x, y) = [], batch(8, 4)
    for beside in (False, True):
        model = mlp(4, 5, 5, 3)
        around = [*model[0].parameters(), *model[4].parameters()]
        optimizers = [build("KFAC", model, other, params=around, step_size="layerwise")] if beside else []
        optimizer = build("LNGD", model, fisher, params=model[2].parameters(), step_size="layerwise")
        for _ in range(2):
            train_step(model, optimizer, x, y)
            for each in optimizers:
                each.step()
        runs.append(tensors(optimizer) | optimizer.rates)
    assert_same_tensors(*runs)


def no_grad_forward(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        model(x)


def eval_forward(model: nn.Module, x: Tensor) -> None:
    model.eval()(x)
    model.train()


@every_fisher
@pytest.mark.parametrize("between", [no_grad_forward, eval_forward])
def test_forwards_that_do_not_train_change_nothing(between, fisher):
    runs, (x, y) = [], batch(8, 4)
    for disturbed in (False, True):
        model = mlp(4, 5, 3)
        optimizer = build("KFAC", model, fisher, lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            if disturbed:
                between(model, 3 * x[:5])
            loss = F.cross_entropy(model(x), y)
            if disturbed:
                between(model, 3 * x[:5])
            loss.backward()
            optimizer.step()
        runs.append(snapshot(model, optimizer))
    assert differences(*runs) == []


@pytest.mark.filterwarnings("ignore:a gradient or a statistic was not finite")
@every_fisher
@every_method
def test_a_batch_with_a_nan_is_skipped_whole(kind, fisher):
    model, (x, y) = mlp(4, 5, 3), batch(8, 4)
    optimizer = build(kind, model, fisher, lr=0.1, schedule=replace(EVERY_STEP, inverse_every=1))
    for _ in range(2):
        train_step(model, optimizer, x, y)
    poisoned = x.clone()
    poisoned[3, 1] = torch.nan
    before = snapshot(model, optimizer)
    train_step(model, optimizer, poisoned, y)
    changed = differences(
        before, snapshot(model, optimizer), ignoring=("steps", "skipped", "measuring", "owed", "portions", "generator")
    )
    assert changed == []
    assert optimizer.stats()["skipped"] == 1
    train_step(model, optimizer, x, y)
    assert optimizer.stats()["skipped"] == 1


@every_fisher
@every_method
def test_under_autocast_statistics_are_those_of_full_precision_within_bfloat16s_error(kind, fisher):
    runs, (x, y) = [], batch(64, 4, dtype=torch.float32)
    for enabled in (False, True):
        model = mlp(4, 5, 3, dtype=torch.float32)
        optimizer = build(kind, model, fisher)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        runs.append({f"{n}.{k}": getattr(b, k) for n, b in optimizer.blocks.items() for k in b.statistics})
    for name, exact in runs[0].items():
        assert runs[1][name].dtype == torch.float32
        assert (runs[1][name] - exact).norm() < 0.05 * exact.norm(), name


def test_calling_only_parts_of_the_model_is_an_error_that_says_what_to_do():
    model, (x, y) = mlp(4, 5, 3), batch(8, 4)
    optimizer = KFAC(model)
    weights = [p.detach().clone() for p in model.parameters()]
    h = x
    for part in model:
        h = part(h)
    F.cross_entropy(h, y).backward()
    with pytest.raises(RuntimeError, match=r"call model\(x\) as a whole.*fisher='empirical'"):
        optimizer.step()
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))


def test_a_model_that_is_a_layer_itself_is_measured():
    torch.manual_seed(1)
    model, (x, y), twin = nn.Linear(4, 3).double(), batch(8, 4), seeded()
    watched = Watched(model.eval(), x, ("",))
    optimizer = build("KFAC", model, SAMPLED)
    samples = watched.samples("", watched.output, score(watched.output, labels_of(watched.output, twin)))
    train_step(model.train(), optimizer, x, y)
    assert_statistics("KFAC", optimizer.blocks[""], [samples])


def explicit_rate(block, damping: float, samples: Tensor, chosen: slice, mu: float) -> Tensor:
    """⟨d,∇⟩ / (mean ⟨d,∇⁽ⁿ⟩² + µ) with d by a dense solve."""
    rows = samples.flatten(1)
    dense = block.dense(damping)
    d = torch.linalg.solve(dense, rows.mean(0))
    return d.dot(rows.mean(0)) / ((rows[chosen] @ d).square().mean() + mu)


@pytest.mark.parametrize("rate_samples", [None, 4])
@pytest.mark.parametrize("method", [LNGDLr, KFAC, TKFAC, EKFAC, THOR])
def test_rates_at_a_measuring_step_come_from_the_losses_gradients_alone(method, rate_samples):
    model, (x, y) = mlp(4, 5, 3), batch(12, 4)
    watched = Watched(model.eval(), x, ("0", "2"))
    own = {}
    for name in ("0", "2"):
        a, g = watched.samples(name, watched.output, score(watched.output, y))
        own[name] = torch.stack(sample_gradients(a[0], g[0]))
    step_size, factors = (
        LayerwiseRate(mu=1e-3, smoothing=0.0, samples=rate_samples),
        Factors(damping_bounds=(0.0, torch.inf), raw_damping=1),
    )
    optimizer = method(model.train(), momentum=0.0, warmup=0, damping=0.3, step_size=step_size, factors=factors)
    train_step(model, optimizer, x, y)
    chosen = slice(None) if rate_samples is None else slice(None, None, 3)
    for name, samples in own.items():
        expected = explicit_rate(optimizer.blocks[name], 0.3, samples, chosen, 1e-3)
        torch.testing.assert_close(optimizer.rates[name], expected)
