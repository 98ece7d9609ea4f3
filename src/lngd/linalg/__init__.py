"""Damping, inverses and products of Fisher factors: the only place that factorises a matrix.

A factor over the inputs has one of three forms. Dense: `[*group, i, i]`. Block-diagonal, for many inputs: `[*group, k, b, b]`, k
blocks of b inputs, the last one padded with zeros. Diagonal, of one-hot inputs, which never come in groups: `[i]`.
"""

from lngd.linalg.damping import Damping, as_damping
from lngd.linalg.factor import (
    assembled,
    damped,
    damped_diagonal,
    diagonal_of,
    factor_shape,
    is_diagonal,
    kronecker,
    mean_eigenvalue,
    product,
    shifted,
    times,
    times_left,
    transposed,
)
from lngd.linalg.finite import HOST, choose, readable
from lngd.linalg.inverse import LinAlgError, NotPositiveDefiniteError, eigenbasis, inverse, inverse_diagonal, root
from lngd.linalg.moments import second_moments, squared_norms, sum_by_input, symmetric_product
from lngd.linalg.polar import inverse_root_of_symmetric, orthogonalised
from lngd.linalg.vectors import inner, inner_of_each

__all__ = [
    "HOST",
    "Damping",
    "LinAlgError",
    "NotPositiveDefiniteError",
    "as_damping",
    "assembled",
    "choose",
    "damped",
    "damped_diagonal",
    "diagonal_of",
    "eigenbasis",
    "factor_shape",
    "inner",
    "inner_of_each",
    "inverse",
    "inverse_diagonal",
    "inverse_root_of_symmetric",
    "is_diagonal",
    "kronecker",
    "mean_eigenvalue",
    "orthogonalised",
    "product",
    "readable",
    "root",
    "second_moments",
    "shifted",
    "squared_norms",
    "sum_by_input",
    "symmetric_product",
    "times",
    "times_left",
    "transposed",
]
