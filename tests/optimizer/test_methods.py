"""Every method in training: its defaults, its checkpoints, its skipped steps, its bytes, and K-FAC line by line."""

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lngd
from lngd import EKFAC, KFAC, LNGD, THOR, TKFAC, Factors, FisherType, KLClip, LNGDLr, LNGDSample, NGPlus, Schedule, SpectralLNGD
from lngd.curvature import KFACBlock
from lngd.optimizer import NaturalGradient
from reference import batch, convolutional, differences, mlp, snapshot, through_a_file, train, train_step, with_ones
from syncs import UNTIL_ORDINARY, CountSyncs

DOUBLE, SINGLE = torch.float64, torch.float32
METHODS = {
    "LNGD": LNGD,
    "SpectralLNGD": SpectralLNGD,
    "LNGDSample": LNGDSample,
    "LNGDLr": LNGDLr,
    "KFAC": KFAC,
    "EKFAC": EKFAC,
    "TKFAC": TKFAC,
    "NGPlus": NGPlus,
    "THOR": THOR,
}
every_method = pytest.mark.parametrize("kind", METHODS)


def plain() -> nn.Module:
    return mlp(4, 6, 5, 3, dtype=SINGLE)


MODELS: dict[str, Callable[[], nn.Module]] = {"plain": plain, "convolutional": convolutional}


def learnable(n: int = 64) -> tuple[Tensor, Tensor]:
    """The label is the largest of the first three inputs."""
    x, _ = batch(n, 4, dtype=SINGLE)
    return x, x[:, :3].argmax(1)


OWN = {
    "LNGD": {"lr": 0.25, "adamw_lr_ratio": 0.08, "step_size": "invariant", "fisher": "layerwise"},
    "SpectralLNGD": {"lr": 0.02, "adamw_lr_ratio": 1.0, "step_size": "rms", "momentum_on": "nesterov", "fisher": "empirical"},
    "LNGDSample": {"lr": 0.1, "adamw_lr_ratio": 0.1, "fisher": "layerwise"},
    "LNGDLr": {"step_size": "invariant", "fisher": "sampled"},
    "KFAC": {"step_size": "kl_clip", "fisher": "sampled"},
    "EKFAC": {"step_size": "kl_clip", "fisher": "sampled"},
    "TKFAC": {"step_size": "kl_clip", "fisher": "sampled"},
    "NGPlus": {"step_size": "kl_clip", "fisher": "empirical"},
    "THOR": {"step_size": "kl_clip", "fisher": "sampled", "factors": Factors(128, raw_damping=1.0)},
}


def test_every_method_of_the_package_is_tested_here():
    found = {name for name, kind in vars(lngd).items() if inspect.isclass(kind) and issubclass(kind, NaturalGradient)}
    assert found == set(METHODS)


@every_method
def test_the_signature_shows_the_methods_own_defaults(kind):
    parameters = inspect.signature(METHODS[kind]).parameters
    assert list(parameters)[:2] == ["model", "params"]
    for name, value in OWN[kind].items():
        assert parameters[name].default == value
    assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[2:])


@every_method
def test_what_the_signature_shows_is_what_is_used(kind):
    parameters = inspect.signature(METHODS[kind]).parameters
    shown = {name: p.default for name, p in parameters.items() if name not in ("model", "params", "generator")}
    runs = []
    for options in ({}, shown):
        net = plain()
        optimizer = METHODS[kind](net, generator=torch.Generator().manual_seed(0), **options)
        train(net, optimizer, range(3))
        runs.append(snapshot(net, optimizer))
    assert differences(*runs) == []


def test_ekfac_measures_more_often_than_its_basis_moves():
    schedule = inspect.signature(EKFAC).parameters["schedule"].default
    assert schedule.curvature_every < schedule.inverse_every


FASTER = {"SpectralLNGD": {"lr": 0.1}}
"""A step of fixed length needs a longer one to show in 25 steps."""


@pytest.mark.parametrize("model", MODELS)
@every_method
def test_the_loss_falls(kind, model):
    net, (x, y) = MODELS[model](), learnable()
    optimizer = METHODS[kind](net, warmup=5, **FASTER.get(kind, {}))
    losses = [train_step(net, optimizer, x, y).item() for _ in range(25)]
    assert sum(losses[-3:]) < 0.85 * sum(losses[:3])
    assert optimizer.stats()["skipped"] == 0


@every_method
def test_statistics_of_low_precision_weights_are_in_single_precision(kind):
    net, (x, y), dtype = plain().bfloat16(), learnable(), torch.bfloat16
    optimizer = METHODS[kind](net, warmup=5, schedule=3)
    losses = [train_step(net, optimizer, x.to(dtype), y).item() for _ in range(20)]
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])
    kinds = {t.dtype for block in optimizer.blocks.values() for t in block.tensors().values()}
    assert kinds <= {SINGLE, torch.bool}
    assert {p.dtype for p in net.parameters()} == {dtype}


SCHEDULES = {
    "default": {},
    "inverses apart": {"schedule": Schedule(curvature_every=2, inverse_every=5, ramp=False)},
    "momentum of the update": {
        "momentum_on": "update",
        "schedule": Schedule(curvature_every=2, inverse_every=4),
        "weight_decay": 0.1,
    },
}


@pytest.mark.parametrize(("schedule", "stop"), [("default", 1), *((schedule, 3) for schedule in SCHEDULES)])
@every_method
def test_a_resumed_run_is_bit_equal(kind, schedule, stop):
    net = convolutional()
    optimizer = METHODS[kind](net, **SCHEDULES[schedule])
    train(net, optimizer, range(stop))
    weights, state = copy.deepcopy(net.state_dict()), through_a_file(optimizer.state_dict())
    train(net, optimizer, range(stop, stop + 4))
    torch.manual_seed(99)
    resumed = convolutional()
    resumed.load_state_dict(weights)
    again = METHODS[kind](resumed, generator=torch.Generator().manual_seed(1234), **SCHEDULES[schedule])
    again.load_state_dict(state)
    train(resumed, again, range(stop, stop + 4))
    assert differences(snapshot(net, optimizer), snapshot(resumed, again)) == []


@every_method
def test_what_was_measured_before_loading_is_forgotten(kind):
    """A forward to try the model out, before the checkpoint is read."""
    net = plain()
    optimizer = METHODS[kind](net, schedule=Schedule(curvature_every=2, inverse_every=4))
    train(net, optimizer, range(4))
    weights, state = copy.deepcopy(net.state_dict()), through_a_file(optimizer.state_dict())
    train(net, optimizer, range(4, 6))
    resumed = plain()
    again = METHODS[kind](resumed, schedule=Schedule(curvature_every=2, inverse_every=4))
    x, y = batch(16, 4, seed=77, dtype=SINGLE)
    F.cross_entropy(resumed(x), y).backward()
    resumed.load_state_dict(weights)
    again.load_state_dict(state)
    train(resumed, again, range(4, 6))
    assert differences(snapshot(net, optimizer), snapshot(resumed, again)) == []


MISMATCHES = [(kind, other) for kind in METHODS for other in METHODS if kind != other]


@pytest.mark.parametrize(("kind", "other"), MISMATCHES)
def test_a_checkpoint_of_another_method_is_refused_and_changes_nothing(kind, other):
    foreign, net = plain(), plain()
    foreign_optimizer, optimizer = METHODS[other](foreign), METHODS[kind](net)
    train(foreign, foreign_optimizer, range(1))
    train(net, optimizer, range(2))
    before = snapshot(net, optimizer)
    with pytest.raises(ValueError, match=f"made with method={other}, this optimizer has {kind}"):
        optimizer.load_state_dict(through_a_file(foreign_optimizer.state_dict()))
    assert differences(before, snapshot(net, optimizer)) == []


def test_a_checkpoint_with_blocks_of_another_size_is_refused_and_changes_nothing():
    foreign, net = plain(), plain()
    foreign_optimizer, optimizer = THOR(foreign, factors=2), THOR(net, factors=3)
    train(foreign, foreign_optimizer, range(2))
    train(net, optimizer, range(3))
    before = snapshot(net, optimizer)
    with pytest.raises(ValueError, match=r"parameter '0\.weight'"):
        optimizer.load_state_dict(through_a_file(foreign_optimizer.state_dict()))
    assert differences(before, snapshot(net, optimizer)) == []


COUNTS = ("steps", "skipped", "measuring", "owed", "portions", "generator", "num_batches_tracked", "running_mean", "running_var")
"""What a skipped step may change: counts, labels and noise drawn in its forward, and what the model's own forward changed."""


@pytest.mark.filterwarnings("ignore:a gradient or a statistic was not finite")
@pytest.mark.parametrize("schedule", SCHEDULES)
@every_method
def test_a_skipped_step_changes_nothing_at_whatever_step_it_comes(kind, schedule):
    """Among steps 1 to 9 there is one of every kind: measuring, refreshing, both, neither."""
    net = convolutional()
    optimizer, skipped = METHODS[kind](net, **SCHEDULES[schedule]), (1, 2, 5, 6, 8, 9)
    for step in range(10):
        x, y = batch(16, 4, seed=step, dtype=SINGLE)
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        if step in skipped:
            next(net.parameters()).grad.view(-1)[1] = math.nan
        before = snapshot(net, optimizer)
        optimizer.step()
        if step in skipped:
            assert differences(before, snapshot(net, optimizer), ignoring=COUNTS) == [], f"at step {step}"
    assert optimizer.stats()["skipped"] == len(skipped)


@pytest.mark.filterwarnings("ignore:a gradient or a statistic was not finite")
@every_method
def test_a_skipped_first_step_leaves_the_run_as_if_it_had_not_been(kind):
    weights, options = [], {"fisher": "empirical", "warmup": 0, "schedule": Schedule(ramp=False)}
    for poisoned in (False, True):
        net, (x, y) = plain(), batch(16, 4, dtype=SINGLE)
        optimizer = METHODS[kind](net, **options)
        if poisoned:
            train_step(net, optimizer, x * torch.tensor([1.0, 1.0, torch.nan, 1.0]), y)
        train_step(net, optimizer, x, y)
        weights.append([p.detach().clone() for p in net.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*weights, strict=True))


@pytest.mark.filterwarnings("ignore:a gradient or a statistic was not finite")
@every_method
def test_training_goes_on_after_skipped_steps(kind):
    """Every measuring step of the schedule among them."""
    net, (x, y) = plain(), learnable()
    optimizer = METHODS[kind](net, schedule=3, warmup=5, **FASTER.get(kind, {}))
    losses = []
    for step in range(24):
        poisoned = x.clone()
        poisoned[0, 0] = torch.nan if step % 3 == 0 else x[0, 0]
        losses.append(train_step(net, optimizer, poisoned, y).item())
    assert optimizer.stats()["skipped"] == 8
    kept = [loss for loss in losses if not math.isnan(loss)]
    assert sum(kept[-3:]) < 0.9 * sum(kept[:3])


SKIP_COUNTERS_OWN = 1
"""The host copy of the skip count is read at every step: it is a host tensor, and reading it waits for nothing."""


@pytest.mark.parametrize("momentum_on", ["gradient", "update"])
@every_method
def test_an_ordinary_step_waits_for_nothing(kind, momentum_on):
    net, (x, y) = convolutional(), batch(16, 4, dtype=SINGLE)
    optimizer = METHODS[kind](net, momentum_on=momentum_on)
    for _ in range(UNTIL_ORDINARY):
        train_step(net, optimizer, x, y)
    optimizer.zero_grad()
    with CountSyncs() as counter:
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert len(counter.found) <= SKIP_COUNTERS_OWN


@every_method
def test_the_forward_of_a_measuring_step_waits_for_nothing(kind):
    net, (x, y) = plain(), batch(16, 4, dtype=SINGLE)
    optimizer = METHODS[kind](net, schedule=Schedule(curvature_every=1))
    train_step(net, optimizer, x, y)
    with CountSyncs() as counter:
        F.cross_entropy(net(x), y).backward()
    assert counter.found == []


@pytest.mark.parametrize("model", MODELS)
@every_method
def test_the_summary_counts_the_bytes_of_curvature(kind, model):
    net = MODELS[model]()
    optimizer = METHODS[kind](net)
    train(net, optimizer, range(2))
    held = sum(t.numel() * t.element_size() for block in optimizer.blocks.values() for t in block.tensors().values())
    assert abs(optimizer.summary().state_bytes - held) <= 16 * len(optimizer.blocks)


ON_OUTPUTS = ("NGPlus",)


@pytest.mark.filterwarnings("ignore:only .* of the entries of the model's matrices get curvature")
@every_method
def test_the_largest_dense_factor_decides_who_falls_back_where_it_cannot_be_split(kind):
    """Layers of 4+1 → 6, 6+1 → 5 and 5+1 → 3."""
    limits = {limit: set(METHODS[kind](plain(), factors=limit).blocks) for limit in (3, 5, 6, 7)}
    if kind in ON_OUTPUTS:
        assert limits == {3: {"4"}, 5: {"2", "4"}, 6: {"0", "2", "4"}, 7: {"0", "2", "4"}}
    elif kind == "EKFAC":
        assert limits == {3: set(), 5: set(), 6: {"0", "4"}, 7: {"0", "2", "4"}}
    else:
        assert all(blocks == {"0", "2", "4"} for blocks in limits.values())


@pytest.mark.filterwarnings("ignore:only .* of the entries of the model's matrices get curvature")
@pytest.mark.parametrize(("kind", "reason"), [("NGPlus", "6 outputs are more"), ("EKFAC", "7 inputs are more")])
def test_the_reason_names_the_side_that_is_too_large(kind, reason):
    optimizer = METHODS[kind](plain(), factors=5)
    reasons = {o.name: o.reason for o in optimizer.summary()}
    assert reason in reasons["0.weight" if kind == "NGPlus" else "2.weight"]


@pytest.mark.parametrize("split", [1, 2, 3, 100])
def test_thor_trains_with_blocks_of_any_size(split):
    net, (x, y) = convolutional(), learnable()
    optimizer = THOR(net, factors=split, schedule=2, warmup=5)
    losses = [train_step(net, optimizer, x, y).item() for _ in range(25)]
    assert sum(losses[-3:]) < 0.85 * sum(losses[:3])
    shapes = [t.shape[-1] for block in optimizer.blocks.values() for name in ("A", "B") for t in [getattr(block, name)]]
    assert max(shapes) <= split


@every_method
def test_groups_have_options_of_their_own_and_what_is_frozen_stays(kind):
    net = plain()
    net[0].bias.requires_grad_(False)
    groups = [{"params": net[0].weight, "lr": 0.0}, {"params": net[2].parameters(), "damping": 3.0, "decay": 0.5}]
    optimizer = METHODS[kind](net, groups, schedule=1, keep_norms=False)
    before = copy.deepcopy(net.state_dict())
    train(net, optimizer, range(3))
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"2.weight", "2.bias"}
    assert set(optimizer.blocks) == {"0", "2"}
    assert {o.name for o in optimizer.summary() if o.kind == "frozen"} == {"0.bias", "4.weight", "4.bias"}


@every_method
def test_a_groups_damping_is_that_of_its_layers(kind):
    net = mlp(4, 6, 3)
    groups = [{"params": net[0].parameters(), "damping": 5.0}, {"params": net[2].parameters()}]
    optimizer = METHODS[kind](net, groups, damping=0.01, factors=Factors(8192, damping_bounds=(0.0, math.inf), raw_damping=1))
    train_step(net, optimizer, *batch(16, 4))
    for name, damping in (("0", 5.0), ("2", 0.01)):
        block, module = optimizer.blocks[name], net.get_submodule(name)
        gradient = torch.randn(module.out_features, module.in_features + 1, dtype=DOUBLE)
        solved = torch.linalg.solve(block.dense(damping), gradient.flatten())
        torch.testing.assert_close(block.precondition(gradient).flatten(), solved)


class Late(nn.Module):
    """A branch that joins in later."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body, self.late, self.head = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)
        self.use_late = False

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x) + self.late(x) if self.use_late else self.body(x)
        return self.head(h.tanh())


@every_method
def test_a_layer_does_not_move_before_it_was_measured(kind):
    """Its gradient is no direction of the method, and lr is no rate for it."""
    net = Late()
    optimizer = METHODS[kind](net)
    train(net, optimizer, range(6))
    net.use_late, before = True, net.late.weight.detach().clone()
    for step in range(6, 9):
        train(net, optimizer, range(step, step + 1))
        assert optimizer.blocks["late"].ready or torch.equal(before, net.late.weight)
    assert optimizer.blocks["late"].ready
    assert not torch.equal(before, net.late.weight)


@pytest.mark.parametrize("kind", ["KFAC", "EKFAC", "TKFAC", "NGPlus", "THOR"])
def test_a_model_whose_head_starts_at_zero_trains(kind):
    """Nothing comes back from a zero head: B = 0 for all layers below, at the first step."""
    net, (x, y) = plain(), learnable()
    nn.init.zeros_(net[4].weight)
    optimizer = METHODS[kind](net, warmup=5)
    losses = [train_step(net, optimizer, x, y).item() for _ in range(25)]
    assert losses[-1] < 0.9 * losses[0]


WIDTHS = (4, 6, 5, 3)


@dataclass
class Layer:
    """Averages of one layer of K-FAC."""

    weight: Tensor
    A: Tensor | float = 0.0
    B: Tensor | float = 0.0
    updates: int = 0
    average: Tensor | float = 0.0
    inverses: tuple[Tensor, Tensor] = field(default_factory=tuple)


class Transcription:
    """K-FAC on an MLP with tanh and cross-entropy: Martens & Grosse 2015, with the KL clip of Ba, Grosse, Martens 2017."""

    def __init__(self, model: nn.Sequential, fisher: FisherType, kl: float, lr: float, weight_decay: float) -> None:
        linear = [m for m in model if isinstance(m, nn.Linear)]
        self.layers = [Layer(torch.cat([m.weight, m.bias[:, None]], 1).detach().clone()) for m in linear]
        self.fisher, self.kl, self.lr, self.weight_decay = fisher, kl, lr, weight_decay
        self.generator, self.count = torch.Generator().manual_seed(3), 0

    def step(self, x: Tensor, y: Tensor) -> None:
        inputs = []
        for layer in self.layers:
            inputs.append(with_ones(x))
            s = inputs[-1] @ layer.weight.T
            x = s.tanh()
        if self.count % 2 == 0:
            self.measure(inputs, self.backward(inputs, s, self.labels(s, y)))
        if self.count % 4 == 0:
            self.invert()
        self.move(inputs, self.backward(inputs, s, y))
        self.count += 1

    def labels(self, logits: Tensor, y: Tensor) -> Tensor:
        if self.fisher is FisherType.EMPIRICAL:
            return y
        u = torch.empty_like(logits).uniform_(generator=self.generator)
        return (logits - (-u.log()).log()).argmax(1)

    def backward(self, inputs: list[Tensor], logits: Tensor, y: Tensor) -> list[Tensor]:
        g = logits.softmax(1) - F.one_hot(y, WIDTHS[-1])
        found = [g]
        for layer, a in zip(self.layers[:0:-1], inputs[:0:-1], strict=True):
            g = (g @ layer.weight[:, :-1]) * (1 - a[:, :-1] ** 2)
            found.insert(0, g)
        return found

    def measure(self, inputs: list[Tensor], upstream: list[Tensor], decay: float = 0.95) -> None:
        for layer, a, g in zip(self.layers, inputs, upstream, strict=True):
            layer.updates += 1
            keep, total = decay * (1 - decay ** (layer.updates - 1)), 1 - decay**layer.updates
            layer.A = (keep * layer.A + (1 - decay) * a.T @ a / len(a)) / total
            layer.B = (keep * layer.B + (1 - decay) * g.T @ g / len(g)) / total

    def invert(self, damping: float = 0.3) -> None:
        for layer in self.layers:
            mean_A, mean_B = layer.A.trace() / len(layer.A), layer.B.trace() / len(layer.B)
            root, pi = math.sqrt(max(damping * mean_A * mean_B, 1e-5)), math.sqrt(mean_A / mean_B)
            A = layer.A + pi * root * torch.eye(len(layer.A), dtype=DOUBLE)
            B = layer.B + root / pi * torch.eye(len(layer.B), dtype=DOUBLE)
            layer.inverses = torch.linalg.inv(A), torch.linalg.inv(B)

    def move(self, inputs: list[Tensor], upstream: list[Tensor]) -> None:
        rate = self.lr * min(1.0, (self.count + 1) / 6)
        directions, change = [], 0.0
        for layer, a, g in zip(self.layers, inputs, upstream, strict=True):
            layer.average = 0.9 * layer.average + 0.1 * g.T @ a / len(a)
            corrected = layer.average / (1 - 0.9 ** (self.count + 1))
            A_inverse, B_inverse = layer.inverses
            directions.append(B_inverse @ corrected @ A_inverse)
            change += rate**2 * (directions[-1] * corrected).sum().item()
        clip = min(1.0, math.sqrt(self.kl / change))
        self.clipped = clip < 1
        for layer, d in zip(self.layers, directions, strict=True):
            layer.weight = (1 - self.lr * self.weight_decay) * layer.weight - rate * clip * d


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("kl", [1e-3, 0.02])
@pytest.mark.parametrize("fisher", [FisherType.EMPIRICAL, FisherType.SAMPLED])
def test_kfac_is_its_own_transcription(fisher, kl, weight_decay):
    model = mlp(*WIDTHS)
    expected, clipped = Transcription(model, fisher, kl, 0.5, weight_decay), []
    options = {"step_size": KLClip(kl), "warmup": 6, "weight_decay": weight_decay}
    options |= {"schedule": Schedule(curvature_every=2, inverse_every=4, ramp=False, refresh_over=1, samples=None)}
    optimizer = KFAC(model, lr=0.5, damping=0.3, fisher=fisher, generator=torch.Generator().manual_seed(3), **options)
    for step in range(14):
        x, y = batch(32, 4, seed=step)
        train_step(model, optimizer, x, y)
        expected.step(x, y)
        clipped.append(expected.clipped)
        for module, layer in zip([m for m in model if isinstance(m, nn.Linear)], expected.layers, strict=True):
            weight = torch.cat([module.weight, module.bias[:, None]], 1).detach()
            torch.testing.assert_close(weight, layer.weight, rtol=1e-9, atol=1e-9, msg=f"after step {step}")
    assert any(clipped)
    assert all(clipped) is (kl == 1e-3)


def test_a_method_of_ones_own_changes_a_block_and_a_default_in_three_lines():
    class Own(LNGD):
        block = KFACBlock

        def __init__(self, model, **options):
            super().__init__(model, **{"lr": 0.1, **options})

    model = nn.Sequential(nn.Conv2d(40, 3, 3), nn.Flatten(), nn.Linear(3, 2))
    optimizer = Own(model, damping=0.5, factors=Factors(64))
    assert {type(block) for block in optimizer.blocks.values()} == {KFACBlock}
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["damping"]) == (0.1, 0.5)
    with pytest.raises(TypeError, match="has no argument 'betas'; momentum= is"):
        Own(model, betas=(0.9, 0.99))
