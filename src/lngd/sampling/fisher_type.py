"""The three ways to come by a layer's g, by name."""

from enum import Enum


class FisherType(Enum):
    """Where a layer's pre-activation gradients come from. `Layerwise`, `Empirical` and `Sampled` are these with settings."""

    LAYERWISE = "layerwise"
    """g = Jᵩᵀ ε, E[ε εᵀ] = I: each layer samples what the next one receives, p(â|a) = N(a, I) (LNGD sec. 3.1).
    Ready in the forward pass. At the model's output nothing follows and g = ε."""

    EMPIRICAL = "empirical"
    """g = −∇ₛ log p(y|x) with the labels y of the data: the user's own backward brings it. No Fisher matrix in the proper sense,
    since y is not drawn from the model; it vanishes as the data are fitted."""

    SAMPLED = "sampled"
    """g = −∇ₛ log p(ŷ|x) with ŷ drawn from the model (LNGD eq. 1), by a backward pass of our own at the end of the forward."""
