"""Folders of image files: layout, decoding, workers, positions."""

import gc
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lngd_bench.errors import BenchError
from lngd_bench.tasks import SCALES
from lngd_bench.tasks.data import Batch, Split
from lngd_bench.tasks.datasets import DATASETS, places
from lngd_bench.tasks.datasets.image_folder import ImageFolder, open_image_folder
from lngd_bench.tasks.datasets.imagenet import load_imagenet
from lngd_bench.tasks.datasets.written_images import as_parts, write_image_folder, written_once
from lngd_bench.tasks.image_loading import LoadedBatches, Loading
from lngd_bench.tasks.image_transform import MEAN, STD
from lngd_bench.training.race import Place, plan, race, records_of

CLASSES, EACH, SIZE = 3, 8, 16


def coloured(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise; every class is as frequent as any other."""
    images = torch.randint(256, (n, 20, 24, 3), generator=torch.Generator().manual_seed(n), dtype=torch.uint8)
    return images, torch.arange(n) % CLASSES


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_image_folder(tmp_path / "images", {"train": coloured(CLASSES * EACH), "val": coloured(7)})
    return tmp_path / "images"


def opened(root: Path, workers: int = 0) -> ImageFolder:
    return open_image_folder(root, Loading(SIZE, workers))


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


def test_a_split_in_memory_is_written_with_all_its_grey_levels(tmp_path: Path) -> None:
    x, y = torch.arange(-3.0, 5).view(2, 1, 2, 2), torch.tensor([0, 1])
    parts = as_parts(Split(x, y, x, y))
    write_image_folder(tmp_path / "grey", parts, "PNG")
    with Image.open(tmp_path / "grey" / "val" / "1" / "000001.png") as image:
        assert np.array(image).tolist() == [[146, 182], [219, 255]]


def test_classes_are_the_sorted_folder_names_and_other_files_are_none(root: Path) -> None:
    (root / "train" / "0" / "README.txt").write_text("no image")
    (root / "val" / "LICENSE").write_text("no class")
    folder = opened(root)
    assert folder.classes == ("0", "1", "2")
    assert len(folder.train) == CLASSES * EACH
    names = {folder.train.path(row).parent.name: label for row, label in enumerate(folder.train.labels.tolist())}
    assert names == {"0": 0, "1": 1, "2": 2}


def test_the_first_samples_mix_the_classes_in_the_same_order_each_time(root: Path) -> None:
    few = opened(root).first(12)
    assert len(few.train.labels.unique()) == CLASSES
    assert [few.train.path(row) for row in range(12)] == [opened(root).train.path(row) for row in range(12)]
    with pytest.raises(BenchError, match="asks for 25 training samples, the data set has 24"):
        opened(root).first(25)


def test_the_last_tenth_is_held_out_and_seen_as_evaluation_samples_are(root: Path) -> None:
    folder = opened(root)
    held_out = folder.held_out()
    kept, evaluated = ({part.path(row) for row in range(len(part))} for part in (held_out.train, held_out.evaluated))
    assert (len(kept), len(evaluated)) == (22, 2)
    assert kept | evaluated == {folder.train.path(row) for row in range(24)}
    assert torch.equal(next(held_out.chunks(2))[0], next(held_out.chunks(2))[0])


def test_chunks_are_the_evaluation_set_in_order(root: Path) -> None:
    for workers in (0, 2):
        labels = [y.tolist() for _, y in opened(root, workers).chunks(3)]
        assert labels == [[0, 0, 0], [1, 1, 2], [2]]


def remove_part(root: Path) -> None:
    (root / "val").rename(root / "validation")


def flatten_part(root: Path) -> None:
    for folder in list((root / "val").iterdir()):
        folder.rename(root / folder.name)


def remove_class(root: Path) -> None:
    (root / "val" / "1").rename(root / "1")


def add_class(root: Path) -> None:
    write_image_folder(root / "val" / "more", {"x": coloured(1)})


def empty_class(root: Path) -> None:
    for file in (root / "train" / "2").iterdir():
        file.rename(file.with_suffix(".gif"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_part, r"images/val: No such file or directory; expected are train/<class>"),
        (flatten_part, r"images/val holds no class folders"),
        (remove_class, r"images/val lacks the class 1, which .*images/train has"),
        (add_class, r"images/train lacks the class more, which .*images/val has"),
        (empty_class, r"images/train/2 holds no image"),
    ],
)
def test_another_layout_is_refused_with_the_folder_that_is_wrong(root: Path, change, message: str) -> None:
    change(root)
    with pytest.raises(BenchError, match=message):
        opened(root)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", [halve, lambda path: path.write_bytes(b"no image"), Path.unlink])
def test_a_damaged_image_is_an_error_with_its_name_wherever_it_was_read(root: Path, workers: int, damage) -> None:
    folder = opened(root, workers)
    damage(folder.evaluated.path(4))
    with pytest.raises(BenchError, match=rf"^{folder.evaluated.path(4)}: [^\n]*$"):
        list(folder.chunks(3))
    batches = source(root, workers)
    damage(batches.files.path(int(batches.position.rows[1][2])))
    next(batches)
    with pytest.raises(BenchError, match=r"^[^\n]*train/\d/\d+\.jpeg: [^\n]*$"):
        next(batches)


def test_batches_are_bit_equal_for_any_number_of_workers(root: Path) -> None:
    assert same(taken(source(root, 0), 10), taken(source(root, 2), 10))


def test_another_seed_or_pass_gives_other_crops(root: Path) -> None:
    first, second = (taken(source(root, seed=seed), 8) for seed in (0, 1))
    assert not same(first, second)
    assert len({images.sum().item() for images, _ in first}) == 8


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [0, 2, 4, 6])
def test_batches_go_on_from_a_saved_position_anywhere_in_a_pass(root: Path, workers: int, done: int) -> None:
    whole, resumed = source(root, workers), source(root)
    taken(whole, done)
    position = whole.state_dict()
    resumed.load_state_dict(position)
    assert same(taken(resumed, 7), taken(whole, 7))


def test_a_resumed_run_reads_no_image_that_it_skips(root: Path) -> None:
    whole = source(root)
    skipped = [whole.files.path(row) for rows in whole.position.rows[:2] for row in rows.tolist()]
    taken(whole, 2)
    for path in skipped:
        path.write_bytes(b"gone")
    resumed = source(root)
    resumed.load_state_dict(whole.state_dict())
    assert same(taken(resumed, 2), taken(whole, 2))


def test_closing_ends_the_workers_and_changes_no_batch(root: Path) -> None:
    whole, closed = source(root), source(root, 2)
    for _ in range(3):
        assert same(taken(closed, 2), taken(whole, 2))
        assert len(multiprocessing.active_children()) == 2
        closed.close()
        assert multiprocessing.active_children() == []


def test_forgotten_batches_leave_no_worker(root: Path) -> None:
    batches = source(root, 2)
    next(batches)
    del batches
    gc.collect()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_the_global_random_state_alone(root: Path, workers: int) -> None:
    before = torch.get_rng_state()
    taken(source(root, workers), 5)
    list(opened(root, workers).chunks(3))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_missing_imagenet_says_where_it_was_looked_for_and_where_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "CACHE", tmp_path / "cache")
    monkeypatch.setenv("LNGD_DATA", str(tmp_path / "named"))
    with pytest.raises(BenchError, match=r"named/imagenet.*cache/imagenet: register at image-net\.org.*train/<class>"):
        load_imagenet()
    assert DATASETS["imagenet"].where(None) is None


def test_a_folder_of_other_classes_is_not_imagenet(root: Path) -> None:
    root.rename(root.with_name("imagenet"))
    with pytest.raises(BenchError, match="has 3 classes, ImageNet has 1000"):
        load_imagenet(root.parent)


def test_images_are_written_once_and_leave_nothing_else(tmp_path: Path) -> None:
    parts = {"train": coloured(6), "val": coloured(3)}
    first = written_once("folder", lambda: parts, tmp_path)
    assert first == tmp_path / "folder"
    assert written_once("folder", dict, tmp_path) == first
    write_image_folder(first, parts)
    assert list(tmp_path.iterdir()) == [first]


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="folder can't be written"):
        write_image_folder(tmp_path / "file" / "folder", {"train": coloured(3)})


def test_the_run_in_a_race_is_the_same_with_workers(tmp_path: Path) -> None:
    tiny = SCALES["imagenet-resnet50"]["tiny"]

    def epochs(workers: int) -> list[tuple]:
        def data(data_dir: Path | None) -> ImageFolder:
            folder = tiny.data(data_dir)
            return replace(folder, loading=replace(folder.loading, workers=workers))

        specs = plan([replace(tiny, data=data)], ["sgd", "lngd"], range(1))
        out = tmp_path / str(workers)
        list(race(specs, Place(out=out, data_dir=tmp_path)))
        return [(row.step, row.train_loss, row.eval_loss, row.metric) for r in records_of(specs, out) for row in r.epochs]

    assert epochs(0) == epochs(2)
    assert multiprocessing.active_children() == []


def test_the_papers_budgets_schedules_and_warm_up() -> None:
    full, here = (SCALES["imagenet-resnet50"][scale] for scale in ("full", "here"))
    assert [full.of(name).total_steps for name in ("sgd", "muon", "lngd")] == [80 * 5004, 80 * 5004, 50 * 5004]
    assert [here.of(name).total_steps for name in ("sgd", "muon", "lngd")] == [320, 320, 200]
    for name, epochs in (("sgd", 80), ("adamw", 80), ("kfac", 50)):
        schedule = full.of(name).schedule
        total = full.of(name).total_steps
        assert schedule(5 * 5004 - 1, total, 0.1) == 1
        assert schedule(0, total, 0.1) == pytest.approx(1 / (5 * 5004))
        assert str(schedule).startswith(f"{500 / epochs:g} % warm-up")
    assert full.of("lngd").schedule(0, 100, 0.1) == 1
