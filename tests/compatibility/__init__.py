"""The rows are plain functions: without this their assertions would not say what they found."""

from pathlib import Path

import pytest

ASSERTING = ("runs", "exact", *(path.stem for path in Path(__file__).parent.glob("rows_*.py")))

pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in ASSERTING))
