"""MNIST from files that the test writes, and what holds for every member of its family."""

import gzip
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lngd_bench.errors import BenchError
from lngd_bench.tasks import SCALES
from lngd_bench.tasks.datasets import idx_images, mnist, places
from lngd_bench.tasks.datasets.idx import idx_of, read_idx
from lngd_bench.tasks.datasets.mnist import MNIST, load_whole_mnist14_split
from test_fashion import small_hashes, write_small
from test_idx import idx_bytes

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without the data set."""
    monkeypatch.delenv("LNGD_DATA", raising=False)
    monkeypatch.setattr(places, "CACHE", tmp_path / "cache")


def bytes_of(directory: Path, part: str) -> np.ndarray:
    content = gzip.decompress((directory / f"{part}-images-idx3-ubyte.gz").read_bytes())
    return np.frombuffer(content[16:], np.uint8).reshape(-1, 28, 28)


def test_it_is_found_in_its_directory_among_data_sets_and_keeps_the_order_of_the_labels(tmp_path: Path) -> None:
    write_small(tmp_path / "data" / "mnist")
    split = MNIST.load(tmp_path / "data")
    assert split.train_x.shape == (3, 1, 28, 28)
    assert split.train_y.tolist() == [0, 1, 2]
    assert split.test_y.tolist() == [0, 1]


def test_the_fisher_task_at_full_scale_averages_squares_of_bytes_and_standardises_by_the_training_set(tmp_path: Path) -> None:
    """Against numpy in double precision."""
    directory = write_small(tmp_path / "mnist")
    split = SCALES["mnist-fisher"]["full"].data(tmp_path)
    train, test = (
        bytes_of(directory, part).reshape(-1, 14, 2, 14, 2).astype(np.float64).mean((2, 4)) for part in ("train", "t10k")
    )
    for found, images in ((split.train_x, train), (split.test_x, test)):
        expected = (images - train.mean()) / train.std(ddof=1)
        assert found.shape == (len(images), 1, 14, 14)
        np.testing.assert_allclose(found.squeeze(1).numpy(), expected, atol=1e-5)


def test_missing_data_name_the_command_that_gets_them(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"MNIST is in none of .*Get it with: lngd data fetch mnist"):
        load_whole_mnist14_split(tmp_path)


def test_fetched_files_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_small(tmp_path / "source")
    monkeypatch.setattr(mnist, "MNIST", replace(MNIST, hashes=small_hashes(source)))
    assert [path.name for path in mnist.MNIST.fetch(source.as_uri())] == [f"{name}.gz" for name in MNIST.hashes]
    assert mnist.MNIST.place() == str(tmp_path / "cache" / "mnist")
    assert len(load_whole_mnist14_split().train_x) == 3


def test_whole_files_of_another_member_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All members name their files alike, and LNGD_DATA may hold another's."""
    monkeypatch.setattr(idx_images, "WHOLE", 3)
    monkeypatch.setenv("LNGD_DATA", str(write_small(tmp_path / "clothes")))
    assert MNIST.place() is None
    labels = gzip.decompress((tmp_path / "clothes" / f"{LABELS}.gz").read_bytes())
    own = replace(MNIST, hashes={**MNIST.hashes, LABELS: hashlib.sha256(labels).hexdigest()})
    assert own.place() == str(tmp_path / "clothes")


def test_an_idx_file_written_again_is_the_same_file(tmp_path: Path) -> None:
    content = idx_bytes(2, 3, 4)
    (tmp_path / "file").write_bytes(content)
    assert idx_of(read_idx(tmp_path / "file", 3)) == content


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (LABELS, idx_bytes(2), "2 labels for 3 images"),
        (LABELS, idx_bytes(4), "4 labels for 3 images"),
        (LABELS, idx_bytes(3, values=b"\x00\x09\x0a"), "record 2 has label 10"),
        (LABELS, idx_bytes(3)[:-1], "room for 2"),
        (IMAGES, idx_bytes(3, 28, 27, values=bytes(3 * 28 * 27)), r"the images are \(3, 28, 27\), not some of 28×28"),
        (IMAGES, idx_bytes(0, 28, 28), r"the images are \(0, 28, 28\)"),
        (IMAGES, idx_bytes(0, 2**32 - 1, 28, values=b""), r"the images are \(0, 4294967295, 28\)"),
        (IMAGES, idx_bytes(3, 28, 28, values=b"\x07" * 3 * 784), "every pixel has the value 7"),
    ],
)
def test_files_that_do_not_fit_together_are_refused_by_name(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (write_small(tmp_path / "mnist") / f"{name}.gz").unlink()
    (tmp_path / "mnist" / name).write_bytes(content)
    with pytest.raises(BenchError, match=f"{name}: .*{message}"):
        MNIST.load(tmp_path)


def test_a_directory_in_the_place_of_a_file_is_refused_by_name(tmp_path: Path) -> None:
    (write_small(tmp_path / "mnist") / f"{IMAGES}.gz").unlink()
    (tmp_path / "mnist" / IMAGES).mkdir()
    with pytest.raises(BenchError, match=f"{IMAGES}: Is a directory"):
        MNIST.load(tmp_path)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_garbled_file_is_read_or_refused_never_anything_else(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = write_small(tmp_path_factory.mktemp("garbled"))
    name = data.draw(st.sampled_from(sorted(MNIST.hashes)))
    packed = directory / f"{name}.gz"
    garbled = bytearray(packed.read_bytes() if data.draw(st.booleans()) else gzip.decompress(packed.read_bytes()))
    garbled[data.draw(st.integers(0, min(len(garbled) - 1, 40)))] ^= data.draw(st.integers(0, 255))
    packed.write_bytes(garbled[: data.draw(st.just(len(garbled)) | st.integers(0, len(garbled)))])
    try:
        split = MNIST.load(directory)
    except BenchError as error:
        assert str(directory) in str(error)  # noqa: PT017  either outcome is right
    else:
        assert len(split.train_x) == len(split.train_y)
        assert torch.cat([split.train_x, split.test_x]).isfinite().all()
