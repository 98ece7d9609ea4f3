"""Quintics for a polar factor, one an iteration: each is the best odd polynomial of degree 5 where the one before it left off.

The composition is then the best of its degree on [l, 1] (Polar Express, Amsel, Persson, Musco & Gower 2025, arXiv 2505.16932).
"""

import numpy as np

Quintic = tuple[float, float, float]
"""a, b, c of ax + bx³ + cx⁵."""
MUON: Quintic = (3.4445, -4.7750, 2.0315)
POWERS = np.array([1, 3, 5])
EXCHANGES, TOLERANCE = 100, 1e-12


def best_quintic(low: float, high: float) -> tuple[Quintic, float]:
    """The odd quintic with the least max |1 − p(x)| on [low, high], and that error, by Remez exchange.

    p(x) − 1 takes ∓E in turn at four points: both ends and the two extrema of p between them.
    """
    points = np.array([low, low + (high - low) / 4, low + 3 * (high - low) / 4, high])
    signs, before = np.array([1.0, -1.0, 1.0, -1.0]), np.inf
    for _ in range(EXCHANGES):
        a, b, c, error = np.linalg.solve(np.column_stack([points[:, None] ** POWERS, signs]), np.ones(4))
        points[1:3] = np.sqrt(np.sort(np.roots([5 * c, 3 * b, a]).real))
        if abs(error - before) < TOLERANCE:
            break
        before = error
    return (float(a), float(b), float(c)), float(error)


def schedule(iterations: int, low: float) -> tuple[tuple[Quintic, ...], float]:
    """One quintic an iteration for singular values in [low, 1], and the largest distance from 1 that remains."""
    high, error, found = 1.0, 1.0, []
    for _ in range(iterations):
        quintic, error = best_quintic(low, high)
        found.append(quintic)
        low, high = 1 - error, 1 + error
    return tuple(found), error
