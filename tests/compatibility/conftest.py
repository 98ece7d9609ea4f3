"""Cells run as users run them. `--write-page FILE` writes the compatibility matrix from the outcomes of all cells."""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import config as shape_checks

from compatibility.page import render
from compatibility.table import Cell


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-page", type=Path, metavar="FILE", help="write the compatibility matrix; needs a run of all cells")


def pytest_configure(config: pytest.Config) -> None:
    target = config.getoption("--write-page", default=None)
    if target is not None:
        config.pluginmanager.register(PageWriter(target))


@pytest.fixture(autouse=True)
def _without_shape_checks() -> Iterator[None]:
    """No user has them: `torch.compile` would trace them, and they take five sixths of a small model's step."""
    shape_checks.update("jaxtyping_disable", True)
    yield
    shape_checks.update("jaxtyping_disable", False)


class PageWriter:
    """Collects the cells' outcomes; a cell that has failed in any phase has failed."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.outcomes: dict[Cell, bool] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, Any]:
        report = yield
        if isinstance(item, pytest.Function) and item.originalname == "test_cell":
            cell = item.callspec.params["row"], item.callspec.params["method"]
            self.outcomes[cell] = self.outcomes.get(cell, True) and report.outcome == "passed"
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Refuses, with an error, what would leave cells out."""
        try:
            page = render(self.outcomes)
        except ValueError as error:
            raise pytest.UsageError(f"{self.target} is left as it is: {error}; run the whole folder") from error
        self.target.write_text(page)
