"""Idea 9: what an ordinary step does besides the product with Φ̂⁻¹, pass by pass, beside SGD's step on the same parameters.

ResNet-18's 11 million parameters. Each pass is written as the step has it, tensor by tensor; memory is what it costs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from benchmarks.kernels.spectra import generator
from benchmarks.kernels.stopwatch import Case
from torch import Tensor

from lngd.linalg import all_finite, inner, largest_magnitude
from lngd_bench.tasks.models.resnet import ResNet18

SHARE = 0.1
Work = Callable[[], object]


@dataclass(frozen=True)
class Problem:
    """One list a role, a tensor a parameter with a matrix of weights."""

    weights: list[Tensor]
    gradients: list[Tensor]
    averages: list[Tensor]
    accept: Tensor
    share: Tensor
    """Scalars on the device, as the step has them; nothing is read on the host."""

    def each(self, work: Callable[[Tensor, Tensor, Tensor], object]) -> Work:
        """work(W, ∇, M) of every parameter."""
        together = list(zip(self.weights, self.gradients, self.averages, strict=True))

        def all_in_turn() -> None:
            for w, g, m in together:
                work(w, g, m)

        return all_in_turn


def problem() -> Problem:
    shapes = [p.shape for p in ResNet18(64).parameters() if p.dim() > 1]
    source = generator()
    weights, gradients, averages = ([torch.randn(s, generator=source).flatten(1) for s in shapes] for _ in range(3))
    return Problem(weights, gradients, averages, torch.tensor(True), torch.tensor(SHARE))


def cases() -> Iterator[Case]:
    """Each pass against SGD's step, then what could replace some of them against what it replaces."""
    p = problem()
    size = f"{sum(w.numel() for w in p.weights):,}"
    sgd = sgd_step(p)
    for name, work in passes(p).items():
        yield Case(idea=name, size=size, against="SGD's step", old=sgd, new=work, verdict=in_sgd_steps)
    everything = in_turn(list(passes(p).values()))
    yield Case(idea="all of these", size=size, against="SGD's step", old=sgd, new=everything, verdict=in_sgd_steps)
    for (name, against), (old, new) in replacements(p).items():
        yield Case(idea=name, size=size, against=against, old=old, new=new)


def in_sgd_steps(_low: float, ratio: float, _high: float) -> str:
    """A pass replaces nothing: what it adds."""
    return f"adds {ratio:.2f} SGD steps"


def sgd_step(p: Problem) -> Work:
    """With momentum, on all tensors at once. Rate 0: the weights stay."""
    parameters = [torch.nn.Parameter(w.clone()) for w in p.weights]
    for parameter, gradient in zip(parameters, p.gradients, strict=True):
        parameter.grad = gradient
    return torch.optim.SGD(parameters, lr=0.0, momentum=0.9, foreach=True).step


def in_turn(works: list[Work]) -> Work:
    return lambda: [work() for work in works]


def passes(p: Problem) -> dict[str, Work]:
    """In the step's order; the names say what is read and written."""
    accept, share = p.accept, p.share
    zero = torch.zeros(())
    return {
        "all_finite(∇)": lambda: all_finite(p.gradients),
        "∇ as a matrix, a copy": p.each(lambda _, g, __: torch.cat([g], dim=-1)),
        "where(accept, ∇, 0)": p.each(lambda _, g, __: torch.where(accept, g, 0.0)),
        "M.lerp(∇, share)": p.each(lambda _, g, m: m.lerp(g, share)),
        "M / weight": p.each(lambda _, __, m: m / share),
        "Ψ̂⁻¹ · (∇Φ̂⁻¹)": p.each(lambda w, g, _: w[:, :1] * g),
        "⟨d, M⟩": p.each(lambda _, g, m: inner(g, m)),
        "lr · d": p.each(lambda _, g, __: 0.1 * g),
        "−α · (lr · d)": p.each(lambda _, g, __: -share * g),
        "largest of W, of the update": p.each(lambda w, g, _: largest_magnitude([w, g])),
        "where(possible, update, 0)": p.each(lambda _, g, __: torch.where(accept, g, 0.0)),
        "W.add_(update)": p.each(lambda w, g, _: w.add_(g, alpha=0.0)),
        "‖W‖ before and after, ‖∇‖, ⟨W, ∇⟩": p.each(lambda w, g, _: (w.norm(), w.norm(), g.norm(), inner(w, g))),
        "W.mul_(where(invariant, ratio, 1))": p.each(lambda w, _, __: w.mul_(torch.where(accept, 1.0, zero))),
    }


Replacements = dict[tuple[str, str], tuple[Work, Work]]
"""By the names of the new and the old."""


def replacements(p: Problem) -> Replacements:
    """Equal results where every number is finite; 0 · NaN is NaN, so a scale of 0 is not a `where`."""
    return update_replacements(p) | norm_replacements(p)


def update_replacements(p: Problem) -> Replacements:
    """Averaging and applying."""
    accept, share, nothing = p.accept, p.share, torch.zeros(())
    spare = {id(g): torch.empty_like(g) for g in p.gradients}

    def apply_in_passes(w: Tensor, g: Tensor, _: Tensor) -> Tensor:
        return w.add_(torch.where(accept, -nothing * (0.1 * g), 0.0))

    def average(_: Tensor, g: Tensor, m: Tensor) -> Tensor:
        return m.lerp(torch.where(accept, torch.cat([g], dim=-1), 0.0), share) / share

    return {
        ("one addcmul_ applies the step", "lr · d, −α ·, where, add_"): (
            p.each(apply_in_passes),
            p.each(lambda w, g, _: w.addcmul_(g, nothing, value=-1.0)),
        ),
        ("lerp_ in place, no copy, no where, no division", "copy, where, lerp, division"): (
            p.each(average),
            p.each(lambda _, g, m: m.lerp_(g, share)),
        ),
        ("−α · d into a tensor kept for it", "−α · d, a new tensor"): (
            p.each(lambda _, g, __: -share * g),
            p.each(lambda _, g, __: torch.mul(g, share, out=spare[id(g)])),
        ),
    }


def norm_replacements(p: Problem) -> Replacements:
    """Whether everything is finite, and how large. Squares overflow float32 from 1e19 on, sums of magnitudes near 1e38."""
    finite: Work = partial(all_finite, p.gradients)
    return {
        ("aminmax, finite or not", "all_finite(∇)"): (
            finite,
            lambda: torch.stack([torch.stack(g.aminmax()).isfinite().all() for g in p.gradients]).all(),
        ),
        ("sums of magnitudes, finite or not", "all_finite(∇)"): (
            finite,
            lambda: torch.stack(torch._foreach_norm(p.gradients, ord=1)).isfinite().all(),
        ),
        ("sums of squares, finite or not", "all_finite(∇)"): (
            finite,
            lambda: torch.stack(torch._foreach_norm(p.gradients)).isfinite().all(),
        ),
        ("aminmax of W and of the update", "largest of W, of the update"): (
            p.each(lambda w, g, _: largest_magnitude([w, g])),
            p.each(lambda w, g, _: (w.aminmax(), g.aminmax())),
        ),
        ("norms of W and of the update", "largest of W, of the update"): (
            p.each(lambda w, g, _: largest_magnitude([w, g])),
            p.each(lambda w, g, _: (w.norm(), g.norm())),
        ),
        ("_foreach_norm, one call a list", "‖W‖, ‖∇‖ tensor by tensor"): (
            p.each(lambda w, g, _: (w.norm(), g.norm())),
            lambda: (torch._foreach_norm(p.weights), torch._foreach_norm(p.gradients)),
        ),
        ("finite and ‖∇‖ from one sum of squares", "all_finite(∇), then ‖∇‖"): (
            lambda: (all_finite(p.gradients), [g.norm() for g in p.gradients]),
            lambda: torch.stack(torch._foreach_norm(p.gradients)).isfinite().all(),
        ),
    }
