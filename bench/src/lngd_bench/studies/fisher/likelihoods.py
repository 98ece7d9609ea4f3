"""What a model's outputs say about a label: the row to add is a likelihood that `FisherType.SAMPLED` can draw from."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

Outputs = Float[Tensor, "n ... c"]


class Likelihood(ABC):
    """What the model's outputs z say about a label y, through r = −∇_z log p(y|z)."""

    @abstractmethod
    def residual(self, z: Outputs, y: Tensor) -> Outputs:
        """r at given labels."""

    @abstractmethod
    def support(self, z: Outputs) -> Float[Tensor, "k n ... c"]:
        """k values of r, the mean of whose outer products is E_{y~p}[r rᵀ] at each position."""

    @abstractmethod
    def hessian(self, z: Outputs) -> Float[Tensor, "n ... c c"]:
        """−∇²_z log p(y|z), which does not depend on y for the likelihoods here."""


class Categorical(Likelihood):
    """y is one of c classes with logits z: r = p − e_y, H = diag p − p pᵀ."""

    def residual(self, z: Outputs, y: Tensor) -> Outputs:
        if y.shape != z.shape[:-1] or y.is_floating_point():
            raise ValueError(f"y is {y.dtype} of shape {tuple(y.shape)}: class numbers of shape {tuple(z.shape[:-1])} are needed")
        if y.min() < 0 or y.max() >= z.shape[-1]:
            raise ValueError(f"y reaches from {y.min()} to {y.max()}: the model has the classes 0 to {z.shape[-1] - 1}")
        return z.softmax(-1) - nn.functional.one_hot(y, z.shape[-1])

    def support(self, z: Outputs) -> Float[Tensor, "k n ... c"]:
        """√(c·p_y) (p − e_y) for each class y."""
        p = z.softmax(-1)
        weight = (z.shape[-1] * p).sqrt().movedim(-1, 0).unsqueeze(-1)
        return weight * (p - _units(z))

    def hessian(self, z: Outputs) -> Float[Tensor, "n ... c c"]:
        p = z.softmax(-1)
        return torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)


class Gaussian(Likelihood):
    """y ~ N(z, I): r = z − y, H = I."""

    def residual(self, z: Outputs, y: Tensor) -> Outputs:
        if y.shape != z.shape:
            raise ValueError(f"y has shape {tuple(y.shape)}: values of the outputs' shape {tuple(z.shape)} are needed")
        return z - y

    def support(self, z: Outputs) -> Float[Tensor, "k n ... c"]:
        """√c e_j for each output j."""
        return z.shape[-1] ** 0.5 * _units(z).expand(-1, *z.shape)

    def hessian(self, z: Outputs) -> Float[Tensor, "n ... c c"]:
        return torch.diag_embed(torch.ones_like(z))


class Bernoulli(Likelihood):
    """Each output is the logit of a yes of its own: r = σ(z) − y, H = diag σ(z)(1 − σ(z))."""

    def residual(self, z: Outputs, y: Tensor) -> Outputs:
        if y.shape != z.shape or ((y != 0) & (y != 1)).any():
            raise ValueError(f"y has shape {tuple(y.shape)}: zeros and ones of the outputs' shape {tuple(z.shape)} are needed")
        return z.sigmoid() - y

    def support(self, z: Outputs) -> Float[Tensor, "k n ... c"]:
        """√(c·σ(1 − σ)) e_j for each output j."""
        return (z.shape[-1] * self._variance(z)).sqrt() * _units(z)

    def hessian(self, z: Outputs) -> Float[Tensor, "n ... c c"]:
        return torch.diag_embed(self._variance(z))

    def _variance(self, z: Outputs) -> Outputs:
        return z.sigmoid() * (1 - z.sigmoid())


def _units(z: Outputs) -> Tensor:
    """e_j for each output j, to be broadcast over samples and positions."""
    classes = z.shape[-1]
    return torch.eye(classes, dtype=z.dtype, device=z.device).reshape(classes, *[1] * (z.dim() - 1), classes)


LIKELIHOODS: Mapping[str, Likelihood] = {"categorical": Categorical(), "bernoulli": Bernoulli(), "gaussian": Gaussian()}
