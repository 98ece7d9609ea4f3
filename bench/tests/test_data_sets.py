"""Where data sets are found, how they are fetched, and what is read of MNIST's family and of CIFAR-10."""

import gzip
import hashlib
import io
import struct
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lngd_bench.cli.app import app
from lngd_bench.errors import BenchError
from lngd_bench.tasks import SCALES, TASKS
from lngd_bench.tasks.datasets import DATASETS, cifar10, mnist_family, places
from lngd_bench.tasks.datasets.cifar10 import ARCHIVE, FILES, FOLDER, load_cifar10_split
from lngd_bench.tasks.datasets.mnist_family import (
    FASHION,
    MNIST,
    TRAIN_LABELS,
    load_fashion_split,
    load_whole_mnist14_split,
    read_idx,
)

TRAIN_IMAGES = "train-images-idx3-ubyte"
RECORDS = 4  # of a CIFAR-10 file here


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without any data set."""
    monkeypatch.delenv("LNGD_DATA", raising=False)
    monkeypatch.setattr(places, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(mnist_family, "FASHION", replace(FASHION, system=()))
    monkeypatch.setattr(cifar10, "RECORDS", RECORDS)


def idx_bytes(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def write_small(directory: Path) -> Path:
    """The four files of MNIST's family with 3 training and 2 evaluation images."""
    directory.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 3), ("t10k", 2)):
        pixels = (np.arange(count * 784) % 251).astype(np.uint8).reshape(count, 28, 28)
        (directory / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(pixels)))
        (directory / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.arange(count, dtype=np.uint8))))
    return directory


def hashes_of(directory: Path) -> dict[str, str]:
    content = {path.stem: gzip.decompress(path.read_bytes()) for path in directory.iterdir()}
    return {name: hashlib.sha256(content[name]).hexdigest() for name in MNIST.hashes}


def lngd(*words: str) -> str:
    return CliRunner().invoke(app, list(words), catch_exceptions=False).output


def test_the_named_directory_comes_first_then_the_environment_variable_then_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = write_small(tmp_path / "cache" / "mnist")
    assert MNIST.found() == cached
    variable = write_small(tmp_path / "variable" / "mnist")
    monkeypatch.setenv("LNGD_DATA", str(variable.parent))
    assert MNIST.found() == variable
    named = write_small(tmp_path / "named")
    assert MNIST.found(named) == named


@pytest.mark.parametrize("data_set", DATASETS.values(), ids=DATASETS)
def test_a_data_set_that_is_nowhere_says_how_to_get_it(data_set, tmp_path: Path) -> None:
    missing = replace(data_set, system=(), module="no_such_module" if data_set.module else "")
    assert missing.where(tmp_path) is None
    with pytest.raises(BenchError, match="is in none of") as caught:
        missing.found(tmp_path)
    assert str(caught.value).endswith(f"Get it with: {data_set.command}")


def test_a_task_looks_for_its_data_without_reading_them(tmp_path: Path) -> None:
    for task in TASKS.values():
        with pytest.raises(BenchError, match=r"--data-dir .*nowhere: no such directory"):
            task.look_for_data(tmp_path / "nowhere")
    with pytest.raises(BenchError, match=r"imagenet is in none of .*register at image-net\.org"):
        SCALES["imagenet-resnet50"]["full"].look_for_data(tmp_path)
    TASKS["digits-mlp"].look_for_data()
    SCALES["wmt-transformer-big"]["tiny"].look_for_data(tmp_path)


@pytest.mark.parametrize("words", [["list"], ["fetch", "mnist"], ["ende"]], ids=lambda words: words[0])
def test_a_directory_that_does_not_exist_is_refused_and_not_made(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no such directory"):
        lngd("data", *words, "--data-dir", str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def test_fetched_files_are_checked_found_and_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_small(tmp_path / "source")
    small = replace(MNIST, hashes=hashes_of(source))
    monkeypatch.setattr(mnist_family, "MNIST", small)
    monkeypatch.setitem(DATASETS, "mnist", small)
    printed = lngd("data", "fetch", "mnist", "--url", source.as_uri()).splitlines()
    assert printed == [str(tmp_path / "cache" / "mnist" / name) for name in MNIST.hashes]
    assert len(load_whole_mnist14_split().train_x) == 3
    (source / f"{TRAIN_LABELS}.gz").unlink()
    assert len(list(small.fetch(source.as_uri()))) == 4


@pytest.mark.parametrize(
    "content",
    [gzip.compress(b"another", mtime=0), b"no gzip", gzip.compress(bytes(99), mtime=0)[:-9], b""],
    ids=["another", "no gzip", "cut", "empty"],
)
def test_another_content_is_refused_by_name_and_not_kept(content: bytes, tmp_path: Path) -> None:
    (tmp_path / f"{TRAIN_IMAGES}.gz").write_bytes(content)
    with pytest.raises(BenchError, match=rf"^[^\n]*{TRAIN_IMAGES}\.gz: [^\n]*$"):
        list(FASHION.fetch(tmp_path.as_uri(), tmp_path / "target"))
    assert not list((tmp_path / "target").iterdir())


@pytest.mark.parametrize("url", ["ftp2://host/x", "file:///nowhere/x", "https://[bad/x", "https://127.0.0.1:9/x", "x"])
def test_an_address_that_cannot_be_read_is_one_line_that_says_what_to_do(url: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"^[^\n]*nothing is kept\. Without a network put the file here yourself: [^\n]*$"):
        list(FASHION.fetch(url, tmp_path))


@pytest.mark.parametrize("damage", [lambda c: c[:3], lambda c: c[:-1], lambda c: gzip.compress(c)[:-9], lambda c: b"P5" + c])
def test_a_damaged_idx_file_is_refused_by_name(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    (write_small(tmp_path) / f"{TRAIN_LABELS}.gz").write_bytes(damage(idx_bytes(np.arange(3, dtype=np.uint8))))
    with pytest.raises(BenchError, match=rf"{TRAIN_LABELS}\.gz: "):
        load_fashion_split(tmp_path)


def test_files_of_the_other_member_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both name their files alike, and LNGD_DATA may hold the other's."""
    clothes = write_small(tmp_path / "clothes")
    other = replace(MNIST, is_in=lambda place: mnist_family._is_in(place, hashes_of(clothes)[TRAIN_LABELS]))
    assert other.where(clothes) is None
    assert MNIST.where(clothes) == str(clothes)


def test_the_fisher_task_at_full_scale_averages_squares_and_standardises_by_the_training_set(tmp_path: Path) -> None:
    """Against numpy in double precision."""
    directory = write_small(tmp_path / "mnist")
    split = SCALES["mnist-fisher"]["full"].data(tmp_path)
    train, test = (
        read_idx(directory / f"{part}-images-idx3-ubyte.gz", 3).reshape(-1, 14, 2, 14, 2).astype(np.float64).mean((2, 4))
        for part in ("train", "t10k")
    )
    for found, images in ((split.train_x, train), (split.test_x, test)):
        np.testing.assert_allclose(found.squeeze(1).numpy(), (images - train.mean()) / train.std(ddof=1), atol=1e-5)
    assert split.train_y.tolist() == [0, 1, 2]


def cifar_content(number: int) -> bytes:
    """Labels 0, 1, …; every pixel's value says which colour it has, so that a wrong order of planes shows."""
    lowest = np.repeat([0, 60, 120], 1024)
    pixels = np.random.default_rng(number).integers(lowest, lowest + 60, (RECORDS, 3072)).astype(np.uint8)
    return b"".join(bytes([(number * RECORDS + row) % 10]) + pixels[row].tobytes() for row in range(RECORDS))


def write_folder(directory: Path) -> Path:
    (directory / FOLDER).mkdir(parents=True)
    for number, name in enumerate(FILES):
        (directory / FOLDER / name).write_bytes(cifar_content(number))
    return directory


def write_archive(directory: Path) -> Path:
    """As its makers pack it: in no order, with a file of another name among it."""
    directory.mkdir(parents=True, exist_ok=True)
    contents = {"batches.meta.txt": b"airplane\n"} | {FILES[number]: cifar_content(number) for number in (5, 0, 3, 2, 4, 1)}
    with tarfile.open(directory / ARCHIVE, "w:gz") as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return directory


@pytest.mark.parametrize("write", [write_folder, write_archive])
def test_cifar_10_is_read_in_the_order_of_its_files_and_standardised_by_colour(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Against numpy, in double precision."""
    split = load_cifar10_split(write(tmp_path / "data"))
    assert split.train_y.tolist() == [number % 10 for number in range(20)]
    assert split.test_y.tolist() == [0, 1, 2, 3]
    raw = np.stack([np.frombuffer(cifar_content(n), np.uint8).reshape(RECORDS, -1)[:, 1:] for n in range(6)])
    raw = raw.reshape(6, RECORDS, 3, 32, 32).astype(np.float64)
    mean, std = raw[:5].mean((0, 1, 3, 4)), raw[:5].reshape(-1, 3, 1024).transpose(1, 0, 2).reshape(3, -1).std(1, ddof=1)
    expected = (raw[5] - mean[:, None, None]) / std[:, None, None]
    assert torch.allclose(split.test_x, torch.tensor(expected, dtype=torch.float32), atol=1e-4)


def test_a_damaged_or_incomplete_cifar_10_is_refused_by_name(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "cut") / ARCHIVE
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(BenchError, match=rf"{ARCHIVE}: damaged"):
        load_cifar10_split(archive.parent)
    folder = write_folder(tmp_path / "short")
    (folder / FOLDER / FILES[2]).write_bytes(cifar_content(2)[:-1])
    with pytest.raises(BenchError, match=rf"{FOLDER}: damaged"):
        load_cifar10_split(folder)
    (tmp_path / "other").mkdir()
    with tarfile.open(tmp_path / "other" / ARCHIVE, "w:gz"):
        pass
    with pytest.raises(BenchError, match=r"lacks data_batch_1\.bin.*not CIFAR-10's binary distribution"):
        load_cifar10_split(tmp_path / "other")
