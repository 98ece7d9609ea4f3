"""Figs. 1, 5 and 6 drawn again from records."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lngd.linalg import Damping
from lngd_bench.errors import BenchError
from lngd_bench.studies.fisher.blocks import EVENT, FILE, FisherBlocks, kronecker_factors, read_blocks
from lngd_bench.studies.fisher.command import draw_blocks
from lngd_bench.studies.fisher.compare import approximate
from lngd_bench.studies.fisher.exact import ExactCurvature
from lngd_bench.studies.fisher.figures import weights_only
from lngd_bench.studies.fisher.redraw import REDRAWN, place_of
from lngd_bench.studies.gaussian import records as gaussian_records
from lngd_bench.studies.gaussian.drawing import MOST_POINTS, Picture, draw, pictured
from lngd_bench.studies.gaussian.figure import Stage, observe
from lngd_bench.training.records import Header
from reference import batch, mlp

HEADER = Header(
    task="a-task",
    optimizer="lngd",
    seed=0,
    lr=0.1,
    config={"title": "A net", "total_steps": 7},
    torch="2",
    device="cpu",
    threads=1,
    machine="a machine",
    date="2026-01-01",
    command="lngd gaussian",
)


@pytest.fixture(scope="module")
def curvature() -> ExactCurvature:
    return ExactCurvature(mlp(4, 5, 3), batch(12, 4)[0])


def dense_blocks(curvature: ExactCurvature) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    found = {name: approximate(curvature, "0", name, Damping(0.1)).dense() for name in ("LNGD", "K-FAC", "TKFAC")}
    return weights_only(curvature.fisher("0"), 5), {name: weights_only(block, 5) for name, block in found.items()}


def test_blocks_come_back_from_their_line_within_its_precision(curvature) -> None:
    exact, dense = dense_blocks(curvature)
    line = json.loads(json.dumps(FisherBlocks.of("a title", exact, dense, 5).line(), allow_nan=False))
    found = FisherBlocks.from_line(line)
    assert (found.title, found.outputs) == ("a title", 5)
    torch.testing.assert_close(found.exact, exact, rtol=1e-3, atol=1e-6 * exact.abs().max().item())
    for name, block in dense.items():
        torch.testing.assert_close(found.dense()[name], block, rtol=1e-5, atol=1e-6 * block.abs().max().item())


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
def test_the_factors_of_a_kronecker_product_are_its_partial_traces(inputs: int, outputs: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(n, n + 1, dtype=torch.double, generator=generator) for n in (inputs, outputs))
    block = torch.kron(x @ x.T, y @ y.T)
    torch.testing.assert_close(torch.kron(*kronecker_factors(block, outputs)), block)


def test_a_block_of_zeros_has_factors_of_zeros() -> None:
    assert not torch.kron(*kronecker_factors(torch.zeros(6, 6), 2)).any()


def recorded_blocks(curvature: ExactCurvature, directory: Path) -> FisherBlocks:
    blocks = FisherBlocks.of("a title", *dense_blocks(curvature), 5)
    lines = [{"event": "start"}, blocks.line(), {"event": "end"}]
    (directory / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return blocks


@pytest.mark.parametrize("number", ["1", "5"])
def test_a_figure_of_blocks_drawn_again_is_the_same(number: str, curvature, tmp_path: Path) -> None:
    first = draw_blocks(number, recorded_blocks(curvature, tmp_path), tmp_path).read_bytes()
    again = tmp_path / "again"
    again.mkdir()
    assert REDRAWN[number].draw(tmp_path, again).read_bytes() == first


def stages() -> list[Stage]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 150), torch.nn.ReLU(), torch.nn.Linear(150, 3))
    return observe(model, [torch.randn(60, 5)], "0")


def recorded_layers(directory: Path) -> list[Picture]:
    found = stages()
    pictures = [pictured(stage) for stage in found]
    gaussian_records.write(directory / gaussian_records.FILE, HEADER, 0.9, found, pictures)
    return pictures


def test_the_figure_of_layers_drawn_again_is_the_same(tmp_path: Path) -> None:
    pictures = recorded_layers(tmp_path)
    first = draw(pictures, tmp_path / "first.png", "A net: 60 samples after 7 steps").read_bytes()
    assert REDRAWN["6"].draw(tmp_path, tmp_path).read_bytes() == first


def test_bars_count_every_sample_that_is_not_zero_and_points_are_shares_of_coordinates() -> None:
    stage = stages()[1]
    picture, values = pictured(stage), stage.coordinate.values
    assert sum(picture.coordinate.counts) == (values != 0).sum()
    assert picture.coordinate.n == len(values)
    known = np.sort(stage.every["distance"].numpy()[np.isfinite(stage.every["distance"].numpy())])
    assert len(known) > MOST_POINTS == len(picture.distances["distance"])
    for k, point in enumerate(picture.distances["distance"], 1):
        share = (known <= point * (1 + 1e-5)).mean()
        assert k / MOST_POINTS <= share < k / MOST_POINTS + 2 / len(known)


def without(event: str, path: Path) -> None:
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if line["event"] != event))


def test_an_old_record_of_blocks_says_which_command_makes_a_new_one(curvature, tmp_path: Path) -> None:
    recorded_blocks(curvature, tmp_path)
    without(EVENT, tmp_path / FILE)
    with pytest.raises(BenchError, match=f"from before records kept the blocks.*lngd fisher --out {tmp_path} makes a new one"):
        read_blocks(tmp_path)


def test_an_old_record_of_layers_says_which_command_makes_a_new_one(tmp_path: Path) -> None:
    recorded_layers(tmp_path)
    path = tmp_path / gaussian_records.FILE
    path.write_text(path.read_text().replace('"counts"', '"numbers"'))
    with pytest.raises(BenchError, match=f"from before records kept the bars.*lngd gaussian --out {tmp_path} makes a new one"):
        gaussian_records.read(tmp_path)


def changed(path: Path, event: str, change: Callable[[dict], None]) -> None:
    """The last line of the event, changed."""
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    change([line for line in lines if line["event"] == event][-1])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("inputs", 10**9),
        ("inputs", 0),
        ("outputs", 4),
        ("inputs", float("inf")),
        ("exact", "AAAA"),
        ("exact", None),
        ("largest", float("nan")),
        ("factors", {}),
        ("factors", {"LNGD": ["AAAA", "AAAA"]}),
        ("factors", 3),
    ],
)
def test_a_damaged_record_of_blocks_is_refused_by_name(key: str, value: object, curvature, tmp_path: Path) -> None:
    recorded_blocks(curvature, tmp_path)
    changed(tmp_path / FILE, EVENT, lambda line: line.update({key: value}))
    with pytest.raises(BenchError, match=f"{tmp_path / FILE}: not a readable record"):
        read_blocks(tmp_path)


@pytest.mark.parametrize(
    ("event", "key", "value"),
    [
        ("sample", "counts", []),
        ("sample", "counts", [0] * 10**4),
        ("sample", "n", 0),
        ("sample", "low", float("nan")),
        ("sample", "mean", "many"),
        ("coordinates", "stage", "input"),
        ("coordinates", "stage", "pre-activation"),
        ("coordinates", "normal", {}),
        ("coordinates", "normal", None),
    ],
)
def test_a_damaged_record_of_layers_is_refused_by_name(event: str, key: str, value: object, tmp_path: Path) -> None:
    recorded_layers(tmp_path)
    changed(tmp_path / gaussian_records.FILE, event, lambda line: line.update({key: value}))
    with pytest.raises(BenchError, match=f"{tmp_path / gaussian_records.FILE}: not a readable record"):
        gaussian_records.read(tmp_path)


@pytest.mark.parametrize("text", ["", "\n", "[]\n", "3\n4\n5\n6\n", "{", '{"event": "start"}\n{"counts": []}\n'])
@pytest.mark.parametrize("read", [partial(read_blocks), partial(gaussian_records.read)])
def test_a_file_that_is_no_record_is_one_line(text: str, read: Callable[[Path], object], tmp_path: Path) -> None:
    for name in (FILE, gaussian_records.FILE):
        (tmp_path / name).write_text(text)
    with pytest.raises(BenchError, match="makes a new one"):
        read(tmp_path)


@pytest.mark.parametrize(("number", "command"), [("1", "fisher"), ("5", "fisher"), ("6", "gaussian")])
def test_a_place_without_a_record_says_which_command_makes_one(number: str, command: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BenchError, match=f"in docs/results/{command} or runs/{command}: name its directory"):
        place_of(number)
    with pytest.raises(BenchError, match=f"lngd {command} --out . makes one"):
        REDRAWN[number].draw(Path(), tmp_path)
    (tmp_path / "runs" / command).mkdir(parents=True)
    (tmp_path / "runs" / command / REDRAWN[number].record.file).touch()
    assert place_of(number) == Path("runs", command)
