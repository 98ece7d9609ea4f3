"""Idea 3: Φ̂⁻¹ in 16 bits. What a step saves, and what rounding does to the directions that matter most.

Rounding errs in proportion to the largest entries of Φ̂⁻¹, which belong to the smallest eigenvalues of Φ; the gradient lies along
the largest, where Φ̂⁻¹ is small. `eigendirection` is the largest ‖(K̃ − K) v‖ / ‖K v‖ over eigenvectors v. float16 has a narrow
range, so K is scaled by the damping first, to eigenvalues up to one.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import torch
from benchmarks.kernels.spectra import EXPONENTS, SIZES, Factor, cosine, error, factor, name_of
from benchmarks.kernels.stopwatch import Case, Row
from torch import Tensor

HALF_PRODUCT_LIMIT = 512
"""Inputs above which the product in float16 is left out: without hardware for it, it takes seconds."""


def cases() -> Iterator[Case | Row]:
    """Times once a size, errors once a size and spectrum."""
    for o, i in SIZES:
        for exponent in EXPONENTS:
            yield from findings(o, factor(i, exponent))
        yield from pairs(o, factor(i, EXPONENTS[-1]))


def findings(o: int, phi: Factor) -> Iterator[Row]:
    """Errors of the direction for a coloured (∇ = Z Φ^½) and a white gradient."""
    exact = phi.inverse * phi.damping
    for dtype in (torch.bfloat16, torch.float16):
        stored = exact.to(dtype)
        upcast = direction_errors(o, phi, partial(upcast_product, stored))
        yield finding(f"{short(dtype)} kept, float32 product", o, phi, upcast | matrix_errors(phi, exact, stored))
    kept = exact.bfloat16()
    yield finding("bfloat16 kept, bfloat16 product", o, phi, direction_errors(o, phi, lambda g: g.bfloat16() @ kept))
    yield finding("float32 kept, float32 product", o, phi, direction_errors(o, phi, lambda g: g @ exact))


def finding(idea: str, o: int, phi: Factor, figures: dict[str, float | bool]) -> Row:
    """Without times."""
    return Row(idea=f"error: {idea}", size=f"{name_of((o, phi.n))}, k^-{phi.exponent}", figures=figures)


def direction_errors(o: int, phi: Factor, apply: Callable[[Tensor], Tensor]) -> dict[str, float | bool]:
    """Relative error and cosine of the direction."""
    figures: dict[str, float | bool] = {}
    for name, power in (("coloured", 0.5), ("white", 0.0)):
        gradient, direction = problem(phi, o, power)
        found = apply(gradient) / phi.damping
        figures |= {f"error, {name}": error(found, direction), f"cosine, {name}": cosine(found, direction)}
    return figures


@lru_cache(maxsize=2)
def problem(phi: Factor, o: int, power: float) -> tuple[Tensor, Tensor]:
    """Made once for all ideas."""
    return phi.gradient(o, power=power)


def matrix_errors(phi: Factor, exact: Tensor, stored: Tensor) -> dict[str, float | bool]:
    """Of K̃ itself."""
    wrong = (stored.double() - exact.double()).float() @ phi.basis.float()
    length = phi.damping / (phi.values + phi.damping)
    _, failed = torch.linalg.cholesky_ex(stored.float())
    return {"eigendirection": float((wrong.norm(dim=0) / length).max()), "positive definite": not bool(failed)}


def pairs(o: int, phi: Factor) -> Iterator[Case]:
    """Against the product in float32."""
    K = phi.inverse * phi.damping
    gradient, _ = phi.gradient(o, power=0.5)
    bf16, half = K.bfloat16(), K.half()
    ideas: dict[str, Callable[[], Tensor]] = {
        "bfloat16 kept, float32 product": lambda: gradient @ bf16.float(),
        "float16 kept, float32 product": lambda: gradient @ half.float(),
        "bfloat16 kept, bfloat16 product": lambda: (gradient.bfloat16() @ bf16).float(),
    }
    if phi.n <= HALF_PRODUCT_LIMIT:
        ideas["float16 kept, float16 product"] = lambda: (gradient.half() @ half).float()
    for name, new in ideas.items():
        yield Case(
            idea=name,
            size=name_of((o, phi.n)),
            against="float32",
            old=lambda: gradient @ K,
            new=new,
            figures={"bytes kept": 0.5},
        )


def upcast_product(stored: Tensor, gradient: Tensor) -> Tensor:
    return gradient @ stored.float()


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
