"""The methods: each is a block, a Fisher type and a step size, and no more."""

import inspect
import math
from collections.abc import Callable, Iterable
from functools import partial, partialmethod
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

import torch
from torch import nn

from lngd.curvature import (
    CurvatureBlock,
    EKFACBlock,
    KFACBlock,
    LNGDBlock,
    LNGDKroneckerBlock,
    NGPlusBlock,
    THORBlock,
    TKFACBlock,
)
from lngd.layers import Layer
from lngd.optimizer import NaturalGradient
from lngd.optimizer.groups import GROUP_DEFAULTS
from lngd.optimizer.hyperparameters import check_hyperparameters
from lngd.optimizer.layer_state import Recipe
from lngd.optimizer.momentum import MOMENTA
from lngd.optimizer.norm import NORMS, Norm
from lngd.optimizer.paper import PAPER as PAPER
from lngd.optimizer.schedule import Schedule
from lngd.sampling import Fisher, FisherType, Layerwise, Likelihood, MeanOver, Noise, Sampled, as_fisher
from lngd.stepsize import Constant, FixedRMS, Graft, KLClip, LayerwiseRate, StepSize

Rate: TypeAlias = Literal["layerwise", "graft", "kl_clip", "constant", "rms"]
TOKENS_FOR = 4
"""Samples that the tokens of one sequence stand for."""
M = TypeVar("M", bound="type[Method]")


class Method(NaturalGradient):
    """What all methods share: W ← W − lr·α_l·F̂⁻¹M for each layer, AdamW for what has no curvature.

    Args:
        model: the model to train; its forward is watched by hooks.
        params: parameters or torch.optim-style groups; None for all. A parameter left out is frozen.
        lr: the share of the layer's best step (1 is a Newton step) with `rate="layerwise"`; an Adam rate with "graft"; the
            length of the natural gradient, at most that of the trust region, with "kl_clip"; that length itself with "constant".
        momentum: β of the gradient's average, or τ of the update's.
        weight_decay: decoupled: W ← (1 − lr·weight_decay) W. Without effect on layers whose norm is kept.
        mu: µ of LNGD eq. 12.
        damping: λ in units of the block's mean eigenvalue; with LNGD's block, of each factor's.
        damping_bounds: (ν₁, ν₂), absolute bounds of λ.
        decay: ϵ of LNGD eq. 14, the weight on past statistics.
        curvature_every, inverse_every: steps between measurements (T_FIM) and between refreshes (T_INV).
        refresh_over: steps over which a refresh is spread, layer by layer, so that none is much longer than others; 1: at once.
        curvature_ramp: measure and refresh at steps 1, 2, 4, … below the interval too.
        fisher: where g comes from: LAYERWISE, EMPIRICAL or SAMPLED.
        likelihood: what labels are drawn from with SAMPLED: "categorical" (the output holds logits), "bernoulli" (logits of
            yes or no) or "gaussian" (the output is a mean).
        rate: "layerwise" (LNGD eqs. 12–13), "graft" (the length of Adam's step per layer), "kl_clip", "rms" (a fixed length per
            entry) or "constant".
        kl_clip: κ, the KL divergence a step may cause, with `rate="kl_clip"`.
        warmup: steps over which lr rises linearly.
        smoothing: how slowly the curvature along the step is forgotten; 0 is eq. 12 as printed.
        rate_samples: samples of a batch that measure the rate, a quarter as many sequences with `mean_over="token"`, where tokens
            are the samples; None for all.
        curvature_samples: samples of a batch that measure the curvature, more where that is less than 2,048 pixels or tokens in
            all; None for all.
        noise: of layer-wise sampling, "rademacher" or "gaussian".
        momentum_on: "gradient" (averaged, then preconditioned), "nesterov" (the same, looking ahead) or "update" (LNGD
            Algorithm 1).
        norm: in which F̂^½ d is bounded: "frobenius" (the natural gradient) or "spectral" (with its singular values set to one).
        mean_over: what the loss averages over, "batch", "token" or "none" (a sum); fixes the scale of per-sample gradients.
        keep_norms: restore the norm of scale-invariant layers after each step.
        conv_factor: of a convolution with more than `max_factor_dim` inputs: "kronecker" (Φ_channels ⊗ Φ_kernel) or "full" (as
            any other layer's). LNGD's block only.
        max_factor_dim: the largest dense factor: of a larger one only diagonal blocks are kept. EKFAC and NGPlus leave the layer
            to AdamW.
        fallback_lr: AdamW's rate for the parameters without curvature; None: lr itself.
        generator: randomness of noise and labels; saved in `state_dict`.

    Raises:
        ValueError: a hyperparameter out of its range, nothing to train, or `params` that are not the model's.
    """

    block: ClassVar[type[CurvatureBlock]]
    convolution_block: ClassVar[type[LNGDKroneckerBlock] | None] = None
    """With `conv_factor="kronecker"`, of a convolution; None if the method has no such block."""

    def __init__(
        self,
        model: nn.Module,
        params: Iterable[Any] | None = None,
        *,
        lr: float = 0.5,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        mu: float = 1e-8,
        damping: float = 0.3,
        damping_bounds: tuple[float, float] = (1e-5, math.inf),
        decay: float = 0.95,
        curvature_every: int = 20,
        inverse_every: int = 20,
        curvature_ramp: bool = True,
        refresh_over: int = 4,
        fisher: FisherType | Fisher = FisherType.LAYERWISE,
        likelihood: Likelihood = "categorical",
        rate: Rate = "layerwise",
        kl_clip: float = 1e-3,
        warmup: int = 10,
        smoothing: float = 0.9,
        rate_samples: int | None = 16,
        curvature_samples: int | None = 8,
        noise: Noise = "rademacher",
        momentum_on: Literal["gradient", "nesterov", "update"] = "gradient",
        norm: Norm = "frobenius",
        mean_over: MeanOver = "batch",
        keep_norms: bool = True,
        conv_factor: Literal["kronecker", "full"] = "kronecker",
        max_factor_dim: int = 256,
        fallback_lr: float | None = 0.01,
        generator: torch.Generator | None = None,
    ) -> None:
        given = {k: v for k, v in locals().items() if k not in ("self", "model", "params", "generator", "__class__")}
        check_hyperparameters(given)
        settings: dict[Any, Fisher] = {FisherType.LAYERWISE: Layerwise(noise), FisherType.SAMPLED: Sampled(likelihood)}
        way = settings.get(fisher) or as_fisher(fisher)
        steps: dict[Rate, Callable[[], StepSize]] = {
            "layerwise": lambda: LayerwiseRate(mu, smoothing),
            "graft": Graft,
            "kl_clip": lambda: KLClip(kl_clip),
            "constant": Constant,
            "rms": FixedRMS,
        }
        super().__init__(
            model,
            params,
            block=partial(self.block_of, conv_factor=conv_factor, max_factor_dim=max_factor_dim),
            recipe=Recipe(MOMENTA[momentum_on](), steps[rate](), way, mean_over, keep_norms, NORMS[norm], curvature_samples),
            curvature=Schedule(curvature_every, curvature_ramp),
            inverses=Schedule(inverse_every, curvature_ramp),
            spread=refresh_over,
            defaults={name: given[name] for name in GROUP_DEFAULTS},
            warmup=warmup,
            rate_samples=sequences(rate_samples) if mean_over == "token" else rate_samples,
            generator=generator,
            max_factor_dim=max_factor_dim,
        )

    @classmethod
    def block_of(cls, layer: Layer, *, conv_factor: str, max_factor_dim: int) -> CurvatureBlock:
        """A layer's block."""
        large = layer.inputs > max_factor_dim and layer.kernel_places > 1
        if large and conv_factor == "kronecker" and cls.convolution_block is not None:
            return cls.convolution_block(max_factor_dim, layer.kernel_places)
        return cls.block(max_factor_dim)


def sequences(samples: int | None) -> int | None:
    """How many sequences do for so many samples, if each token is one."""
    return samples and math.ceil(samples / TOKENS_FOR)


def defaults(**own: Any) -> Callable[[M], M]:
    """A class decorator: the constructor's defaults that are the method's own. `inspect.signature` and `help` show them."""

    def decorate(cls: M) -> M:
        unknown = own.keys() - inspect.signature(Method).parameters.keys()
        assert not unknown, f"no such argument: {unknown}"
        arguments = inspect.cleandoc(Method.__doc__ or "").partition("Args:")
        cls.__doc__ = "\n\n".join([inspect.cleandoc(cls.__doc__ or ""), "".join(arguments[1:])])
        setattr(cls, "__init__", partialmethod(Method.__init__, **own))  # noqa: B010  mypy takes no partialmethod for a method
        return cls

    return decorate


@defaults()
class LNGD(Method):
    """Layer-wise natural gradient descent (LNGD, NeurIPS 2024): F ≈ Φ ⊗ Ψ from the forward pass, one adaptive rate per layer.

    Φ and Ψ come from layer-wise sampling (eqs. 3–5), α_l from a few samples' gradients (eqs. 12–13).
    """

    block = LNGDBlock
    convolution_block = LNGDKroneckerBlock


@defaults(norm="spectral", rate="rms", lr=0.02, fallback_lr=None, momentum_on="nesterov", damping=1.0, warmup=5)
class SpectralLNGD(LNGD):
    """LNGD with the spectral norm in place of the Frobenius norm: the whitened gradient's singular values are set to one."""


@defaults(rate="constant", lr=0.1)
class LNGDSample(LNGD):
    """LNGD without its adaptive rate: layer-wise sampling alone (the ablation LNGD-sample of Table 5)."""


@defaults(fisher=FisherType.SAMPLED)
class LNGDLr(LNGD):
    """LNGD without layer-wise sampling: Φ and Ψ from back-propagated model samples (the ablation LNGD-lr of Table 5)."""


FAMILY: dict[str, Any] = {"curvature_samples": None, "max_factor_dim": 8192}
"""What the methods of other papers have in common: the whole batch, and factors as large as they come."""


@defaults(fisher=FisherType.SAMPLED, rate="kl_clip", lr=0.1, damping=10.0, **FAMILY)
class KFAC(Method):
    """Kronecker-factored approximate curvature (Martens & Grosse 2015): F ≈ A ⊗ B, π-adjusted damping, KL clip."""

    block = KFACBlock


@defaults(fisher=FisherType.SAMPLED, rate="kl_clip", lr=0.1, damping=10.0, curvature_every=5, inverse_every=100, **FAMILY)
class EKFAC(Method):
    """K-FAC's eigenbasis with re-estimated eigenvalues (George et al. 2018); measures more often than the basis moves."""

    block = EKFACBlock


@defaults(fisher=FisherType.SAMPLED, rate="kl_clip", lr=0.1, damping=10.0, **FAMILY)
class TKFAC(Method):
    """Trace-restricted K-FAC (Gao et al., AAAI 2021): F ≈ δ P ⊗ Q with the trace of F."""

    block = TKFACBlock


@defaults(fisher=FisherType.EMPIRICAL, rate="kl_clip", lr=0.5, damping=0.01, **FAMILY)
class NGPlus(Method):
    """NG+ (Yang et al., TPAMI 2022): L = E[G Gᵀ] of per-sample gradient matrices, direction (L + λI)⁻¹ ∇."""

    block = NGPlusBlock


@defaults(fisher=FisherType.SAMPLED, rate="kl_clip", lr=0.1, damping=10.0, **{**FAMILY, "max_factor_dim": 128})
class THOR(Method):
    """THOR (Chen et al., AAAI 2021): K-FAC's factors in blocks of at most `max_factor_dim`, refreshed by the trace rule."""

    block = THORBlock
