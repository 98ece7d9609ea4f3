"""Which cases are drawn: hypothesis strategies for models, settings and training."""

import math

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from fuzz.chains import Chain, Concat, Recomputed, Residual, Tied, Twice
from fuzz.models import Model
from fuzz.parts import (
    ACTIVATIONS,
    Activation,
    Attention,
    Conv,
    ConvTranspose,
    Dropout,
    Linear,
    Norm,
    Part,
    Pool,
    Recurrent,
    Signal,
    ToSequence,
)
from fuzz.settings import METHODS, Case, Settings, Training
from lngd import Constant, Empirical, Factors, FixedRMS, Graft, KLClip, Layerwise, LayerwiseRate, Sampled, Schedule

WIDTHS = st.integers(1, 9)
BOOLS = st.booleans()
INPLACE = ("relu", "silu")
ONTO = (Linear, Conv, ConvTranspose)
"""What an in-place activation may follow: these need their output for no backward pass of their own."""


def rarely(value: object, otherwise: object) -> SearchStrategy:
    """About one draw in ten."""
    return st.integers(0, 9).map(lambda chosen: value if chosen == 5 else otherwise)


@st.composite
def some(draw: DrawFn, options: dict[str, SearchStrategy]) -> dict[str, object]:
    """About half of the options."""
    return {name: draw(values) for name, values in options.items() if draw(BOOLS)}


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


@st.composite
def signals(draw: DrawFn, layout: str) -> Signal:
    if layout == "rows":
        return Signal("rows", draw(WIDTHS))
    if layout == "sequence":
        return Signal("sequence", draw(WIDTHS), (draw(st.integers(1, 4)),))
    dims = draw(st.integers(1, 3))
    return Signal("image", draw(st.integers(1, 4)), tuple(draw(st.integers(1, 6 - dims)) for _ in range(dims)))


@st.composite
def convolutions(draw: DrawFn, signal: Signal, *, same: bool) -> Conv:
    """One that fits; `same`: one that keeps the extent."""
    kernel, dilation = draw(st.integers(1, min(3, *signal.space))), draw(st.integers(1, 2))
    dilation = 1 if dilation * (kernel - 1) >= min(signal.space) else dilation
    groups = draw(st.sampled_from(divisors(signal.channels)))
    stride = 1 if same else draw(st.integers(1, 2))
    padding = "same" if same or (stride == 1 and draw(BOOLS)) else draw(st.integers(0, min(1, min(signal.space) - 1)))
    modes = ("zeros", "circular", "replicate", "reflect")
    mode = draw(st.sampled_from(modes))
    return Conv(groups * draw(st.integers(1, 3)), kernel, stride, dilation, padding, mode, groups, draw(BOOLS))


@st.composite
def transposed(draw: DrawFn, signal: Signal) -> ConvTranspose:
    stride, kernel, dilation = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    padding = draw(st.integers(0, 1)) if kernel > 1 and min(signal.space) > 1 else 0
    output_padding = draw(st.integers(0, max(stride, dilation) - 1))
    groups = draw(st.sampled_from(divisors(signal.channels)))
    return ConvTranspose(groups * draw(st.integers(1, 3)), kernel, stride, dilation, padding, output_padding, groups, draw(BOOLS))


@st.composite
def norms(draw: DrawFn, signal: Signal) -> Norm:
    kinds = ("layer", "rms") if signal.layout == "sequence" else ("batch", "layer", "group", "rms")
    return Norm(draw(st.sampled_from(kinds)), draw(BOOLS), draw(st.sampled_from(divisors(signal.channels))))


def activations(before: Part | None) -> SearchStrategy[Activation]:
    inplace = [Activation(kind, inplace=True) for kind in INPLACE] if isinstance(before, ONTO) else []
    return st.sampled_from([*(Activation(kind) for kind in ACTIVATIONS), *inplace, *inplace])


def anywhere(signal: Signal, before: Part | None) -> list[SearchStrategy]:
    """Parts that keep the extent of every layout, with the layers of this one."""
    layers = [convolutions(signal, same=True)] if signal.layout == "image" else [linears(), linears(), st.just(Tied())]
    if signal.layout == "sequence":
        heads = st.sampled_from(divisors(signal.channels))
        layers += [st.builds(Attention, heads, BOOLS), st.builds(Recurrent, st.sampled_from(("lstm", "gru")), WIDTHS)]
    return [*layers, activations(before), activations(before), norms(signal), st.builds(Dropout, st.sampled_from((0.2, 0.5)))]


def linears() -> SearchStrategy[Linear]:
    return st.builds(Linear, WIDTHS, BOOLS)


def reshaping(signal: Signal) -> list[SearchStrategy]:
    """Parts that change an image's extent."""
    if signal.layout != "image":
        return []
    found: list[SearchStrategy] = [convolutions(signal, same=False), convolutions(signal, same=False), st.just(ToSequence())]
    if len(signal.space) < 3 and max(signal.space) < 6:
        found += [transposed(signal)] * 2
    if min(signal.space) > 1:
        found += [st.builds(Pool, st.sampled_from(("max", "mean")))]
    return found


@st.composite
def branches(draw: DrawFn, signal: Signal) -> tuple[Part, ...]:
    """A chain that ends in the signal it began with."""
    parts: list[Part] = []
    here = signal
    for _ in range(draw(st.integers(0, 2))):
        parts.append(draw(st.one_of(anywhere(here, parts[-1] if parts else None))))
        here = parts[-1].out(here)
    closing = Conv(signal.channels, 1) if signal.layout == "image" else Linear(signal.channels)
    return (*parts, closing)


def nested(signal: Signal) -> list[SearchStrategy]:
    kinds = [Residual, Twice, Recomputed] + [Concat] * (signal.channels < 10)
    return [st.builds(kind, branches(signal)) for kind in kinds]


@st.composite
def chains(draw: DrawFn, signal: Signal) -> tuple[Part, ...]:
    """Up to four parts; the head makes five."""
    parts: list[Part] = []
    for _ in range(draw(st.sampled_from((1, 2, 3, 4, 4, 3, 2, 0)))):
        before = parts[-1] if parts else None
        parts.append(draw(st.one_of(anywhere(signal, before) + reshaping(signal) + nested(signal))))
        signal = parts[-1].out(signal)
    return tuple(parts)


@st.composite
def models(draw: DrawFn, *, outputs: int) -> Model:
    layout = draw(st.sampled_from(("rows", "image", "sequence", "image", "tokens")))
    signal = draw(signals("sequence" if layout == "tokens" else layout))
    parts = draw(chains(signal))
    vocabulary = draw(st.integers(2, 9)) if layout == "tokens" else 0
    tied = bool(vocabulary) and draw(BOOLS)
    last = Chain(parts).out(signal)
    heads = ("flat",) if last.layout == "rows" else ("mean", "positions") if tied else ("flat", "mean", "positions")
    return Model(
        signal=signal,
        parts=(*parts, Linear(signal.channels)) if tied else parts,
        head=draw(st.sampled_from(heads)),
        outputs=vocabulary if tied else outputs,
        bias=draw(BOOLS),
        vocabulary=vocabulary,
        tied=tied,
        unused=draw(rarely(True, False)),
        frozen=draw(st.sampled_from(((), (), (0,), (1,), (0, 3)))),
    )


DAMPING = (0.0, 1e-8, 1e-3, 0.3, 10.0, 1e6, 1e20)
PER_GROUP = {
    "lr": st.sampled_from((0.0, 1e-4, 1e-2, 0.1, 0.5, 1.0, 3.0)),
    "momentum": st.sampled_from((0.0, 0.5, 0.9, 0.999)),
    "weight_decay": st.sampled_from((0.0, 1e-2, 0.5, 1.0)),
    "damping": st.sampled_from(DAMPING),
    "decay": st.sampled_from((0.0, 0.5, 0.95, 0.999)),
    "adamw_lr_ratio": st.sampled_from((0.0, 0.02, 1.0)),
}
OF_A_GROUP = PER_GROUP | {
    "adamw_betas": st.just((0.5, 0.9)),
    "adamw_eps": st.just(1e-4),
    "curvature": st.sampled_from((True, False, None)),
}
INTERVALS = st.sampled_from((1, 2, 3, 20))
BOUNDS = ((0.0, math.inf), (1e-5, math.inf), (1e-5, 1e-2), (0.0, 0.0), (1.0, 1.0))
MAX_DIMS = st.sampled_from((1, 2, 4, 8, 64, 8192))
FISHERS: dict[str, SearchStrategy] = {
    "layerwise": st.just("layerwise") | st.builds(Layerwise, st.sampled_from(("rademacher", "gaussian"))),
    "empirical": st.just("empirical") | st.just(Empirical()),
}


def objects(kind: type, **arguments: SearchStrategy) -> SearchStrategy:
    """An object with about half of its arguments given."""
    return some(arguments).map(lambda given: kind(**given))


STEP_SIZES = [
    st.sampled_from(("layerwise", "graft", "kl_clip", "rms", "constant")),
    st.sampled_from((Graft(), Constant())),
    st.builds(KLClip, st.sampled_from((1e-8, 1e-3, 1.0, 1e6))),
    st.builds(FixedRMS, st.sampled_from((1e-3, 0.2))),
    objects(
        LayerwiseRate,
        mu=st.sampled_from((0.0, 1e-8, 1e-2, 1.0)),
        smoothing=st.sampled_from((0.0, 0.5, 0.9)),
        samples=st.sampled_from((None, 1, 2, 32)),
    ),
]
SCHEDULES = objects(
    Schedule,
    curvature_every=INTERVALS,
    inverse_every=INTERVALS,
    ramp=BOOLS,
    refresh_over=st.integers(1, 4),
    samples=st.sampled_from((None, 1, 8)),
)
FACTORS = objects(
    Factors, max_dim=MAX_DIMS, convolution=st.sampled_from(("kronecker", "full")), damping_bounds=st.sampled_from(BOUNDS)
)
OPTIONS = PER_GROUP | {
    "schedule": INTERVALS | SCHEDULES,
    "factors": MAX_DIMS | FACTORS,
    "step_size": st.one_of(STEP_SIZES),
    "warmup": st.sampled_from((0, 1, 2, 30)),
    "momentum_on": st.sampled_from(("gradient", "nesterov", "update")),
    "mean_over": st.sampled_from(("batch", "token", "none")),
    "keep_norms": BOOLS,
}


@st.composite
def settings(draw: DrawFn) -> Settings:
    """Where labels are drawn, they are the loss's own kind of labels."""
    method, options = draw(st.sampled_from(METHODS)), draw(some(OPTIONS))
    if method == "LNGDSample":
        options.pop("step_size", None)
    likelihood = draw(st.sampled_from(("categorical", "categorical", "bernoulli", "gaussian")))
    sampled = st.sampled_from((Sampled(likelihood), *["sampled"] * (likelihood == "categorical")))
    kind = draw(st.sampled_from(("the method's own", "layerwise", "empirical", "sampled")))
    if kind in FISHERS:
        options["fisher"] = draw(FISHERS[kind])
    elif kind == "sampled" or likelihood != "categorical":
        options["fisher"] = draw(sampled)
    return Settings(method, options, draw(st.none() | some(OF_A_GROUP)), likelihood)


@st.composite
def trainings(draw: DrawFn, *, steps: int, normalised: bool) -> Training:
    """A batch normalisation needs two samples; it divides by the variance of none."""
    least = 2 if normalised else 1
    same, last = draw(st.integers(least, 6)), draw(st.integers(least, 6))
    batches = (*[same] * (steps - 2), last, same)
    empty = None if normalised else draw(rarely(draw(st.integers(0, steps - 1)), None))
    return Training(
        dtype=draw(st.sampled_from(("float32", "float32", "float64", "bfloat16", "autocast"))),
        batches=tuple(0 if step == empty else size for step, size in enumerate(batches)),
        scale=draw(st.sampled_from((1.0,) * 8 + (1e-30, 1e-10, 1e-3, 1e3, 1e10, 1e30))),
        constant=draw(rarely(True, False)),
        nan_at=draw(rarely(draw(st.integers(0, steps - 1)), None)),
        micro=draw(st.sampled_from((1, 1, 2))),
        clip=draw(st.sampled_from((None, None, 1e-2, 1.0))),
        between=draw(st.sampled_from(("nothing", "nothing", "no_grad", "evaluation"))),
        set_to_none=draw(BOOLS),
        seed=draw(st.integers(0, 99)),
    )


@st.composite
def cases(draw: DrawFn, *, steps: int) -> Case:
    """Steps that are checked, one of them after a resumption."""
    chosen = draw(settings())
    model = draw(models(outputs=draw(st.integers(1 if chosen.likelihood != "categorical" else 2, 5))))
    return Case(model, chosen, draw(trainings(steps=steps, normalised="'batch'" in repr(model))))
