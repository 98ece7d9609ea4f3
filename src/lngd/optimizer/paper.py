"""The recipe of the LNGD paper as keyword arguments."""

from typing import Any

PAPER: dict[str, Any] = {
    "momentum": 0.9,
    "weight_decay": 0.004,
    "damping": 1.0,
    "damping_bounds": (1e-5, 1e-2),
    "decay": 0.95,
    "curvature_every": 100,
    "inverse_every": 100,
    "curvature_ramp": False,
    "refresh_over": 1,
    "rate": "layerwise",
    "warmup": 0,
    "smoothing": 0.0,
    "rate_samples": None,
    "curvature_samples": None,
    "noise": "gaussian",
    "momentum_on": "update",
    "keep_norms": False,
    "conv_factor": "full",
    "max_factor_dim": 2**31 - 1,
}
"""Keyword arguments that restore the paper's recipe (sec. 3.3, sec. 4, Algorithm 1): `LNGD(model, lr=…, **PAPER)`.
The paper finds lr by a grid over {1e-4, 3e-4, …, 1, 3}; it never gives µ."""
