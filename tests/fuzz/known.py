"""Faults of the library that are still open: their cases are not drawn. Empty when there are none."""

from collections.abc import Callable

from fuzz.settings import Case


def recomputes_a_batch_norm(case: Case) -> bool:
    text = repr(case.model)
    return "Recomputed" in text and "kind='batch'" in text


def grafts_huge_gradients(case: Case) -> bool:
    return case.settings.options.get("rate") == "graft" and case.training.scale > 1e3


def decomposes_a_large_factor(case: Case) -> bool:
    """LAPACK divides and conquers from 26 rows on; a smaller matrix is never affected."""
    if case.settings.method != "EKFAC" or case.training.dtype == "float64":
        return False
    return any(p.dim() > 1 and p[0].numel() >= 25 for p in case.model.build().parameters())


def steps_without_limit(case: Case) -> bool:
    options = case.settings.options
    constant = options.get("rate", "constant" if case.settings.method == "LNGDSample" else "") == "constant"
    return constant and (case.training.scale > 1 or options.get("damping", 1) < 1e-3)


def is_undamped(case: Case) -> bool:
    options = case.settings.options
    groups = [options, options | (case.settings.overrides or {})]
    return any(group.get("damping", 1) < 1e-6 and group.get("damping_bounds", (1e-5, 0))[0] == 0 for group in groups)


KNOWN: tuple[tuple[Callable[[Case], bool], str], ...] = (
    (recomputes_a_batch_norm, "our own backward pass runs a checkpointed forward, and its BatchNorm, once more"),
    (grafts_huge_gradients, "Graft squares gradients: beyond 1e19 its state is infinite for ever"),
    (decomposes_a_large_factor, "LAPACK's float32 eigh returns NaN without an error now and then, and eigenbasis takes it"),
    (steps_without_limit, "a direction that overflows is applied: finite gradients, and weights that are not"),
    (is_undamped, "a singular factor may pass Cholesky by rounding; then all rates can be 0 without a warning"),
)
"""Which cases, and what goes wrong there."""


def is_known(case: Case) -> bool:
    return any(concerns(case) for concerns, _ in KNOWN)
