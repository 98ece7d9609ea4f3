#!/usr/bin/env bash
# beartype 0.23.1.
#
# What one guesses: checking the types of a call's arguments reads them and changes nothing.
# What happens: of a list (or any sequence) one random item is checked, and it is drawn from Python's own global random state. So every
# checked call with a list in it moves `random`: a seeded program draws other numbers with the checks than without them, and a checked
# function that the garbage collector calls, such as a finalizer, moves them at a moment that nobody chose.
#
# Seen:
#   float: state moved False
#   list[int]: state moved True
#   Sequence[int]: state moved True
#   seeded draw without and with a checked call before it: differ
#
# For our users: shapes are checked in our tests only, and what runs at the end of an optimizer's life draws nothing (tests/test_capture.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check beartype==0.23.1
"$folder/venv/bin/python" - <<'PYTHON'
import random
from collections.abc import Sequence

from beartype import beartype


def moved(hint, value):
    def function(argument):
        return argument

    function.__annotations__ = {"argument": hint}
    checked, before = beartype(function), random.getstate()
    checked(value)
    return random.getstate() != before


for name, hint, value, expected in (
    ("float", float, 1.0, False),
    ("list[int]", list[int], [1, 2, 3], True),
    ("Sequence[int]", Sequence[int], [1, 2, 3], True),
):
    found = moved(hint, value)
    print(f"{name}: state moved {found}")
    assert found is expected
draws = []
for checks in (False, True):
    random.seed(0)
    if checks:
        moved(list[int], [1, 2, 3])
    draws.append(random.random())
print("seeded draw without and with a checked call before it:", "differ" if draws[0] != draws[1] else "equal")
assert draws[0] != draws[1]
PYTHON
