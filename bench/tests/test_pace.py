from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lngd_bench.training.pace import TRUST, Pace

from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.training.train import RunSpec
from runs import TOY

SGD, LNGD = (RunSpec(TOY, name, 0.1, 0) for name in ("sgd", "lngd"))
OTHER_TASK = RunSpec(replace(TOY, name="slow", step_seconds=1.0), "sgd", 0.1, 0)


def test_before_the_first_step_the_tables_are_believed() -> None:
    assert Pace().remaining([(SGD, 100), (LNGD, 50)]) == pytest.approx(0.001 * (100 + 50 * OPTIMIZERS["lngd"].cost))


def test_a_machine_of_half_the_speed_takes_twice_as_long_for_every_optimizer() -> None:
    pace = Pace()
    pace.saw(SGD, 10, 0.02)
    assert pace.step_seconds(SGD) == pytest.approx(0.002)
    assert pace.step_seconds(LNGD) == pytest.approx(0.002 * OPTIMIZERS["lngd"].cost)
    assert pace.step_seconds(OTHER_TASK) == pytest.approx(2.0)


def test_an_optimizer_that_was_seen_long_enough_has_its_own_pace() -> None:
    pace = Pace()
    pace.saw(SGD, 100_000, 100.0)
    pace.saw(LNGD, 100_000, 700.0)
    assert pace.step_seconds(SGD) == pytest.approx(0.001, rel=0.01)
    assert pace.step_seconds(LNGD) == pytest.approx(0.007, rel=0.01)
    assert pace.remaining([(SGD, 1000), (LNGD, 1000)]) == pytest.approx(8.0, rel=0.01)


def test_one_slow_first_step_is_not_taken_for_all() -> None:
    pace = Pace()
    pace.saw(SGD, 1000, 1.0)
    pace.saw(LNGD, 1, 1.0)
    assert pace.step_seconds(LNGD) < 1.0 / TRUST * 2


def test_another_seed_or_rate_has_the_same_pace_another_task_has_not() -> None:
    pace = Pace()
    pace.saw(SGD, 1000, 5.0)
    assert pace.step_seconds(replace(SGD, seed=9, lr=3.0)) == pace.step_seconds(SGD)
    assert pace.step_seconds(OTHER_TASK) > 100 * pace.step_seconds(SGD)


Seen = st.lists(st.tuples(st.sampled_from([SGD, LNGD, OTHER_TASK]), st.integers(0, 1000), st.floats(0, 1e4)))


@given(Seen, st.sampled_from([SGD, LNGD]), st.integers(0, 100), st.floats(0, 100))
def test_looking_ahead_changes_nothing_and_says_what_seeing_would(
    seen: list[tuple[RunSpec, int, float]], spec: RunSpec, steps: int, seconds: float
) -> None:
    pace = Pace()
    for each in seen:
        pace.saw(*each)
    left = [(SGD, 7), (LNGD, 5), (OTHER_TASK, 1)]
    before = pace.remaining(left)
    ahead = pace.also(spec, steps, seconds).remaining(left)
    assert pace.remaining(left) == before >= 0
    pace.saw(spec, steps, seconds)
    assert pace.remaining(left) == ahead
