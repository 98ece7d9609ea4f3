import gzip
import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lngd_bench.errors import BenchError
from lngd_bench.tasks.datasets import download
from lngd_bench.tasks.datasets.download import Download, opened

CONTENT = bytes(i * i % 251 for i in range(5000))
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PIECE", 700)


def of(source: Path, largest: int = 10_000, *, packed: bool = False) -> Download:
    return Download(source.as_uri(), DIGEST, largest, packed)


def test_a_file_arrives_piece_by_piece_and_tells_how_far_it_is(source: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    path = of(source).into(tmp_path / "new" / "deep" / "file", lambda count, total: told.append((count, total)))
    assert path.read_bytes() == CONTENT
    assert told == [(700, 5000)] * 7 + [(100, 5000)]


def test_a_file_that_is_there_already_is_not_downloaded_again(source: Path, tmp_path: Path) -> None:
    path = of(source).into(tmp_path / "file")
    source.unlink()
    assert of(source).into(path).read_bytes() == CONTENT


def test_a_file_with_another_content_is_replaced(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"half of it")
    assert of(source).into(tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("sent", [CONTENT[::-1], CONTENT[:-1], CONTENT + b"x", b""], ids=["wrong", "cut", "longer", "empty"])
def test_nothing_is_kept_of_another_file_and_the_old_one_stays(sent: bytes, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "file").write_bytes(b"old")
    source.write_bytes(sent)
    message = f"{re.escape(source.as_uri())}: SHA-256 of the content is .*{len(sent)} bytes came.*nothing was kept"
    with pytest.raises(BenchError, match=message):
        of(source).into(target / "file")
    assert [path.read_bytes() for path in target.iterdir()] == [b"old"]


def test_a_file_that_is_too_large_is_refused_before_it_is_whole(source: Path, tmp_path: Path) -> None:
    taken: list[int] = []
    with pytest.raises(BenchError, match=r"more than 2000 bytes.*nothing was kept"):
        of(source, 2000).into(tmp_path / "target" / "file", lambda count, _: taken.append(count))
    assert sum(taken) == 2100
    assert not list((tmp_path / "target").iterdir())


@pytest.mark.parametrize("parts", [[CONTENT], [CONTENT[:10], CONTENT[10:]], [CONTENT, b""]], ids=["one", "two", "an empty one"])
def test_a_packed_file_is_checked_by_what_it_holds_and_may_have_several_parts(parts: list[bytes], tmp_path: Path) -> None:
    source = tmp_path / "source.gz"
    source.write_bytes(b"".join(gzip.compress(part) for part in parts))
    path = of(source, packed=True).into(tmp_path / "file.gz")
    assert gzip.decompress(path.read_bytes()) == CONTENT


def test_a_packed_file_with_something_behind_it_is_refused(tmp_path: Path) -> None:
    """It would be no gzip file to its reader."""
    source = tmp_path / "source.gz"
    source.write_bytes(gzip.compress(CONTENT) + b"rubbish")
    with pytest.raises(BenchError, match="not a gzip file"):
        of(source, packed=True).into(tmp_path / "file.gz")


def test_a_packed_file_is_unpacked_no_further_than_its_limit(tmp_path: Path) -> None:
    source = tmp_path / "source.gz"
    source.write_bytes(gzip.compress(bytes(2**24)))
    with pytest.raises(BenchError, match="more than 100000 bytes"):
        of(source, 100_000, packed=True).into(tmp_path / "file.gz")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_garbled_packed_file_is_kept_whole_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    garbled = bytearray(gzip.compress(CONTENT))
    garbled[data.draw(st.integers(0, len(garbled) - 1))] ^= data.draw(st.integers(0, 255))
    (tmp_path / "source.gz").write_bytes(garbled[: data.draw(st.integers(0, len(garbled)))])
    target = tmp_path / "file.gz"
    target.unlink(missing_ok=True)
    try:
        of(tmp_path / "source.gz", packed=True).into(target)
    except BenchError:
        assert not target.exists()
    else:
        assert gzip.decompress(target.read_bytes()) == CONTENT


@pytest.mark.parametrize(
    "url",
    ["ftp://host/x", "file:///nowhere/x", "https://[bad/x", "https://host:port/x", "https://a b/x", "x", ""],
)
def test_an_address_that_cannot_be_read_is_one_line(url: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError) as caught:
        replace(of(tmp_path), url=url).into(tmp_path / "new" / "file")
    assert str(caught.value).startswith(f"{url}: ")
    assert len(str(caught.value).splitlines()) == 1
    assert not list((tmp_path / "new").iterdir())


class Plain(Download):
    """Reads from a server of the test's, which speaks no TLS."""

    def _opened(self):
        return opened(build_opener(ProxyHandler({})), self.url)


@contextmanager
def answered(answer: bytes) -> Iterator[str]:
    """The address of a server that gives one answer."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with server.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}/file"
    thread.join()
    server.close()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + CONTENT[:300], r"SHA-256 .* \(300 bytes came\)"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1388\r\n" + CONTENT[:300], "IncompleteRead"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1e4\r\n\r\n" + CONTENT, "1e4"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "HTTP Error 404"),
        (b"no\nHTTP\r\n\r\n", ": no"),
    ],
    ids=["cut", "cut in a chunk", "strange length", "missing", "no HTTP"],
)
def test_a_server_that_answers_badly_is_one_line(answer: bytes, message: str, tmp_path: Path) -> None:
    with answered(answer) as url, pytest.raises(BenchError, match=message) as caught:
        Plain(url, DIGEST, 10_000).into(tmp_path / "new" / "file")
    assert len(str(caught.value).splitlines()) == 1
    assert not list((tmp_path / "new").iterdir())


def test_a_length_that_the_server_does_not_say_is_unknown(tmp_path: Path) -> None:
    told: list[int | None] = []
    with answered(b"HTTP/1.0 200 OK\r\n\r\n" + CONTENT) as url:
        Plain(url, DIGEST, 10_000).into(tmp_path / "file", lambda _, total: told.append(total))
    assert set(told) == {None}


def test_a_place_that_cannot_be_written_is_named_and_not_blamed_on_the_server(source: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(BenchError, match=r"taken/new/file: Not a directory; choose another directory with --data-dir"):
        of(source).into(tmp_path / "taken" / "new" / "file")
