"""The methods: each is a block, a Fisher type and a step size, with its own signature and defaults."""

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from lngd.curvature import (
    CurvatureBlock,
    EKFACBlock,
    KFACBlock,
    LNGDBlock,
    LNGDKroneckerBlock,
    NGPlusBlock,
    SpectralBlock,
    SpectralKroneckerBlock,
    THORBlock,
    TKFACBlock,
)
from lngd.layers import Layer
from lngd.optimizer import NaturalGradient
from lngd.optimizer.hyperparameters import BatchDim, Factors, MomentumOn, Recipe, Schedule, as_factors, as_schedule, as_step_size
from lngd.optimizer.ranks import ProcessGroup
from lngd.ranges import check
from lngd.sampling import Fisher, FisherType, Layerwise, MeanOver, as_fisher
from lngd.step_size import LayerwiseRate, StepSize, StepSizeName
from lngd.warned import warn

Parameters: TypeAlias = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]
"""As torch.optim takes them: parameters, named parameters, or groups."""
FisherChoice: TypeAlias = Fisher | FisherType | str

SCHEDULE = Schedule(curvature_every=20, inverse_every=20, ramp=True, refresh_over=4, samples=8)
SCHEDULE_OF_32, WHOLE_BATCH = replace(SCHEDULE, samples=32), replace(SCHEDULE, samples=None)
SELDOM_REFRESHED = Schedule(curvature_every=5, inverse_every=100, ramp=True, refresh_over=4, samples=None)
"""EKFAC measures along its basis more often than the basis moves."""
BLOCKS_OF_128, LARGE = Factors(128, raw_damping=1.0), Factors(8192, raw_damping=1.0)
BLOCKS_OF_256 = Factors(256, raw_damping=100.0)
ALIKE_BLOCKS_OF_256 = Factors(256, raw_damping=1.0)
"""For a step as long as d, which more damping shortens."""

INSTEAD: Mapping[str, str] = {
    "learning_rate": "the learning rate is lr=",
    "betas": "momentum= is the gradient's average; of AdamW's part, adamw_betas in a parameter group",
    "eps": "of AdamW's part, adamw_eps in a parameter group; damping= is the method's own",
    "nesterov": "momentum_on='nesterov'",
    "foreach": "layers step together without being asked",
    "fused": "AdamW's part is fused wherever torch can",
    "rate": "step_size=",
    "mu": "step_size=lngd.LayerwiseRate(mu=…)",
    "smoothing": "step_size=lngd.LayerwiseRate(smoothing=…)",
    "rate_samples": "step_size=lngd.LayerwiseRate(samples=…)",
    "kl_clip": "step_size=lngd.KLClip(…)",
    "curvature_every": "schedule=lngd.Schedule(curvature_every=…), or a number for both intervals",
    "inverse_every": "schedule=lngd.Schedule(inverse_every=…), or a number for both intervals",
    "refresh_over": "schedule=lngd.Schedule(refresh_over=…)",
    "curvature_samples": "schedule=lngd.Schedule(samples=…)",
    "likelihood": "fisher=lngd.Sampled(…)",
    "noise": "fisher=lngd.Layerwise(…)",
    "max_factor_dim": "factors=, the largest dense factor, or lngd.Factors(max_dim=…)",
    "conv_factor": "factors=lngd.Factors(convolution=…)",
    "damping_bounds": "factors=lngd.Factors(damping_bounds=…)",
    "fallback_lr": "adamw_lr_ratio=, AdamW's rate over lr",
}
"""What to write for arguments that other optimizers have, or that this one had."""


class Method(NaturalGradient):
    """What all methods share: W ← W − lr·α_l·F̂⁻¹M for each layer, AdamW for what has no curvature.

    Args:
        model: the model to train; its forward is watched by hooks.
        params: parameters or torch.optim-style groups; None for all. A parameter left out is frozen. A group may set `lr`,
            `momentum`, `weight_decay`, `damping`, `decay`, `adamw_lr_ratio`, `adamw_betas`, `adamw_eps`, and `curvature`: False
            sends its parameters to AdamW, True gives curvature to layers that have it on request only. All are read at each step.
        lr: the share of the layer's best step (1 is a Newton step) with `step_size="invariant"` and "layerwise"; an Adam rate
            with "graft" and "rms"; the length of the natural gradient, at most that of the trust region, with "kl_clip"; that
            length itself with "constant".
        momentum: β of the gradient's average, or τ of the update's.
        weight_decay: decoupled: W ← (1 − lr·weight_decay) W. Without effect on layers whose norm is kept.
        damping: λ in units of the block's mean eigenvalue; with LNGD's block, of each factor's.
        decay: ϵ of LNGD eq. 14, the weight on past statistics.
        adamw_lr_ratio: AdamW's rate over lr, for the parameters without curvature. A matrix that fell back has 1/√(2i) of
            it, i its inputs.
        warmup: steps over which lr rises linearly; not in groups with `curvature=False`, which are torch's AdamW as it is.
        step_size: how far to go: "invariant" (as eq. 12, whatever the scale of the loss), "layerwise" (LNGD eqs. 12–13), "graft"
            (the length of Adam's step per layer), "kl_clip", "rms" (a length by the layer's width), "constant", or an object such
            as `InvariantRate(samples=32)`.
        momentum_on: "gradient" (averaged, then preconditioned), "nesterov" (the same, looking ahead) or "update" (LNGD
            Algorithm 1).
        fisher: where g comes from: "layerwise", "empirical", "sampled", or an object such as `Sampled("gaussian")`.
        schedule: when curvature is measured and refreshed, and from how many samples; a number for both intervals.
        factors: how large a Fisher factor is kept, and the bounds of its damping; a number for the largest.
        mean_over: what the loss averages over, "batch", "token" or "none" (a sum); fixes the scale of per-sample gradients.
        batch_dim: which dimension of what the model is called with counts its samples, and of what its linear layers get in three
            dimensions or more: 1 for sequences first. Or a function of a layer's name and module that says so; the model's own
            name is empty.
        keep_norms: restore the norm of scale-invariant layers after each step.
        generator: randomness of noise and labels; saved in `state_dict`.
        process_group: the processes that share the model, if torch.distributed runs: None for all of them, False if each trains
            one of its own.

    Raises:
        TypeError: an argument that does not exist, or `model` is none.
        ValueError: a hyperparameter out of its range, nothing to train, or `params` that are not the model's.
    """

    block: ClassVar[type[CurvatureBlock]]
    convolution_block: ClassVar[type[LNGDKroneckerBlock] | None] = None
    """Of a convolution with `Factors(convolution="kronecker")`; None if the method has no such block."""
    spectral: ClassVar[bool] = False
    """Whether F̂^½ d is bounded in the spectral norm: its singular values are set to one."""

    def __init__(
        self,
        model: nn.Module,
        params: Parameters | None,
        *,
        lr: float | Tensor,
        momentum: float,
        weight_decay: float,
        damping: float,
        decay: float,
        adamw_lr_ratio: float,
        warmup: int,
        step_size: StepSize | str,
        momentum_on: MomentumOn,
        fisher: FisherChoice,
        schedule: Schedule,
        factors: Factors,
        mean_over: MeanOver,
        batch_dim: BatchDim,
        keep_norms: bool,
        generator: torch.Generator | None,
        process_group: ProcessGroup,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "damping": damping,
            "decay": decay,
            "adamw_lr_ratio": adamw_lr_ratio,
            "adamw_betas": (0.9, 0.999),
            "adamw_eps": 1e-8,
            "curvature": None,
        }
        check(defaults)
        recipe = Recipe(
            step_size=as_step_size(step_size),
            momentum_on=momentum_on,
            mean_over=mean_over,
            batch_dim=batch_dim,
            keep_norms=keep_norms,
            spectral=self.spectral,
            schedule=schedule,
            factors=factors,
            warmup=warmup,
        )
        super().__init__(
            model,
            params,
            block=functools.partial(self.block_of, factors=factors),
            recipe=recipe,
            fisher=as_fisher(fisher),
            defaults=defaults,
            generator=generator,
            process_group=process_group,
        )
        for rate in dict.fromkeys(group["lr"] for group in self.param_groups if group["curvature"] is not False):
            self._warn_of_lr(rate)

    def __init_subclass__(cls) -> None:
        """A block of one's own takes the place of the parent's for convolutions too, unless the class names one for those."""
        super().__init_subclass__()
        if "block" in vars(cls) and "convolution_block" not in vars(cls):
            cls.convolution_block = None
        if "__init__" in vars(cls):
            setattr(cls, "__init__", _refusing_unknown(cls.__init__))  # noqa: B010  mypy takes no assignment to a method

    @classmethod
    def block_of(cls, layer: Layer, *, factors: Factors) -> CurvatureBlock:
        """A layer's block."""
        large = layer.inputs > factors.max_dim and 1 < layer.kernel_places <= factors.max_dim
        if large and factors.convolution == "kronecker" and cls.convolution_block is not None:
            return cls.convolution_block(factors.max_dim, layer.kernel_places)
        return cls.block(factors.max_dim)

    def _warn_of_lr(self, lr: float | Tensor) -> None:
        """An lr that looks like another kind of optimizer's, as far as the host can see."""
        step_size = self.recipe.step_size
        least, most = step_size.lr_range
        if isinstance(lr, Tensor) or lr == 0 or least <= lr <= most or self.recipe.momentum_on == "update":
            return
        parameter = inspect.signature(type(self)).parameters.get("lr")
        default = math.nan if parameter is None else parameter.default
        right = f"the default of {type(self).__name__} is {default}" if least <= default <= most else f"{most:g} would be much"
        warn(f"lr={lr:g} is of another optimizer's size: here it is {step_size.lr_is}; {right}")


def _refusing_unknown(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that says what to write for an argument that does not exist."""
    parameters = inspect.signature(init).parameters
    known = set(parameters)
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return init  # it hands on what it does not know, and whoever gets that refuses

    @functools.wraps(init)
    def explained(self: Any, *args: Any, **options: Any) -> None:
        for name in options:
            if name not in known:
                hint = f"; {INSTEAD[name]}" if name in INSTEAD else f"; there are: {', '.join(sorted(known - {'self'}))}"
                raise TypeError(f"{type(self).__name__} has no argument '{name}'{hint}")
        init(self, *args, **options)

    return explained


class LNGD(Method):
    """Layer-wise natural gradient descent (LNGD, NeurIPS 2024): F ≈ Φ ⊗ Ψ from the forward pass, one adaptive rate per layer.

    Φ and Ψ come from layer-wise sampling (eqs. 3–5), α_l from a few samples' gradients (eqs. 12–13). Arguments: see `Method`.
    """

    block = LNGDBlock
    convolution_block = LNGDKroneckerBlock

    def __init__(
        self,
        model: nn.Module,
        params: Parameters | None = None,
        *,
        lr: float | Tensor = 0.25,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        damping: float = 0.3,
        decay: float = 0.95,
        adamw_lr_ratio: float = 0.08,
        warmup: int = 10,
        step_size: StepSize | StepSizeName = "invariant",
        momentum_on: MomentumOn = "gradient",
        fisher: FisherChoice = "layerwise",
        schedule: Schedule | int = SCHEDULE,
        factors: Factors | int = BLOCKS_OF_256,
        mean_over: MeanOver = "batch",
        batch_dim: BatchDim = 0,
        keep_norms: bool = True,
        generator: torch.Generator | None = None,
        process_group: ProcessGroup = None,
    ) -> None:
        super().__init__(
            model,
            params,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            damping=damping,
            decay=decay,
            adamw_lr_ratio=adamw_lr_ratio,
            warmup=warmup,
            step_size=step_size,
            momentum_on=momentum_on,
            fisher=fisher,
            schedule=as_schedule(schedule, SCHEDULE),
            factors=as_factors(factors, BLOCKS_OF_256),
            mean_over=mean_over,
            batch_dim=batch_dim,
            keep_norms=keep_norms,
            generator=generator,
            process_group=process_group,
        )


class SpectralLNGD(Method):
    """Muon in the Fisher metric: the gradient, whitened by both factors, with its singular values set to one.

    F ∝ Φ ⊗ Ψ with Φ = E[aaᵀ] and Ψ = E[ggᵀ] of the data's own gradients, K-FAC's factors: unlike LNGD's they need the backward
    pass, which is there anyway. Its rate is like AdamW's. Ours, not the paper's. Arguments: see `Method`.
    """

    block: ClassVar[type[CurvatureBlock]] = SpectralBlock
    convolution_block: ClassVar[type[LNGDKroneckerBlock] | None] = SpectralKroneckerBlock
    spectral = True

    def __init__(
        self,
        model: nn.Module,
        params: Parameters | None = None,
        *,
        lr: float | Tensor = 0.02,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        damping: float = 1.0,
        decay: float = 0.95,
        adamw_lr_ratio: float = 1.0,
        warmup: int = 5,
        step_size: StepSize | StepSizeName = "rms",
        momentum_on: MomentumOn = "nesterov",
        fisher: FisherChoice = "empirical",
        schedule: Schedule | int = SCHEDULE_OF_32,
        factors: Factors | int = BLOCKS_OF_256,
        mean_over: MeanOver = "batch",
        batch_dim: BatchDim = 0,
        keep_norms: bool = True,
        generator: torch.Generator | None = None,
        process_group: ProcessGroup = None,
    ) -> None:
        super().__init__(
            model,
            params,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            damping=damping,
            decay=decay,
            adamw_lr_ratio=adamw_lr_ratio,
            warmup=warmup,
            step_size=step_size,
            momentum_on=momentum_on,
            fisher=fisher,
            schedule=as_schedule(schedule, SCHEDULE_OF_32),
            factors=as_factors(factors, BLOCKS_OF_256),
            mean_over=mean_over,
            batch_dim=batch_dim,
            keep_norms=keep_norms,
            generator=generator,
            process_group=process_group,
        )


class LNGDSample(Method):
    """LNGD without its adaptive rate: layer-wise sampling alone (the ablation LNGD-sample of Table 5).

    Arguments: see `Method`.
    """

    block = LNGDBlock
    convolution_block = LNGDKroneckerBlock

    def __init__(
        self,
        model: nn.Module,
        params: Parameters | None = None,
        *,
        lr: float | Tensor = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        damping: float = 0.3,
        decay: float = 0.95,
        adamw_lr_ratio: float = 0.1,
        warmup: int = 10,
        momentum_on: MomentumOn = "gradient",
        fisher: FisherChoice = "layerwise",
        schedule: Schedule | int = SCHEDULE,
        factors: Factors | int = ALIKE_BLOCKS_OF_256,
        mean_over: MeanOver = "batch",
        batch_dim: BatchDim = 0,
        keep_norms: bool = True,
        generator: torch.Generator | None = None,
        process_group: ProcessGroup = None,
    ) -> None:
        super().__init__(
            model,
            params,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            damping=damping,
            decay=decay,
            adamw_lr_ratio=adamw_lr_ratio,
            warmup=warmup,
            step_size="constant",
            momentum_on=momentum_on,
            fisher=fisher,
            schedule=as_schedule(schedule, SCHEDULE),
            factors=as_factors(factors, ALIKE_BLOCKS_OF_256),
            mean_over=mean_over,
            batch_dim=batch_dim,
            keep_norms=keep_norms,
            generator=generator,
            process_group=process_group,
        )


class LNGDLr(Method):
    """LNGD without layer-wise sampling: Φ and Ψ from back-propagated model samples (the ablation LNGD-lr of Table 5).

    Arguments: see `Method`.
    """

    block = LNGDBlock
    convolution_block = LNGDKroneckerBlock

    def __init__(
        self,
        model: nn.Module,
        params: Parameters | None = None,
        *,
        lr: float | Tensor = 0.25,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        damping: float = 0.3,
        decay: float = 0.95,
        adamw_lr_ratio: float = 0.08,
        warmup: int = 10,
        step_size: StepSize | StepSizeName = "invariant",
        momentum_on: MomentumOn = "gradient",
        fisher: FisherChoice = "sampled",
        schedule: Schedule | int = SCHEDULE,
        factors: Factors | int = BLOCKS_OF_256,
        mean_over: MeanOver = "batch",
        batch_dim: BatchDim = 0,
        keep_norms: bool = True,
        generator: torch.Generator | None = None,
        process_group: ProcessGroup = None,
    ) -> None:
        super().__init__(
            model,
            params,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            damping=damping,
            decay=decay,
            adamw_lr_ratio=adamw_lr_ratio,
            warmup=warmup,
            step_size=step_size,
            momentum_on=momentum_on,
            fisher=fisher,
            schedule=as_schedule(schedule, SCHEDULE),
            factors=as_factors(factors, BLOCKS_OF_256),
            mean_over=mean_over,
            batch_dim=batch_dim,
            keep_norms=keep_norms,
            generator=generator,
            process_group=process_group,
        )


class KFAC(Method):
    """Kronecker-factored approximate curvature (Martens & Grosse 2015): F ≈ A ⊗ B, π-adjusted damping, KL clip.

    Arguments: see `Method`.
    """

    block = KFACBlock

    def __init__(
        self,
        model: nn.Module,
        params: Parameters | None = None,
        *,
        lr: float | Tensor = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        damping: float = 10.0,
        decay: float = 0.95,
        adamw_lr_ratio: float = 0.1,
        warmup: int = 10,
        step_size: StepSize | StepSizeName = "kl_clip",
        momentum_on: MomentumOn = "gradient",
        fisher: FisherChoice = "sampled",
        schedule: Schedule | int = WHOLE_BATCH,
        factors: Factors | int = LARGE,
        mean_over: MeanOver = "batch",
        batch_dim: BatchDim = 0,
        keep_norms: bool = True,
        generator: torch.Generator | None = None,
        process_group: ProcessGroup = None,
    ) -> None:
        super().__init__(
            model,
            params,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            damping=damping,
            decay=decay,
            adamw_lr_ratio=adamw_lr_ratio,
            warmup=warmup,
            step_size=step_size,
            momentum_on=momentum_on,
            fisher=fisher,
            schedule=as_schedule(schedule, WHOLE_BATCH),
            factors=as_factors(factors, LARGE),
            mean_over=mean_over,
            batch_dim=batch_dim,
            keep_norms=keep_norms,
            generator=generator,
            process_group=process_group,
        )


class EKFAC(Method):
    """K-FAC's eigenbasis with re-estimated eigenvalues (George et al. 2018); measures more often than the basis moves.

    Arguments: see `Method`.
    """

    block = EKFACBlock

    def __init__(
        self,
        model: nn.Module,
        params: Parameters | None = None,
        *,
        lr: float | Tensor = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        damping: float = 10.0,
        decay: float = 0.95,
        adamw_lr_ratio: float = 0.1,
        warmup: int = 10,
        step_size: StepSize | StepSizeName = "kl_clip",
        momentum_on: MomentumOn = "gradient",
        fisher: FisherChoice = "sampled",
        schedule: Schedule | int = SELDOM_REFRESHED,
        factors: Factors | int = LARGE,
        mean_over: MeanOver = "batch",
        batch_dim: BatchDim = 0,
        keep_norms: bool = True,
        generator: torch.Generator | None = None,
        process_group: ProcessGroup = None,
    ) -> None:
        super().__init__(
            model,
            params,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            damping=damping,
            decay=decay,
            adamw_lr_ratio=adamw_lr_ratio,
            warmup=warmup,
            step_size=step_size,
            momentum_on=momentum_on,
            fisher=fisher,
            schedule=as_schedule(schedule, SELDOM_REFRESHED),
            factors=as_factors(factors, LARGE),
            mean_over=mean_over,
            batch_dim=batch_dim,
            keep_norms=keep_norms,
            generator=generator,
            process_group=process_group,
        )


class TKFAC(Method):
    """Trace-restricted K-FAC (Gao et al., AAAI 2021): F ≈ δ P ⊗ Q with the trace of F. Arguments: see `Method`."""

    block = TKFACBlock

    def __init__(
        self,
        model: nn.Module,
        params: Parameters | None = None,
        *,
        lr: float | Tensor = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        damping: float = 10.0,
        decay: float = 0.95,
        adamw_lr_ratio: float = 0.1,
        warmup: int = 10,
        step_size: StepSize | StepSizeName = "kl_clip",
        momentum_on: MomentumOn = "gradient",
        fisher: FisherChoice = "sampled",
        schedule: Schedule | int = WHOLE_BATCH,
        factors: Factors | int = LARGE,
        mean_over: MeanOver = "batch",
        batch_dim: BatchDim = 0,
        keep_norms: bool = True,
        generator: torch.Generator | None = None,
        process_group: ProcessGroup = None,
    ) -> None:
        super().__init__(
            model,
            params,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            damping=damping,
            decay=decay,
            adamw_lr_ratio=adamw_lr_ratio,
            warmup=warmup,
            step_size=step_size,
            momentum_on=momentum_on,
            fisher=fisher,
            schedule=as_schedule(schedule, WHOLE_BATCH),
            factors=as_factors(factors, LARGE),
            mean_over=mean_over,
            batch_dim=batch_dim,
            keep_norms=keep_norms,
            generator=generator,
            process_group=process_group,
        )


class NGPlus(Method):
    """NG+ (Yang et al., TPAMI 2022): L = E[G Gᵀ] of per-sample gradient matrices, direction (L + λI)⁻¹ ∇.

    Arguments: see `Method`.
    """

    block = NGPlusBlock

    def __init__(
        self,
        model: nn.Module,
        params: Parameters | None = None,
        *,
        lr: float | Tensor = 0.5,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        damping: float = 0.01,
        decay: float = 0.95,
        adamw_lr_ratio: float = 0.02,
        warmup: int = 10,
        step_size: StepSize | StepSizeName = "kl_clip",
        momentum_on: MomentumOn = "gradient",
        fisher: FisherChoice = "empirical",
        schedule: Schedule | int = WHOLE_BATCH,
        factors: Factors | int = LARGE,
        mean_over: MeanOver = "batch",
        batch_dim: BatchDim = 0,
        keep_norms: bool = True,
        generator: torch.Generator | None = None,
        process_group: ProcessGroup = None,
    ) -> None:
        super().__init__(
            model,
            params,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            damping=damping,
            decay=decay,
            adamw_lr_ratio=adamw_lr_ratio,
            warmup=warmup,
            step_size=step_size,
            momentum_on=momentum_on,
            fisher=fisher,
            schedule=as_schedule(schedule, WHOLE_BATCH),
            factors=as_factors(factors, LARGE),
            mean_over=mean_over,
            batch_dim=batch_dim,
            keep_norms=keep_norms,
            generator=generator,
            process_group=process_group,
        )


class THOR(Method):
    """THOR (Chen et al., AAAI 2021): K-FAC's factors in blocks of at most `factors` rows, refreshed by the trace rule.

    Arguments: see `Method`.
    """

    block = THORBlock

    def __init__(
        self,
        model: nn.Module,
        params: Parameters | None = None,
        *,
        lr: float | Tensor = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        damping: float = 10.0,
        decay: float = 0.95,
        adamw_lr_ratio: float = 0.1,
        warmup: int = 10,
        step_size: StepSize | StepSizeName = "kl_clip",
        momentum_on: MomentumOn = "gradient",
        fisher: FisherChoice = "sampled",
        schedule: Schedule | int = WHOLE_BATCH,
        factors: Factors | int = BLOCKS_OF_128,
        mean_over: MeanOver = "batch",
        batch_dim: BatchDim = 0,
        keep_norms: bool = True,
        generator: torch.Generator | None = None,
        process_group: ProcessGroup = None,
    ) -> None:
        super().__init__(
            model,
            params,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            damping=damping,
            decay=decay,
            adamw_lr_ratio=adamw_lr_ratio,
            warmup=warmup,
            step_size=step_size,
            momentum_on=momentum_on,
            fisher=fisher,
            schedule=as_schedule(schedule, WHOLE_BATCH),
            factors=as_factors(factors, BLOCKS_OF_128),
            mean_over=mean_over,
            batch_dim=batch_dim,
            keep_norms=keep_norms,
            generator=generator,
            process_group=process_group,
        )


PAPER: dict[str, Any] = {
    "momentum": 0.9,
    "weight_decay": 0.004,
    "damping": 1.0,
    "decay": 0.95,
    "adamw_lr_ratio": 1.0,
    "warmup": 0,
    "step_size": LayerwiseRate(mu=1e-8, smoothing=0.0, samples=None),
    "momentum_on": "update",
    "fisher": Layerwise(noise="gaussian"),
    "schedule": Schedule(curvature_every=100, inverse_every=100, ramp=False, refresh_over=1, samples=None),
    "factors": Factors(max_dim=2**31 - 1, convolution="full", damping_bounds=(1e-5, 1e-2), raw_damping=1.0),
    "keep_norms": False,
}
"""Keyword arguments that restore the paper's recipe (sec. 3.3, sec. 4, Algorithm 1): `LNGD(model, lr=…, **PAPER)`.
The paper finds lr by a grid over {1e-4, 3e-4, …, 1, 3}; it never gives µ."""
