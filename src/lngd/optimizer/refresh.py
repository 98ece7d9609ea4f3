"""Renewing a layer's inverses, and what happens when that is impossible."""

import warnings

import torch

from lngd.linalg import Damping, NotPositiveDefiniteError
from lngd.optimizer.layer_state import LayerState

MOST_FAILURES = 10
"""Refreshes that may fail in a row before training on old inverses is an error."""
MORE_DAMPING = (1.0, 10.0, 100.0)
"""What the damping is multiplied with, in turn, until a refresh succeeds."""
LEAST_DAMPING = 1e-6
"""What counts as damping in the second try if there is none: above the rounding error of a float32 factor."""
FAILURES = "failed_refreshes"
"""The entry of a layer's state that counts them; `optimizer.stats()` shows it."""


def refresh(name: str, state: LayerState) -> None:
    """Renews the inverses of a layer, with more damping if it takes that. Where a factor has none the last good ones stay.

    Each try is one in the factor's own precision and one in float64 (`lngd.linalg.inverse`).

    Raises:
        RuntimeError: MOST_FAILURES refreshes in a row have failed. A layer whose statistics are all zero, because nothing reaches
            it, is not counted: its gradient is zero too.
    """
    group = state.groups[0]
    for factor in MORE_DAMPING:
        relative = group["damping"] if factor == 1 else factor * max(group["damping"], LEAST_DAMPING)
        try:
            state.block.refresh(Damping(relative, group["damping_bounds"]))
        except NotPositiveDefiniteError:
            continue
        if factor > 1:
            warnings.warn(f"layer '{name}': its Fisher factor needed damping={relative:g}; raise the damping", stacklevel=6)
        state.state.pop(FAILURES, None)
        return
    _failed(name, state)


def _failed(name: str, state: LayerState) -> None:
    kept = "kept the last inverse" if state.block.ready else "the layer stays as it is until it has one"
    statistics = [getattr(state.block, statistic) for statistic in state.block.statistics]
    if any(statistic.any() for statistic in statistics):
        state.state[FAILURES] = state.state.get(FAILURES, torch.zeros(())) + 1
        if int(state.state[FAILURES]) >= MOST_FAILURES:
            raise RuntimeError(
                f"layer '{name}': its Fisher factors had no inverse in {MOST_FAILURES} refreshes; raise the damping, or give its "
                "parameters a group with curvature=False. Weights and averages are as they were before this step"
            )
    warnings.warn(f"layer '{name}': Fisher factor not positive definite, {kept}; raise the damping", stacklevel=7)
