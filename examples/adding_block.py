"""A Fisher matrix of one's own, and the method that uses it: python examples/adding_block.py"""

import torch

import lngd
from lngd.curvature import CurvatureBlock
from lngd.curvature.lngd import to_trace_one
from lngd.linalg import as_damping, damped_diagonal, inverse_diagonal, kronecker
from patterns import classifier, train


class RankOneDiagonal(CurvatureBlock):
    """F ≈ diag ψ ⊗ diag φ: a number for each input and each output, as Adafactor keeps them.

    φ = E[Σₛ ‖gₛ‖² aₛ²] `[i]` and ψ = E[Σₛ ‖aₛ‖² gₛ²] / Σφ `[o]`, LNGD's factors with Φ a diagonal too.
    Not for embeddings, whose inputs come as `OneHot`.
    """

    statistics, quadratic, inverses = ("phi", "psi"), (True, True), ("phi_inverse", "psi_inverse")

    def dims(self, inputs, outputs, *, one_hot=False):
        return ()  # no dense matrix is inverted

    def shapes(self, inputs, outputs, *, one_hot=False):
        return {"phi": (inputs,), "psi": (outputs,), "phi_inverse": (inputs,), "psi_inverse": (outputs,)}

    def measure(self, a, g):  # [*group, n, s, i] and [*group, n, s, o]
        a, g = a.square(), g.square()
        return tuple((x * y.sum(-1, keepdim=True)).sum(-2).mean(-2) for x, y in ((a, g), (g, a)))

    def normalise(self, measured):
        return measured[0], to_trace_one(measured[1])

    def refresh(self, damping):
        self.phi_inverse, self.psi_inverse = (inverse_diagonal(damped_diagonal(d, damping)) for d in (self.phi, self.psi))

    def precondition(self, gradient):
        return self.psi_inverse.unsqueeze(-1) * gradient * self.phi_inverse.unsqueeze(-2)

    def dense(self, damping=0.0):
        phi, psi = (torch.diag_embed(damped_diagonal(d, as_damping(damping))) for d in (self.phi, self.psi))
        return kronecker(psi, phi)


class DiagonalLNGD(lngd.LNGD):
    """LNGD with that block: its Fisher type, step size and arguments stay."""

    block = RankOneDiagonal


torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = classifier().to(device)
optimizer = DiagonalLNGD(model)
train(model, optimizer)
