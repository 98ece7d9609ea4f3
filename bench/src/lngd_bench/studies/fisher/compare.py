"""An approximate Fisher block against the exact one: as a matrix, and as the direction it gives.

Every block is measured on pairs whose average is the exact expectation, in float64 and on the samples of the exact block, so that
what differs is the approximation and nothing else. LNGD's layer-wise Fisher and NG+'s generalised one have a scale of their own:
a learning rate takes it up. So errors come in two kinds, of F̂ as it is and of cF̂ with the c that brings it nearest to F.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lngd.curvature import CurvatureBlock, EKFACBlock, KFACBlock, LNGDBlock, NGPlusBlock, THORBlock, TKFACBlock
from lngd.linalg import Damping, damped, inner
from lngd.types import Dense, GradientMatrix
from lngd_bench.studies.fisher.exact import ExactCurvature, Pairs

THOR_SPLIT = 10  # half a layer of 20 units; THOR's own 128 would leave so small a factor whole


APPROXIMATIONS: Mapping[str, tuple[Callable[[], CurvatureBlock], Callable[[ExactCurvature, str], Pairs]]] = {
    "LNGD": (LNGDBlock, ExactCurvature.layerwise_pairs),
    "LNGD-lr": (LNGDBlock, ExactCurvature.label_pairs),
    "K-FAC": (KFACBlock, ExactCurvature.label_pairs),
    "EKFAC": (EKFACBlock, ExactCurvature.label_pairs),
    "TKFAC": (TKFACBlock, ExactCurvature.label_pairs),
    "THOR": (partial(THORBlock, THOR_SPLIT), ExactCurvature.label_pairs),
    "NG+": (NGPlusBlock, ExactCurvature.label_pairs),
}
"""A block and the (a, g) that it is measured on.

LNGD-lr is LNGD's block on back-propagated g, as in the paper's ablation: only where g comes from separates the two.
"""


def compare(curvature: ExactCurvature, y: Tensor, damping: float) -> Iterator[dict[str, Any]]:
    """A line for every layer and approximation: `matrix_errors`, the layer, the method, and

    - cosine: between the damped F̂⁻¹∇ and (F + λI)⁻¹∇, λ the same share of F's mean eigenvalue as the block's own damping;
    - gradient_cosine: between ∇ itself and (F + λI)⁻¹∇, what no curvature at all would give;
    - outputwise_error: the least `error` of any block without entries between different outputs, such as LNGD's.

    Args:
        y: labels; the gradient is that of the mean loss over the curvature's samples.
        damping: relative to the mean eigenvalue.

    Raises:
        ValueError: a layer's exact block is zero.
    """
    for name in curvature.layers:
        exact, gradient = curvature.fisher(name), curvature.gradient(name, y)
        if not exact.any():
            raise ValueError(f"the exact Fisher block of layer {name!r} is zero: no output of the model depends on it")
        target = exact_direction(exact, gradient, Damping(damping))
        for method in APPROXIMATIONS:
            block = approximate(curvature, name, method, Damping(damping))
            yield {
                **matrix_errors(block.dense(), exact),
                "layer": name,
                "method": method,
                "cosine": cosine(block.precondition(gradient), target),
                "gradient_cosine": cosine(gradient, target),
                "outputwise_error": outputwise_error(exact, gradient.shape[-2]),
            }


def approximate(curvature: ExactCurvature, name: str, method: str, damping: Damping) -> CurvatureBlock:
    """The method's block for a layer, measured and inverted."""
    build, pairs = APPROXIMATIONS[method]
    block, (a, g) = build(), pairs(curvature, name)
    block.update(block.measure(a, g), decay=0.0)
    block.refresh(damping)
    block.update(block.measure(a, g), decay=0.0)  # EKFAC measures its scales in the basis of the refresh
    return block


def matrix_errors(approximation: Dense, exact: Dense) -> dict[str, float]:
    """How far F̂ is from F, Frobenius norms; blocks of several groups count as one block-diagonal matrix.

    - error: ‖F̂ − F‖ / ‖F‖;
    - scale: c = ⟨F̂, F⟩ / ‖F̂‖², which minimises ‖cF̂ − F‖;
    - scaled_error: ‖cF̂ − F‖ / ‖F‖, between 0 and 1;
    - diagonal_error, scaled_diagonal_error: the same of the diagonals, with their own c;
    - trace_ratio: tr F̂ / tr F.
    """
    diagonal, exact_diagonal = approximation.diagonal(dim1=-2, dim2=-1), exact.diagonal(dim1=-2, dim2=-1)
    scale = best_scale(approximation, exact)
    return {
        "error": _relative_error(approximation, exact),
        "scale": scale,
        "scaled_error": _relative_error(scale * approximation, exact),
        "diagonal_error": _relative_error(diagonal, exact_diagonal),
        "scaled_diagonal_error": _relative_error(best_scale(diagonal, exact_diagonal) * diagonal, exact_diagonal),
        "trace_ratio": (diagonal.sum() / exact_diagonal.sum()).item(),
    }


def best_scale(approximation: Tensor, exact: Tensor) -> float:
    """c = ⟨F̂, F⟩ / ‖F̂‖²; 0 for F̂ = 0."""
    square = inner(approximation, approximation).item()
    return inner(approximation, exact).item() / square if square else 0.0


def outputwise_error(exact: Dense, outputs: int) -> float:
    """√(1 − Σₒ ‖Fₒₒ‖² / ‖F‖²) with Fₒₒ `[i, i]` an output's own part: what a diagonal factor over the outputs leaves out of F."""
    own = exact.unflatten(-1, (outputs, -1)).unflatten(-3, (outputs, -1)).diagonal(dim1=-4, dim2=-2)
    return (1 - (own.norm() / exact.norm()).square()).clamp(min=0).sqrt().item()


def exact_direction(exact: Dense, gradient: GradientMatrix, damping: Damping) -> GradientMatrix:
    """(F + λI)⁻¹ ∇."""
    factor = torch.linalg.cholesky(damped(exact, damping, exact.shape[-1]))
    return torch.cholesky_solve(gradient.flatten(-2).unsqueeze(-1), factor).reshape(gradient.shape)


def cosine(one: Tensor, other: Tensor) -> float:
    """⟨x, y⟩ / ‖x‖‖y‖ over all entries; NaN if one of them is zero."""
    return (inner(one, other) / (one.norm() * other.norm())).item()


def _relative_error(approximation: Tensor, exact: Tensor) -> float:
    return ((approximation - exact).norm() / exact.norm()).item()
