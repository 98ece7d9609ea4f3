"""K-FAC's Fisher block: second moments of what enters a layer and of what comes back to it, as if the two were independent."""

from typing import ClassVar

from torch import Tensor

from lngd.curvature.block import CurvatureBlock, Shape, dense_dims, input_shape
from lngd.linalg import (
    Damping,
    as_damping,
    assembled,
    factor_shape,
    inverse,
    kronecker,
    mean_eigenvalue,
    second_moments,
    shifted,
    times,
    times_left,
)
from lngd.types import Activations, Dense, GradientMatrix, Gradients, InputFactor, OutputFactor, Rows


class KFACBlock(CurvatureBlock):
    """F ≈ A ⊗ B (Martens & Grosse 2015; with positions Grosse & Martens 2016, eq. 35).

    A = E[Σₛ aₛ aₛᵀ] is `[i, i]`; B = E[Σₛ gₛ gₛᵀ] / S is `[o, o]`. Sums run over the S positions of a sample, means over samples:
    gradients of different positions count as uncorrelated, so F sums over positions. Exact for one sample with one position.
    Of a factor larger than `max_dim` only diagonal blocks are kept.
    """

    statistics = ("A", "B")
    quadratic: ClassVar[tuple[bool, ...]] = (False, True, False)
    inverses: ClassVar[tuple[str, ...]] = ("A_inverse", "B_inverse")

    A: InputFactor
    B: OutputFactor
    A_inverse: InputFactor
    B_inverse: OutputFactor

    def dims(self, inputs: int, outputs: int, *, one_hot: bool = False) -> tuple[int, ...]:
        return *dense_dims(inputs, one_hot, self.largest), *dense_dims(outputs, one_hot=False, largest=self.largest)

    def shapes(self, inputs: int, outputs: int, *, one_hot: bool = False) -> dict[str, Shape]:
        A, B = input_shape(inputs, one_hot, self.largest), factor_shape(outputs, self.largest)
        return {"A": A, "B": B, "A_inverse": A, "B_inverse": B}

    def measure(self, a: Activations, g: Gradients) -> tuple[Tensor, ...]:
        """Σₛ aaᵀ, Σₛ ggᵀ and S: a layer that is called twice has twice as many positions."""
        self.shape = g.shape[-1], a.shape[-1]
        n, positions = a.shape[-3:-1]
        rows, grads = a.flatten(-3, -2), g.flatten(-3, -2)
        return self._moments(rows) / n, self._moments(grads) / n, g.new_full((), positions)

    def normalise(self, measured: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        A, B, positions = measured
        return A, B / positions

    def factors(self) -> tuple[InputFactor, OutputFactor]:
        """A and B with F ≈ A ⊗ B."""
        return self.A, self.B

    def refresh(self, damping: Damping) -> None:
        A, B = self._damped(damping)
        self.A_inverse, self.B_inverse = inverse(A), inverse(B)

    def precondition(self, gradient: GradientMatrix) -> GradientMatrix:
        """B̂⁻¹ ∇ Â⁻¹."""
        return times(times_left(self.B_inverse, gradient), self.A_inverse)

    def dense(self, damping: Damping | float = 0.0) -> Dense:
        """(B + √λ/π I) ⊗ (A + π√λ I)."""
        A, B = self._damped(as_damping(damping))
        o, i = self.shape
        return kronecker(assembled(B, o), assembled(A, i))

    def _moments(self, rows: Rows) -> Tensor:
        """Σ x xᵀ over rows x."""
        return second_moments(rows, largest=self.largest)

    def _means(self) -> tuple[Tensor, Tensor]:
        """Mean eigenvalues of A and B."""
        A, B = self.factors()
        o, i = self.shape
        return mean_eigenvalue(A, i), mean_eigenvalue(B, o)

    def _damped(self, damping: Damping) -> tuple[InputFactor, OutputFactor]:
        A, B = self.factors()
        o, i = self.shape
        shift_A, shift_B = damping.of_kronecker(*self._means())
        return shifted(A, shift_A, i), shifted(B, shift_B, o)
