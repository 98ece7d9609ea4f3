"""Random models, settings and data: every training run keeps the promises of `promises.py`."""

import math
from collections import Counter

import hypothesis
import pytest
from hypothesis import given

import lngd
from fuzz import chains, models, parts, settings
from fuzz.drawing import cases
from fuzz.promises import STEPS
from fuzz.run import SETTINGS, counting
from fuzz.settings import METHODS, Case
from lngd import methods
from lngd.methods import Method

NAMES = {"inf": math.inf, **vars(lngd), **vars(parts), **vars(chains), **vars(models), **vars(settings)}
"""What the print of a case is written in."""


@pytest.mark.parametrize(("number", "of_each"), [(40, 0), pytest.param(500, 10, marks=pytest.mark.slow)])
def test_every_training_run_keeps_its_promises(number, of_each):
    """The cases are always the same."""
    counts: Counter[str] = Counter()
    hypothesis.settings(max_examples=number, derandomize=True, **SETTINGS)(counting(counts))()
    assert counts["cases"] >= number
    assert all(counts[f"method: {name}"] >= of_each for name in METHODS)


@hypothesis.settings(max_examples=50, derandomize=True, deadline=None, database=None)
@given(cases(steps=STEPS))
def test_a_case_prints_as_the_code_that_makes_it(case: Case):
    assert eval(repr(case), NAMES) == case  # noqa: S307


def test_every_method_is_drawn():
    concrete = {name for name, kind in vars(methods).items() if isinstance(kind, type) and issubclass(kind, Method)}
    assert set(METHODS) == concrete - {"Method"}
