"""The methods: each is a block, a Fisher type and a step size, and no more."""

import math
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from lngd.curvature import LNGDBlock
from lngd.fisher import MeanOver, Noise
from lngd.optimizer import NaturalGradient
from lngd.optimizer.groups import GROUP_DEFAULTS
from lngd.optimizer.hyperparameters import check_hyperparameters
from lngd.optimizer.layer_state import Recipe
from lngd.optimizer.momentum import MOMENTA
from lngd.optimizer.schedule import Schedule
from lngd.stepsize import Constant, Graft, LayerwiseRate, StepSize

Rate: TypeAlias = Literal["layerwise", "graft", "constant"]

PAPER: dict[str, Any] = {
    "momentum": 0.9,
    "weight_decay": 0.004,
    "damping": 1.0,
    "damping_bounds": (1e-5, 1e-2),
    "decay": 0.95,
    "curvature_every": 100,
    "inverse_every": 100,
    "curvature_ramp": False,
    "rate": "layerwise",
    "warmup": 0,
    "smoothing": 0.0,
    "rate_samples": None,
    "noise": "gaussian",
    "momentum_on": "update",
    "keep_norms": False,
}
"""Keyword arguments that restore the paper's recipe (sec. 3.3, sec. 4, Algorithm 1): `LNGD(model, lr=…, **PAPER)`.
The paper finds lr by a grid over {1e-4, 3e-4, …, 1, 3}; it never gives µ."""


def step_size(rate: Rate, mu: float, smoothing: float) -> StepSize:
    """The step size by its name."""
    if rate == "layerwise":
        return LayerwiseRate(mu, smoothing)
    return Graft() if rate == "graft" else Constant()


class LNGD(NaturalGradient):
    """Layer-wise natural gradient descent (LNGD, NeurIPS 2024): W ← W − lr·α_l·(Ψ̂⁻¹ M Φ̂⁻¹) for each layer.

    Φ and Ψ come from the forward pass by layer-wise sampling (eqs. 3–5), α_l from a few samples' gradients (eqs. 12–13).

    Args:
        model: the model to train; its forward is watched by hooks.
        params: parameters or torch.optim-style groups; None for all. A parameter left out is frozen.
        lr: the share of the layer's best step (1 is a Newton step) with `rate="layerwise"`; an Adam rate with "graft".
        momentum: β of the gradient's average, or τ of the update's.
        weight_decay: decoupled: W ← (1 − lr·weight_decay) W. Without effect on layers whose norm is kept.
        mu: µ of eq. 12.
        damping: λ of each factor in units of its mean eigenvalue.
        damping_bounds: (ν₁, ν₂), absolute bounds of λ.
        decay: ϵ of eq. 14, the weight on past statistics.
        curvature_every, inverse_every: steps between measurements (T_FIM) and between refreshes (T_INV).
        curvature_ramp: measure and refresh at steps 1, 2, 4, … below the interval too.
        rate: "layerwise" (eqs. 12–13), "graft" (the length of Adam's step per layer) or "constant".
        warmup: steps over which lr rises linearly.
        smoothing: how slowly the curvature along the step is forgotten; 0 is eq. 12 as printed.
        rate_samples: samples of a batch that measure the rate; None for all.
        noise: of layer-wise sampling, "rademacher" or "gaussian".
        momentum_on: "gradient" (averaged, then preconditioned) or "update" (Algorithm 1).
        mean_over: what the loss averages over, "batch" or "token"; fixes the scale of per-sample gradients.
        keep_norms: restore the norm of scale-invariant layers after each step.
        max_factor_dim: a layer with more inputs than this falls back to AdamW.
        fallback_lr: AdamW's rate for the parameters without curvature.
        generator: randomness of the noise; saved in `state_dict`.

    Raises:
        ValueError: a hyperparameter out of its range, nothing to train, or `params` that are not the model's.
    """

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
        rate: Rate = "layerwise",
        warmup: int = 30,
        smoothing: float = 0.9,
        rate_samples: int | None = 32,
        noise: Noise = "rademacher",
        momentum_on: Literal["gradient", "update"] = "gradient",
        mean_over: MeanOver = "batch",
        keep_norms: bool = True,
        max_factor_dim: int = 8192,
        fallback_lr: float = 3e-3,
        generator: torch.Generator | None = None,
    ) -> None:
        given = {k: v for k, v in locals().items() if k not in ("self", "model", "params", "generator", "__class__")}
        check_hyperparameters(given)
        super().__init__(
            model,
            params,
            block=LNGDBlock,
            recipe=Recipe(MOMENTA[momentum_on](), step_size(rate, mu, smoothing), mean_over, keep_norms),
            curvature=Schedule(curvature_every, curvature_ramp),
            inverses=Schedule(inverse_every, curvature_ramp),
            defaults={name: given[name] for name in GROUP_DEFAULTS},
            warmup=warmup,
            rate_samples=rate_samples,
            noise=noise,
            generator=generator,
            max_factor_dim=max_factor_dim,
        )


class LNGDSample(LNGD):
    """LNGD without its adaptive rate: layer-wise sampling alone (the ablation LNGD-sample of Table 5). lr is an SGD-like rate.

    Args and errors are LNGD's, less those of the rate.
    """

    def __init__(
        self,
        model: nn.Module,
        params: Iterable[Any] | None = None,
        *,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        damping: float = 0.3,
        decay: float = 0.95,
        curvature_every: int = 20,
        inverse_every: int = 20,
        fallback_lr: float = 3e-3,
        mean_over: MeanOver = "batch",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            model,
            params,
            rate="constant",
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            damping=damping,
            decay=decay,
            curvature_every=curvature_every,
            inverse_every=inverse_every,
            fallback_lr=fallback_lr,
            mean_over=mean_over,
            generator=generator,
        )
