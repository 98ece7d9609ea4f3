"""The ledger of a study's runs: what it knows again, what it keeps, and what two processes make of one archive."""

from pathlib import Path
from typing import Any

import pytest

from lngd_bench import archive
from lngd_bench.ledger import Ledger


class Runs:
    """Counts what it is asked to make."""

    def __init__(self) -> None:
        self.made = 0

    def make(self) -> dict[str, Any]:
        self.made += 1
        return {"loss": 0.5 * self.made, "curve": [[1, 2.0]]}


def opened(path: Path, **options: Any) -> Ledger:
    return Ledger(path, "runs.jsonl", found=("loss", "curve"), **options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.jsonl.gz"


def test_a_run_is_made_once_and_known_again_in_another_process(path: Path) -> None:
    runs = Runs()
    first = [opened(path).run({"lr": 0.1, "rest": rest}, runs.make) for rest in (None, 1.0, None)]
    assert runs.made == 2
    assert first[0] == first[2] != first[1]
    assert {"lr", "rest", "loss", "curve", "date"} == first[0].keys()
    assert opened(path).lines == [first[0], first[1]]


def test_the_order_of_what_is_asked_for_does_not_count_and_a_further_name_does(path: Path) -> None:
    runs, ledger = Runs(), opened(path)
    ledger.run({"lr": 0.1, "seed": 0}, runs.make)
    ledger.run({"seed": 0, "lr": 0.1}, runs.make)
    assert runs.made == 1
    ledger.run({"lr": 0.1, "seed": 0, "damping": 1.0}, runs.make)
    assert runs.made == 2


def test_what_others_have_written_meanwhile_stays(path: Path) -> None:
    runs, one, other = Runs(), opened(path), opened(path)
    one.run({"lr": 1.0}, runs.make)
    other.run({"lr": 2.0}, runs.make)

    def slow() -> dict[str, Any]:
        other.run({"lr": 3.0}, runs.make)
        return runs.make()

    one.run({"lr": 4.0}, slow)
    assert [line["lr"] for line in opened(path).lines] == [1.0, 2.0, 3.0, 4.0]
    one.run({"lr": 3.0}, runs.make)
    assert runs.made == 4


def test_other_files_of_the_archive_stay(path: Path) -> None:
    archive.write(path, {"another.jsonl": [{"a": 1}]})
    opened(path).run({"lr": 1.0}, Runs().make)
    assert archive.read(path)["another.jsonl"] == [{"a": 1}]


def test_what_counts_no_more_is_gone_with_the_next_run(path: Path) -> None:
    runs = Runs()
    opened(path).run({"lr": 1.0, "defaults": "old"}, runs.make)
    current = opened(path, keeps=lambda line: line["defaults"] == "new")
    assert current.lines == []
    assert len(opened(path).lines) == 1
    current.run({"lr": 1.0, "defaults": "new"}, runs.make)
    assert [line["defaults"] for line in opened(path).lines] == ["new"]


def test_a_run_that_breaks_off_leaves_the_archive_as_it_was(path: Path) -> None:
    ledger = opened(path)
    ledger.run({"lr": 1.0}, Runs().make)
    before = path.read_bytes()

    def fails() -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.run({"lr": 2.0}, fails)
    assert path.read_bytes() == before


def test_a_new_run_is_printed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = opened(path, said=lambda line: f"lr {line['lr']}: {line['loss']}")
    for _ in range(2):
        ledger.run({"lr": 1.0}, Runs().make)
    assert capsys.readouterr().out == "lr 1.0: 0.5\n"
