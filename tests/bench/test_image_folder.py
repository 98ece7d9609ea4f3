import math
import random
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lngd.bench.data import Batch
from lngd.bench.datasets import imagenet, places
from lngd.bench.datasets.image_folder import MEAN, STD, ImageFolder, read_folder
from lngd.bench.datasets.picture_files import written_once
from lngd.bench.errors import BenchError
from lngd.bench.image_transform import Transform, middle, random_box
from lngd.bench.models.resnet50 import ResNet50
from lngd.bench.tasks.imagenet_resnet50 import FULL, NEWTON

CLASSES = ("n01440764", "n01443537", "n01484850")


def write_folder(directory: Path, each: int = 8) -> Path:
    """ImageNet's layout with small pictures of noise around a colour of the class, of different sizes and endings."""
    draw = torch.Generator().manual_seed(0)
    for part, count in (("train", each), ("val", 2)):
        for label, name in enumerate(CLASSES):
            folder = directory / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                width, height = (int(torch.randint(20, 60, (), generator=draw)) for _ in range(2))
                pixels = torch.randint(60, (height, width, 3), generator=draw) + 60 * label
                ending = ("JPEG", "jpg", "png")[number % 3]
                Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / f"{name}_{number}.{ending}")
    return directory


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("pictures"))


def taken(data: ImageFolder, count: int, seed: int = 3) -> list[Batch]:
    return list(islice(data.batches(4, torch.Generator().manual_seed(seed)), count))


def same(first: list[Batch], second: list[Batch]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(x, other_x) and torch.equal(y, other_y) for (x, y), (other_x, other_y) in pairs)


def test_a_folder_is_its_classes_in_the_order_of_their_names(folder: Path) -> None:
    data = read_folder(folder, 16)
    assert (len(data.train), len(data.test)) == (24, 6)
    assert {(path.parent.name, label) for path, label in data.train} == {(name, label) for label, name in enumerate(CLASSES)}
    assert [label for _, label in data.test] == [0, 0, 1, 1, 2, 2]


def test_the_first_samples_are_of_all_classes_and_always_the_same(folder: Path) -> None:
    first = read_folder(folder, 16).first(12)
    assert first.train == read_folder(folder, 16).train[:12]
    assert {label for _, label in first.train} == {0, 1, 2}
    with pytest.raises(BenchError, match="asks for 25 training samples, the data set has 24"):
        read_folder(folder, 16).first(25)


def test_held_out_pictures_evaluate_and_are_not_trained_on(folder: Path) -> None:
    data = read_folder(folder, 16)
    held_out = data.held_out()
    assert [*held_out.train, *held_out.test] == list(data.train)
    assert len(held_out.test) == 2


def test_batches_are_the_same_with_and_without_worker_processes(folder: Path) -> None:
    alone, helped = (read_folder(folder, 16, workers) for workers in (0, 2))
    assert same(taken(alone, 9), taken(helped, 9))
    assert same(list(alone.chunks(4)), list(helped.chunks(4)))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("before", [0, 2, 6, 7])
def test_batches_go_on_exactly_from_a_saved_position(folder: Path, before: int, workers: int) -> None:
    data = read_folder(folder, 16, workers)
    whole = data.batches(4, torch.Generator().manual_seed(1))
    for _ in range(before):
        next(whole)
    position = whole.state_dict()
    resumed = data.batches(4, torch.Generator().manual_seed(99))
    resumed.load_state_dict({**position})
    rest, again = ([next(source) for _ in range(5)] for source in (whole, resumed))
    assert all(torch.equal(y, other) for (_, y), (_, other) in zip(rest, again, strict=True))


def test_going_on_decodes_nothing_that_was_used_already(folder: Path, tmp_path: Path) -> None:
    """The skipped pictures may even be gone."""
    data = read_folder(write_folder(tmp_path / "copy"), 16)
    source = data.batches(4, torch.Generator().manual_seed(1))
    rows = [row for batch in source.rows[:3] for row in batch.tolist()]
    state = source.state_dict() | {"taken": 3}
    for row in rows:
        data.train[row][0].unlink()
    resumed = data.batches(4, torch.Generator().manual_seed(1))
    resumed.load_state_dict(state)
    assert len(list(islice(resumed, 3))) == 3


def test_a_pass_uses_every_picture_once_and_each_time_another_crop(folder: Path) -> None:
    data = replace(read_folder(folder, 16), train=read_folder(folder, 16).train[:4])
    (first, labels), (second, again) = taken(data, 2)
    assert sorted(labels.tolist()) == sorted(again.tolist())
    assert not any(torch.equal(one, other) for one in first for other in second)


def test_values_are_normalised_by_imagenets_colours(tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.new("RGB", (40, 30), (10, 120, 250)).save(tmp_path / part / "a" / "x.png")
    ((images, _),) = read_folder(tmp_path, 16).chunks(4)
    expected = [(value / 255 - mean) / std for value, mean, std in zip((10, 120, 250), MEAN, STD, strict=True)]
    assert torch.allclose(images, torch.tensor(expected).view(1, 3, 1, 1).expand(1, 3, 16, 16), atol=1e-5)


@given(width=st.integers(1, 500), height=st.integers(1, 500), seed=st.integers(0, 2**31))
def test_a_random_crop_lies_in_the_picture_with_a_share_and_a_shape_in_range(width: int, height: int, seed: int) -> None:
    left, top, right, bottom = random_box(width, height, random.Random(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    w, h = right - left, bottom - top
    in_rule = 0.08 * width * height <= (w + 1) * (h + 1) and (w - 1) / (h + 1) <= 4 / 3 and (w + 1) / max(h - 1, 0.5) >= 3 / 4
    assert in_rule or (left, top, right, bottom) == middle(width, height, w, h)


def test_random_crops_cover_the_range_of_areas_and_shapes() -> None:
    draw = random.Random(0)
    boxes = [random_box(300, 300, draw) for _ in range(2000)]
    areas = sorted((right - left) * (bottom - top) / 90_000 for left, top, right, bottom in boxes)
    ratios = sorted((right - left) / (bottom - top) for left, top, right, bottom in boxes)
    assert areas[0] < 0.1
    assert areas[-1] > 0.9
    assert abs(math.log(ratios[1000])) < 0.05
    assert ratios[0] < 0.78
    assert ratios[-1] > 1.28


def test_an_evaluation_crop_is_the_middle() -> None:
    picture = Image.new("RGB", (120, 60), (0, 0, 0))
    picture.paste((255, 255, 255), (55, 25, 65, 35))
    crop = Transform(28).evaluation(picture).float().mean(0)
    rows, columns = (crop.sum(axis) for axis in (1, 0))
    for marginal in (rows, columns):
        centre = (marginal * torch.arange(28)).sum() / marginal.sum()
        assert abs(centre.item() - 13.5) < 0.6


def test_a_mirrored_crop_occurs_half_of_the_time() -> None:
    picture = Image.new("RGB", (8, 8), (0, 0, 0))
    picture.paste((255, 0, 0), (0, 0, 4, 8))
    crops = [Transform(8).training(picture, seed).float()[0] for seed in range(400)]
    brighter_left = sum((crop[:, 0].mean() > crop[:, -1].mean()).item() for crop in crops)
    brighter_right = sum((crop[:, 0].mean() < crop[:, -1].mean()).item() for crop in crops)
    assert abs(brighter_left - brighter_right) < 80


BROKEN = {
    "cut": lambda good: good[: len(good) // 2],
    "empty": lambda good: good[:0],
    "text": lambda good: b"this is no picture of " + good[:2],
    "garbled": lambda good: good[:2] + bytes(len(good) - 2),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_picture_is_refused_by_name(tmp_path: Path, broken, workers: int) -> None:
    write_folder(tmp_path, 2)
    path = tmp_path / "val" / CLASSES[1] / f"{CLASSES[1]}_0.JPEG"
    path.write_bytes(broken(path.read_bytes()))
    with pytest.raises(BenchError) as caught:
        list(read_folder(tmp_path, 16, workers).chunks(2))
    assert str(caught.value).startswith(f"{path}: not a readable picture (")
    assert len(str(caught.value).splitlines()) == 1


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(BenchError, match="not a readable picture"):
        list(read_folder(tmp_path, 16).chunks(2))


def test_parts_with_different_classes_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, 1)
    (tmp_path / "val" / CLASSES[0]).rename(tmp_path / "val" / "n99")
    with pytest.raises(BenchError, match="train and val must have the same classes; n01440764, n99 is in one"):
        read_folder(tmp_path, 16)


def test_a_missing_part_and_an_empty_class_are_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"train is missing: pictures lie in train/CLASS/"):
        read_folder(tmp_path, 16)
    write_folder(tmp_path, 1)
    (tmp_path / "train" / "n0empty").mkdir()
    with pytest.raises(BenchError, match="classes n0empty hold no picture"):
        read_folder(tmp_path, 16)


def test_missing_imagenet_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LNGD_DATA", raising=False)
    monkeypatch.setattr(places, "CACHE", tmp_path / "none")
    with pytest.raises(BenchError, match=r"image-net\.org, then put train/CLASS"):
        FULL.data(tmp_path)
    assert imagenet.place(tmp_path) is None
    write_folder(tmp_path / "imagenet", 1)
    assert imagenet.place(tmp_path) == str(tmp_path / "imagenet")


def test_images_are_written_once_as_files_that_read_back(tmp_path: Path) -> None:
    images = (torch.arange(4).view(4, 1, 1, 1) * 60).expand(4, 1, 16, 16).to(torch.uint8)
    labels = torch.tensor([0, 1, 0, 1])
    directory = tmp_path / "made"
    assert written_once(directory, (images, labels), (images, labels)) == directory
    data = read_folder(directory, 16)
    ((seen, found),) = data.chunks(8)
    levels = (seen * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)).mean((1, 2, 3)) * 255
    assert torch.allclose(levels, torch.tensor([0.0, 120.0, 60.0, 180.0]), atol=3)
    assert found.tolist() == [0, 0, 1, 1]
    stamp = (directory / "train" / "0" / "00000.jpg").stat().st_mtime_ns
    written_once(directory, (images, labels), (images, labels))
    assert (directory / "train" / "0" / "00000.jpg").stat().st_mtime_ns == stamp


def test_a_folder_that_was_broken_off_is_made_anew(tmp_path: Path) -> None:
    images, labels = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1])
    left = tmp_path / "made.new" / "train" / "7"
    left.mkdir(parents=True)
    written_once(tmp_path / "made", (images, labels), (images, labels))
    assert sorted(path.name for path in (tmp_path / "made" / "train").iterdir()) == ["0", "1"]
    assert not (tmp_path / "made.new").exists()


def test_resnet_50_is_the_originals_size() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in ResNet50().parameters()) == 25_557_032


def test_first_and_second_order_methods_have_the_papers_lengths_and_schedules() -> None:
    lengths = {name: FULL.of(name).total_epochs for name in ("sgd", "adamw", *NEWTON)}
    assert (lengths["sgd"], lengths["adamw"], lengths["kfac"], lengths["lngd"]) == (80, 80, 50, 50)
    steps = FULL.steps_an_epoch
    sgd, lngd = FULL.of("sgd"), FULL.of("lngd")
    assert sgd.schedule(0, 80 * steps, 0.1) == pytest.approx(1 / (5 * steps), rel=1e-3)
    assert sgd.schedule(5 * steps, 80 * steps, 0.1) == pytest.approx(
        (0.001 + 0.5 * (0.1 - 0.001) * (1 + math.cos(2 * 0.47 * math.pi * 5 / 80))) / 0.1
    )
    assert lngd.schedule(0, 50 * steps, 1.0) == 1
    assert lngd.schedule(25 * steps, 50 * steps, 1.0) == pytest.approx(0.5**4)
