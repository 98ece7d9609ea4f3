"""When curvature is measured."""

import pytest

from lngd import Schedule


@pytest.mark.parametrize(
    ("every", "ramp", "expected"),
    [
        (1, False, list(range(41))),
        (1, True, list(range(41))),
        (20, False, [0, 20, 40]),
        (20, True, [0, 1, 2, 4, 8, 16, 20, 40]),
        (7, True, [0, 1, 2, 4, 7, 14, 21, 28, 35]),
        (100, True, [0, 1, 2, 4, 8, 16, 32]),
    ],
)
def test_due_steps(every, ramp, expected):
    measuring, refreshing = Schedule(curvature_every=every, ramp=ramp), Schedule(inverse_every=every, ramp=ramp)
    assert [step for step in range(41) if measuring.measures(step)] == expected
    assert [step for step in range(41) if refreshing.refreshes(step)] == expected


@pytest.mark.parametrize(
    ("every", "ramp", "over", "expected"),
    [
        (20, False, 4, {0: 4, 20: 4}),
        (20, True, 4, {0: 1, 1: 1, 2: 2, 4: 4, 8: 4, 16: 4, 20: 4}),
        (3, False, 4, {0: 3, 3: 3, 6: 3}),
        (1, True, 4, {0: 1, 1: 1, 2: 1}),
        (20, True, 1, {0: 1, 4: 1, 20: 1}),
    ],
)
def test_a_refresh_is_spread_over_some_steps_but_done_before_the_next(every, ramp, over, expected):
    schedule = Schedule(inverse_every=every, ramp=ramp, refresh_over=over)
    assert {step: schedule.portions(step) for step in expected} == expected
