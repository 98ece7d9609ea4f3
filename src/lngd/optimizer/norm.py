"""In which norm a step is the steepest: the one place where natural gradient and spectral descent differ."""

from collections.abc import Callable
from typing import Literal, TypeAlias

from lngd.linalg import orthogonalised
from lngd.types import GradientMatrix

Norm: TypeAlias = Literal["frobenius", "spectral"]


def unchanged(natural: GradientMatrix, _average: GradientMatrix) -> GradientMatrix:
    """P."""
    return natural


NORMS: dict[Norm, Callable[[GradientMatrix, GradientMatrix], GradientMatrix]] = {
    "frobenius": unchanged,
    "spectral": orthogonalised,
}
"""The direction of steepest descent where F̂^½ d is bounded in this norm, from P = F̂⁻¹M and M."""
