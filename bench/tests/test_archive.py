"""Records of a study in one file, and what is said of one that can't be read."""

import gzip
import json
from pathlib import Path

import pytest

from lngd_bench import archive
from lngd_bench.errors import BenchError

FILES = {"a/one.jsonl": [{"event": "start", "lr": 0.1}, {"event": "end"}], "two.jsonl": [{"event": "start"}]}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name, lines in FILES.items():
        path = tmp_path / "runs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return tmp_path / "runs"


def test_an_archive_reads_as_the_directory_that_was_packed(directory: Path, tmp_path: Path) -> None:
    packed = tmp_path / "results" / "study.jsonl.gz"
    archive.write(packed, archive.read(directory))
    assert archive.read(packed) == archive.read(directory) == FILES
    assert archive.read(directory / "two.jsonl") == {"two.jsonl": FILES["two.jsonl"]}
    assert [path.name for path in packed.parent.iterdir()] == ["study.jsonl.gz"]


def test_the_same_lines_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        archive.write(tmp_path / f"{name}.jsonl.gz", FILES)
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "other.jsonl.gz").read_bytes()


def test_a_folder_of_an_archive_reads_as_that_folder(directory: Path, tmp_path: Path) -> None:
    packed = tmp_path / "study.jsonl.gz"
    archive.write(packed, archive.read(directory))
    for source in (directory, packed):
        assert archive.read(source / "a") == {"one.jsonl": FILES["a/one.jsonl"]}
        assert archive.read(source, below=False) == {"two.jsonl": FILES["two.jsonl"]}
    with pytest.raises(BenchError, match="no such folder"):
        archive.read(packed / "b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive", "not a readable archive"),
        (gzip.compress(b'{"file": "a"}\n{'), "line 2"),
        (gzip.compress(b"[]"), "list, not an object"),
        (gzip.compress(b'{"event": "end"}'), "of which file"),
        (gzip.compress(b'{"file": "a"}')[:-4], "not a readable archive"),
    ],
    ids=["no gzip", "no JSON", "no object", "no file", "cut"],
)
def test_what_is_no_archive_is_one_error_that_names_the_file(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(BenchError, match=rf"study\.jsonl\.gz.*{message}"):
        archive.read(path)


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no such file"):
        archive.read(tmp_path / "absent")
