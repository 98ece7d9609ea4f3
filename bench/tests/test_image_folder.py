"""Folders of image files: layout, decoding, crops, workers, positions."""

import gc
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lngd_bench.errors import BenchError
from lngd_bench.tasks import SCALES
from lngd_bench.tasks.data import Batch, Split
from lngd_bench.tasks.datasets.image_folder import (
    ImageFolder,
    LoadedBatches,
    as_parts,
    open_image_folder,
    write_image_folder,
    written_once,
)
from lngd_bench.tasks.image_transform import DRAWS, MEAN, STD, evaluation_view, random_box
from lngd_bench.training.race import Place, plan, race, records_of

CLASSES, EACH, SIZE = 3, 8, 16
draws = st.lists(st.floats(0, 1, exclude_max=True), min_size=DRAWS, max_size=DRAWS)


def coloured(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise; every class is as frequent as any other."""
    images = torch.randint(256, (n, 20, 24, 3), generator=torch.Generator().manual_seed(n), dtype=torch.uint8)
    return images, torch.arange(n) % CLASSES


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_image_folder(tmp_path / "images", {"train": coloured(CLASSES * EACH), "val": coloured(7)})
    return tmp_path / "images"


def opened(root: Path, workers: int = 0) -> ImageFolder:
    return open_image_folder(root, SIZE, workers)


def source(root: Path, workers: int = 0, seed: int = 3) -> LoadedBatches:
    return opened(root, workers).batches(5, torch.Generator().manual_seed(seed))


def taken(batches: Iterator[Batch], count: int) -> list[Batch]:
    return [next(batches) for _ in range(count)]


def same(first: list[Batch], second: list[Batch]) -> bool:
    return all(torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in zip(first, second, strict=True))


def test_images_come_back_as_they_were_written(tmp_path: Path) -> None:
    """At 18 pixels the evaluation of size 16 resizes nothing: what is left is the centre."""
    images, labels = coloured(7)[0][:, :18, :18], coloured(7)[1]
    write_image_folder(tmp_path / "png", {"train": (images, labels), "val": (images, labels)}, "PNG")
    read, found = next(opened(tmp_path / "png").chunks(7))
    by_class = labels.argsort(stable=True)
    assert torch.equal(found, labels[by_class])
    pixels = (read.permute(0, 2, 3, 1) * torch.tensor(STD) + torch.tensor(MEAN)) * 255
    torch.testing.assert_close(pixels, images[by_class, 1:17, 1:17].float(), atol=1e-3, rtol=0)


def test_the_companions_that_a_mac_leaves_are_no_images(root: Path) -> None:
    count = len(open_image_folder(root, SIZE, 0).train)
    for image in list(root.rglob("*.JPEG")):
        image.with_name(f"._{image.name}").write_bytes(b"\x00\x05\x16\x07Mac OS X")
    assert len(open_image_folder(root, SIZE, 0).train) == count


def test_the_first_samples_mix_the_sorted_classes_in_the_same_order_each_time(root: Path) -> None:
    (root / "train" / "0" / "README.txt").write_text("no image")
    (root / "val" / "LICENSE").write_text("no class")
    few = opened(root).first(12)
    assert few.classes == ("0", "1", "2")
    paths = [few.train.path(row) for row in range(12)]
    assert [int(path.parent.name) for path in paths] == few.train.labels.tolist()
    assert len(few.train.labels.unique()) == CLASSES
    assert paths == [opened(root).train.path(row) for row in range(12)]
    with pytest.raises(BenchError, match="asks for 25 training samples, the data set has 24"):
        opened(root).first(25)


def test_the_last_tenth_is_held_out_and_seen_as_evaluation_samples_are(root: Path) -> None:
    folder = opened(root)
    held_out = folder.held_out()
    kept, evaluated = ({part.path(row) for row in range(len(part))} for part in (held_out.train, held_out.evaluated))
    assert (len(kept), len(evaluated)) == (22, 2)
    assert kept | evaluated == {folder.train.path(row) for row in range(24)}
    assert torch.equal(next(held_out.chunks(2))[0], next(held_out.chunks(2))[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "val").rename(root / "validation"), r"images/val: No such file or directory; expected are train/"),
        (lambda root: (root / "val" / "1").rename(root / "1"), r"images: train or val lacks the class 1"),
        (lambda root: [file.rename(file.with_suffix(".gif")) for file in (root / "train" / "2").iterdir()], r"2 holds no image"),
    ],
)
def test_another_layout_is_refused_with_the_folder_that_is_wrong(root: Path, change, message: str) -> None:
    change(root)
    with pytest.raises(BenchError, match=message):
        opened(root)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_format(path: Path) -> None:
    Image.new("RGB", (4, 4)).save(path, "BMP")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", [halve, other_format, Path.unlink])
def test_a_damaged_image_is_an_error_of_one_line_with_its_name_wherever_it_was_read(root: Path, workers: int, damage) -> None:
    folder = opened(root, workers)
    damage(folder.evaluated.path(4))
    with pytest.raises(BenchError, match=rf"^{folder.evaluated.path(4)}: [^\n]*$"):
        list(folder.chunks(3))


def test_batches_are_bit_equal_for_any_number_of_workers_and_draw_nothing_from_the_global_state(root: Path) -> None:
    before = torch.get_rng_state()
    assert same(taken(source(root, 0), 10), taken(source(root, 2), 10))
    assert [y.tolist() for _, y in opened(root, 2).chunks(3)] == [[0, 0, 0], [1, 1, 2], [2]]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [0, 2, 4, 6])
def test_batches_go_on_from_a_saved_position_anywhere_in_a_pass(root: Path, workers: int, done: int) -> None:
    whole, resumed = source(root, workers), source(root)
    taken(whole, done)
    position = whole.state_dict()
    resumed.load_state_dict(position)
    assert same(taken(resumed, 7), taken(whole, 7))


def test_closed_or_forgotten_batches_leave_no_worker_and_change_no_batch(root: Path) -> None:
    whole, closed = source(root), source(root, 2)
    for _ in range(2):
        assert same(taken(closed, 2), taken(whole, 2))
        assert len(multiprocessing.active_children()) == 2
        closed.close()
        assert multiprocessing.active_children() == []
    next(closed)
    del closed
    gc.collect()
    assert multiprocessing.active_children() == []


def test_images_are_written_once_and_leave_nothing_else(tmp_path: Path) -> None:
    split = Split(torch.randn(6, 1, 4, 4), torch.arange(6), torch.randn(6, 1, 4, 4), torch.arange(6))
    first = written_once("folder", lambda: split, tmp_path)
    assert written_once("folder", dict, tmp_path) == first == tmp_path / "folder"
    write_image_folder(first, as_parts(split))
    assert list(tmp_path.iterdir()) == [first]
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="folder can't be written"):
        write_image_folder(tmp_path / "file" / "folder", as_parts(split))


def test_the_run_in_a_race_is_the_same_with_workers(tmp_path: Path) -> None:
    tiny = SCALES["imagenet-resnet50"]["tiny"]

    def epochs(workers: int) -> list[tuple]:
        specs = plan([replace(tiny, data=lambda place: replace(tiny.data(place), workers=workers))], ["sgd", "lngd"], range(1))
        out = tmp_path / str(workers)
        list(race(specs, Place(out=out, data_dir=tmp_path)))
        return [(row.step, row.train_loss, row.eval_loss, row.metric) for r in records_of(specs, out) for row in r.epochs]

    assert epochs(0) == epochs(2)
    assert multiprocessing.active_children() == []


@given(st.integers(1, 3000), st.integers(1, 3000), draws)
def test_a_random_crop_lies_in_the_image_and_has_the_area_and_aspect_of_the_inception_rule(
    width: int, height: int, numbers: list[float]
) -> None:
    left, top, right, bottom = random_box(width, height, numbers)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    w, h = right - left, bottom - top
    if min(width, height) >= 200:  # up to rounding
        assert 3 / 4 * 0.97 <= w / h <= 4 / 3 * 1.03
        assert w * h / (width * height) >= 0.08 * 0.97 or not 1 / 2 < width / height < 2


@pytest.mark.parametrize(("width", "height"), [(512, 256), (256, 512), (640, 512), (256, 256)])
def test_an_evaluation_shows_the_centre_of_the_image_with_its_short_side_at_256(width: int, height: int) -> None:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    image = Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))
    scale = 256 / min(width, height)
    resized = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (resized.width - 224) // 2, (resized.height - 224) // 2
    expected = np.array(resized.crop((left, top, left + 224, top + 224))).astype(int)
    assert np.abs(np.array(evaluation_view(image, 224)).astype(int) - expected).max() <= 1
