"""What every training run keeps, whatever the model and the settings: one function a promise."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from hypothesis import reject
from torch import Tensor, nn

from fuzz.models import Network
from fuzz.settings import Case
from lngd.methods import Method
from lngd.optimizer import Outcome
from lngd.optimizer.adamw import share_of_rate
from lngd.optimizer.curved_layer import CurvedLayer
from lngd.optimizer.hyperparameters import as_step_size
from lngd.optimizer.natural_gradient import NOT_USED_YET
from lngd.optimizer.parameters import is_a_choice
from reference import snapshot, through_a_file

STEPS = 4
"""Three that are checked one by one, and one that is done twice: by the run and by a run resumed from its checkpoint."""
LACKING, STRANGE_LR, FALLEN = "of the entries of the model's matrices get curvature", "is of", "AdamW trains it from now on"
"""Warnings whose occasion is a promise of its own."""
WARNINGS = (
    LACKING,
    f"{STRANGE_LR} another optimizer's size: here it is",
    FALLEN,
    "a gradient or a statistic was not finite: that step was skipped",
    "Fisher factor not positive definite",
    "its Fisher factor needed damping=",
    "its statistics overflow float32",
    "Using padding='same' with even kernel lengths",  # this and the next are torch's own
    "Mismatch dtype between input and weight",
)
PROGRESS = "optimizer.param_groups.0.progress"
KEPT = "optimizer.state."
"""Where a checkpoint holds averages, statistics and inverses."""
UNDEFINED = "exp_avg_sq"
"""AdamW's squares, which overflow in torch itself."""
COUNTED = ("owed", "promoted")
"""What a skipped step may change: whose turn it is to be refreshed, and in what dtype a layer's state is kept."""


@dataclass
class Run:
    """A case in training, beside the same model without an optimizer.

    Args:
        caught: the warnings so far.
        unmoved: why parameters with a gradient stayed where they were, counted.
    """

    case: Case
    model: Network
    optimizer: Method
    twin: Network
    caught: list[warnings.WarningMessage]
    unmoved: Counter[str] = field(default_factory=Counter)

    @classmethod
    def begin(cls, case: Case, caught: list[warnings.WarningMessage]) -> "Run":
        model = case.build()
        return cls(case, model, case.settings.build(model), case.build(), caught)

    def warned(self, text: str) -> bool:
        """Whether there was such a warning so far."""
        return self.warnings(text) > 0

    def warnings(self, text: str) -> int:
        """How many of them there were so far."""
        return sum(text in str(warning.message) for warning in self.caught)


def check(case: Case) -> Run:
    """Trains a case and holds it against every promise."""
    with only_documented_warnings() as caught:
        run = Run.begin(case, caught)
        with closing(run.optimizer):  # hooks that the garbage collector takes off while hypothesis draws use its randomness
            check_summary(run)
            check_warnings_of_construction(run)
            for step in range(STEPS - 1):
                check_step(run, step)
            check_resumption(run, STEPS - 1)
    return run


@contextmanager
def only_documented_warnings() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
    unknown = [str(w.message) for w in caught if not any(known in str(w.message) for known in WARNINGS)]
    assert not unknown, f"undocumented warnings: {unknown}"


def check_step(run: Run, step: int) -> None:
    loss = check_forward_and_backward(run, step)
    before, grads, curved = snapshot(run.model, run.optimizer), gradients(run.model), set(run.optimizer.blocks)
    run.optimizer.step()
    now = snapshot(run.model, run.optimizer)
    nothing(different(gradients(run.model), grads), "step() has changed a gradient")
    if asks_for_the_state(run, grads):
        nothing(different(before, now), "a step without any rate or gradient has changed")
        return
    assert now[f"{PROGRESS}.steps"] == run.optimizer.stats()["steps"] == before[f"{PROGRESS}.steps"] + 1
    check_finite(before, now, loss)
    check_summary(run)
    check_fallbacks(run, curved)
    if now[f"{PROGRESS}.skipped"] == before[f"{PROGRESS}.skipped"]:
        assert all(g.isfinite().all() for g in grads.values()), "a gradient that is not finite was used"
        check_moves(run, before, grads)
    else:
        check_untouched(before, now)


def asks_for_the_state(run: Run, grads: dict[str, Tensor]) -> bool:
    """Whether a step looks like those by which torch.distributed makes optimizers fill their state: it is none."""
    return all(group["lr"] == 0 for group in run.optimizer.param_groups) and not any(g.any() for g in grads.values())


def check_forward_and_backward(run: Run, step: int) -> Tensor:
    """The hooks change nothing: loss, gradients and buffers are those of the same model without an optimizer.

    A measuring step computes a recurrent network product by product, which is another rounding.
    """
    recurrent = any(isinstance(module, nn.RNNBase) for module in run.model.modules())
    opened = recurrent and run.optimizer._capture.measuring
    run.twin.load_state_dict(run.model.state_dict())
    expected = accepted_by_torch(run.case, run.twin, step)
    loss = run.case.backward(run.model, step)
    rounding = torch.finfo(run.case.training.computed_in).eps
    same = partial(near, largest=largest([expected, *gradients(run.twin).values()]), rounding=rounding) if opened else identical
    assert same(loss, expected), "another loss"
    nothing(different(gradients(run.model), gradients(run.twin), same), "another gradient")
    nothing(different(dict(run.model.named_buffers()), dict(run.twin.named_buffers())), "another buffer")
    return loss


def accepted_by_torch(case: Case, twin: Network, step: int) -> Tensor:
    """What torch itself refuses is no case."""
    try:
        return case.backward(twin, step)
    except (RuntimeError, ValueError):
        reject()


def check_summary(run: Run) -> None:
    """Every parameter has exactly one row."""
    names = [outcome.name for outcome in run.optimizer.summary()]
    assert sorted(names) == sorted(name for name, _ in run.model.named_parameters())


def check_warnings_of_construction(run: Run) -> None:
    """One if less than half of the entries of all matrices have curvature, unless that is asked for; one for each group's odd lr.

    Where the first forward has to show how a weight is used, the first one comes later.
    """
    entries: Counter[str] = Counter()
    for outcome in run.optimizer.summary():
        if len(outcome.shape) > 1 and "curvature=" not in outcome.reason:
            entries[outcome.kind] += torch.Size(outcome.shape).numel()
    undecided = any(outcome.reason == NOT_USED_YET for outcome in run.optimizer.summary())
    assert run.warnings(LACKING) == (entries["curvature"] < entries["fallback"] and not undecided)
    settings = run.case.settings
    least, most = as_step_size("constant" if settings.method == "LNGDSample" else settings.argument("step_size")).lr_range
    rates = {group["lr"] for group in run.optimizer.param_groups if group["curvature"] is not False}
    strange = {lr for lr in rates if lr > 0 and not least <= lr <= most and settings.argument("momentum_on") != "update"}
    assert run.warnings(f" {STRANGE_LR} ") == len(strange)
    assert all(run.warnings(f"lr={lr:g} {STRANGE_LR} ") == 1 for lr in strange)


def check_fallbacks(run: Run, before: set[str]) -> None:
    """A layer that loses its curvature is named by a warning."""
    for name in before - set(run.optimizer.blocks):
        assert run.warnings(f"layer '{name}': {FALLEN}") == 1, f"{name} fell back without a warning"


def check_finite(before: dict[str, Tensor], now: dict[str, Tensor], loss: Tensor) -> None:
    """A finite loss leaves finite parameters finite; statistics and state always are."""
    infinite = [name for name, value in now.items() if not value.isfinite().all()]
    nothing([n for n in infinite if n.startswith("model.") and loss.isfinite() and before[n].isfinite().all()], "not finite")
    nothing([n for n in infinite if n.startswith(KEPT) and not n.endswith(UNDEFINED)], "not finite")


def check_untouched(before: dict[str, Tensor], now: dict[str, Tensor]) -> None:
    """A skipped step leaves weights, averages and statistics alone; their dtype may become float64."""
    kept = {n: value for n, value in before.items() if n.startswith(("model.", KEPT)) and not n.endswith(COUNTED)}
    touched = [n for n, value in kept.items() if n in now and not identical(value.to(now[n].dtype), now[n])]
    nothing(touched, "a skipped step has changed")


def check_moves(run: Run, before: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
    """A trained parameter with a gradient moves, or there is a reason; a frozen one stays."""
    for outcome in run.optimizer.summary():
        name, held = outcome.name, before[f"model.{outcome.name}"]
        moved = not identical(run.model.get_parameter(name), held)
        if outcome.kind == "frozen":
            assert not moved, f"{name} is frozen and moved"
        elif name in grads and grads[name].any() and not moved:
            reason = why_unmoved(run, outcome, held)
            assert reason, f"{name}, {outcome.kind}, has a gradient and did not move"
            run.unmoved[reason] += 1


def why_unmoved(run: Run, outcome: Outcome, before: Tensor) -> str:
    """The reason why a parameter with a gradient may stay; empty if there is none."""
    p = run.model.get_parameter(outcome.name)
    group = next(g for g in run.optimizer.param_groups if any(q is p for q in g["params"]))
    curved = outcome.kind == "curvature"
    lr = group["lr"] if curved else group["lr"] * group["adamw_lr_ratio"] * share_of_adamws_rate(run, outcome, group)
    if lr == 0:
        return "lr is 0"
    decay = lr * group["weight_decay"] * before  # step and decay may cancel
    if not curved:
        return rounding(before, adamw_step(run.optimizer.state[p], group, lr) - decay)
    held = run.optimizer._layers[outcome.layer]
    if held.layer.found and held.since == run.optimizer.t:
        return "found in this step"
    if not held.block.ready:
        return "no inverse yet" if run.warned(f"layer '{outcome.layer}': Fisher factor not positive definite") else ""
    direction = direction_of(held)
    if not direction.any():
        return "the direction underflows" if is_extreme(run.case) else ""
    if held.alpha == 0:
        return "the rate is 0" if is_extreme(run.case) or no_slope(held) else ""
    update = layer_step(run, held, outcome.name, lr)
    if not (direction.norm() + update.norm()).isfinite():
        return "the step has no room in the dtype"
    return rounding(before, update - decay)


def is_extreme(case: Case) -> bool:
    """Whether the numbers leave the range in which float32 has products and quotients."""
    settings = [case.settings.options, case.settings.overrides or {}]
    return not 1e-4 < case.training.scale < 1e4 or any(options.get("damping", 1) > 1e3 for options in settings)


def no_slope(held: CurvedLayer) -> bool:
    """Whether the samples that measure the layer's rate had a gradient of zero along its direction: κ = 0."""
    return held.states[0].get("kappa", torch.ones(())).item() == 0


def rounding(before: Tensor, update: Tensor) -> str:
    """Whether a parameter's dtype can't hold the step; half of it, so that ties and the order of operations don't matter."""
    return "too short for the dtype" if identical((before.double() + update.double() / 2).to(before.dtype), before) else ""


def share_of_adamws_rate(run: Run, outcome: Outcome, group: dict) -> float:
    """What its width and the warm-up leave of it."""
    warmup = run.case.settings.argument("warmup")
    warm = min(1.0, run.optimizer.t / warmup) if warmup and group["curvature"] is not False else 1.0
    return warm if is_a_choice(outcome) else warm * share_of_rate(run.model.get_parameter(outcome.name))


def adamw_step(state: dict[str, Tensor], group: dict, lr: float) -> Tensor:
    (first, second), t = group["adamw_betas"], state["step"].item()  # 1 − 0.999 in float32 is off by 5e-5
    average, square = state["exp_avg"].double() / (1 - first**t), state["exp_avg_sq"].double() / (1 - second**t)
    return -lr * average / (square.sqrt() + group["adamw_eps"])


def layer_step(run: Run, held: CurvedLayer, name: str, lr: float) -> Tensor:
    """−lr·α·d of one parameter, from what the checkpoint holds after the step."""
    p = run.model.get_parameter(name)
    place = next(k for k, q in enumerate(held.parameters) if q is p)
    if held.recipe.momentum_on == "update":
        return held.states[place]["momentum"]
    warmup = run.case.settings.argument("warmup")
    share = min(1.0, run.optimizer.t / warmup) if warmup else 1.0
    return -share * lr * held.alpha * held.layer.split(direction_of(held))[place]


def direction_of(held: CurvedLayer) -> Tensor:
    """d, once more: from the average that the step left, and from the gradient where Nesterov's momentum looks ahead."""
    average = gradient = held.layer.gradient()
    if held.recipe.momentum_on != "update":
        average = held.layer.matrix([state["average"] for state in held.states])
    if held.recipe.momentum_on == "nesterov":
        average = gradient.lerp(average, held.groups[0]["momentum"])
    return held.direction(average)


def check_resumption(run: Run, step: int) -> None:
    """A run from a checkpoint goes on bit-equal."""
    model = run.case.build()
    with closing(run.case.settings.build(model)) as optimizer:
        model.load_state_dict(run.model.state_dict())
        optimizer.load_state_dict(through_a_file(run.optimizer.state_dict()))
        check_forward_and_backward(run, step)
        run.case.backward(model, step)
        run.optimizer.step()
        optimizer.step()
        nothing(different(snapshot(run.model, run.optimizer), snapshot(model, optimizer)), "resumed differently")


def gradients(model: Network) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def identical(x: Tensor, y: Tensor) -> bool:
    """Bit-equal, up to the sign of zero; a NaN equals a NaN."""
    return x.shape == y.shape and bool(((x == y) | (x.isnan() & y.isnan())).all())


def largest(tensors: Iterable[Tensor]) -> float:
    """The largest finite entry."""
    return max(float(t.abs().nan_to_num(posinf=0.0).max()) for t in tensors if t.numel())


def near(x: Tensor, y: Tensor, *, largest: float, rounding: float) -> bool:
    """Equal up to the root of a dtype's rounding, of the largest number beside them."""
    if identical(x, y) or not (x.isfinite().all() and y.isfinite().all()):
        return identical(x.isfinite(), y.isfinite())
    return bool((x.double() - y.double()).abs().max() <= rounding**0.5 * largest)


def different(x: dict[str, Tensor], y: dict[str, Tensor], same: Callable[[Tensor, Tensor], bool] = identical) -> list[str]:
    """The names of what is not the same in both."""
    return [name for name in x | y if name not in x or name not in y or not same(x[name], y[name])]


def nothing(found: list[str], broken: str) -> None:
    """No name breaks a promise."""
    assert not found, f"{broken}: {', '.join(found)}"
