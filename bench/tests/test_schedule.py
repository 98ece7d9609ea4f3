import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lngd_bench.tasks.imagenet_resnet50 import FULL, SECOND_ORDER
from lngd_bench.tasks.schedule import (
    LINEAR,
    SCHEDULES,
    Schedule,
    multiplier,
    paper_cosine,
    polynomial,
    scheduler,
    steps,
    warmed,
)

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


@every_schedule
@given(total=st.integers(1, 3000), lr=st.floats(1e-3, 10))
def test_a_rate_stays_positive_until_the_end_and_is_zero_then(schedule: Schedule, total: int, lr: float) -> None:
    values = [multiplier(schedule, step, total, lr) for step in range(0, total, max(1, total // 50))]
    assert all(0 < value <= 1 + 1e-12 for value in values)
    assert multiplier(schedule, total, total, lr) == 0


def test_the_papers_steps_divide_by_ten_every_40_of_200_epochs() -> None:
    per_epoch = 195
    values = [steps()(epoch * per_epoch, 200 * per_epoch, 1.0) for epoch in (0, 39, 40, 79, 80, 120, 160, 199)]
    assert values == pytest.approx([1, 1, 0.1, 0.1, 0.01, 1e-3, 1e-4, 1e-4])


@pytest.mark.parametrize("t", [0, 10, 40, 79])
def test_the_papers_cosine_is_its_formula(t: int) -> None:
    alpha = 0.001 + 0.5 * (0.3 - 0.001) * (1 + math.cos(2 * 0.47 * math.pi * t / 80))
    assert 0.3 * paper_cosine()(t, 80, 0.3) == pytest.approx(alpha)


def test_a_warm_up_rises_to_the_other_schedule_which_restarts_or_has_gone_on() -> None:
    restarting, running = warmed(polynomial(2), 0.1), warmed(polynomial(2), 0.1, restarts=False)
    assert [restarting(step, 100, 1.0) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert restarting(10, 100, 1.0) == 1
    assert running(10, 100, 1.0) == pytest.approx(0.81)


def test_every_param_group_follows_by_its_own_rate() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [weights[0]], "lr": 0.5}, {"params": [weights[1]], "lr": 0.05}])
    schedule = scheduler(optimizer, paper_cosine(), 10)
    for step in range(10):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([lr * paper_cosine()(step, 10, lr) for lr in (0.5, 0.05)])
        optimizer.step()
        schedule.step()


def test_the_benches_own_is_five_per_cent_up_and_linearly_down() -> None:
    assert [LINEAR(step, 100, 1.0) for step in (0, 4, 5, 52, 99)] == pytest.approx([0.2, 1.0, 1.0, 48 / 95, 1 / 95])


def test_imagenets_lengths_and_schedules_are_the_papers_with_its_warm_up_of_five_epochs() -> None:
    lengths = {name: FULL.of(name).total_epochs for name in ("sgd", "adamw", *SECOND_ORDER)}
    assert {lengths.pop("sgd"), lengths.pop("adamw")} == {80}
    assert set(lengths.values()) == {50}
    epoch = FULL.steps_an_epoch
    sgd, kfac, lngd = (FULL.of(name).schedule for name in ("sgd", "kfac", "lngd"))
    assert sgd(0, 80 * epoch, 0.1) == pytest.approx(1 / (5 * epoch), rel=1e-3)
    cosine = (0.001 + 0.5 * (0.1 - 0.001) * (1 + math.cos(2 * 0.47 * math.pi * 5 / 80))) / 0.1
    assert sgd(5 * epoch, 80 * epoch, 0.1) == pytest.approx(cosine)
    assert kfac(5 * epoch, 50 * epoch, 0.1) == pytest.approx((1 - 5 / 50) ** 4)
    assert [lngd(part * epoch, 50 * epoch, 1.0) for part in (0, 25)] == pytest.approx([1, 0.5**4])
