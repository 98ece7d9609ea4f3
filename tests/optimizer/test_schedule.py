"""When curvature is measured."""

import pytest

from lngd.optimizer.schedule import Schedule


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
    schedule = Schedule(every, ramp)
    assert [step for step in range(41) if schedule.due(step)] == expected
