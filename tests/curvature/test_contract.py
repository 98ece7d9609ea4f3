"""What every curvature block promises, against dense linear algebra and loops over samples and positions."""

import math

import pytest
import torch
from torch import Tensor

from curvature.blocks import BLOCKS, every_block
from lngd.curvature import CurvatureBlock
from lngd.linalg import Damping, NotPositiveDefiniteError
from reference import positionwise_fisher, statistics

DOUBLE = torch.float64
GROUPS = [(), (3,)]
DAMPINGS = [Damping(0.3), Damping(1.0, (1e-5, 1e-2)), Damping(0.0, (0.5, math.inf)), Damping(1e-3, (1e-5, math.inf))]
FLOOR = Damping(0.3, (1e-5, math.inf))
every_group = pytest.mark.parametrize("group", GROUPS)


def data(*group: int, n: int = 6, s: int = 4, i: int = 5, o: int = 3, dtype: torch.dtype = DOUBLE) -> tuple[Tensor, Tensor]:
    return torch.randn(*group, n, s, i, dtype=DOUBLE).to(dtype), torch.randn(*group, n, s, o, dtype=DOUBLE).to(dtype)


def updated(block: CurvatureBlock, *batches: tuple[Tensor, Tensor]) -> CurvatureBlock:
    for a, g in batches:
        block.update(block.measure(a, g), 0.95)
    return block


def refreshed(block: CurvatureBlock, a: Tensor, g: Tensor, damping: Damping) -> CurvatureBlock:
    """Measured, refreshed, measured again on the same data: EKFAC has its own eigenvalues, λ is as at the refresh."""
    updated(block, (a, g)).refresh(damping)
    return updated(block, (a, g))


@pytest.mark.parametrize("damping", DAMPINGS)
@every_group
@every_block
def test_precondition_inverts_the_damped_dense_block(kind, group, damping):
    block = refreshed(BLOCKS[kind](), *data(*group), damping)
    gradient = torch.randn(*group, 3, 5, dtype=DOUBLE)
    solved = torch.linalg.solve(block.dense(damping), gradient.flatten(-2))
    torch.testing.assert_close(block.precondition(gradient), solved.reshape(gradient.shape))


@every_block
def test_precondition_inverts_the_dense_block_without_any_damping(kind):
    block = refreshed(BLOCKS[kind](), *data(n=20), Damping(0.0))
    gradient = torch.randn(3, 5, dtype=DOUBLE)
    solved = torch.linalg.solve(block.dense(0.0), gradient.flatten())
    torch.testing.assert_close(block.precondition(gradient).flatten(), solved)


@every_group
@every_block
def test_before_and_after_a_refresh_the_dense_block_is_symmetric_and_positive(kind, group):
    block = updated(BLOCKS[kind](), data(*group))
    for _ in range(2):
        dense = block.dense(0.01)
        torch.testing.assert_close(dense, dense.mT)
        assert (torch.linalg.eigvalsh(dense) > 0).all()
        block.refresh(Damping(0.01))


@pytest.mark.parametrize("damping", DAMPINGS)
@every_block
def test_groups_are_blocks_of_their_own(kind, damping):
    a, g = data(3)
    gradient = torch.randn(3, 3, 5, dtype=DOUBLE)
    together = refreshed(BLOCKS[kind](), a, g, damping)
    for k in range(3):
        alone = refreshed(BLOCKS[kind](), a[k], g[k], damping)
        torch.testing.assert_close(together.dense(damping)[k], alone.dense(damping))
        torch.testing.assert_close(together.precondition(gradient)[k], alone.precondition(gradient[k]))


@every_group
@pytest.mark.parametrize("kind", ["LNGD", "Spectral", "KFAC", "EKFAC", "TKFAC", "NGPlus", "THOR"])
def test_statistics_are_those_of_loops_over_samples_and_positions(kind, group):
    a, g = data(*group)
    block = updated(BLOCKS[kind](), (a, g))
    for k in range(len(a) if group else 1):
        expected = statistics(kind, a[k] if group else a, g[k] if group else g)
        assert set(block.statistics) == set(expected)
        for name, value in expected.items():
            found = getattr(block, name)
            torch.testing.assert_close((found[k] if group else found).reshape(value.shape), value)


@every_group
@every_block
def test_measurements_of_two_halves_average_to_that_of_the_whole(kind, group):
    a, g = data(*group)
    block = BLOCKS[kind]()
    for ready in (False, True):
        assert block.ready is ready
        whole = block.measure(a, g)
        halves = [block.measure(*half) for half in zip(a.split(3, -3), g.split(3, -3), strict=True)]
        for total, one, two in zip(whole, *halves, strict=True):
            torch.testing.assert_close(total, (one + two) / 2)
        updated(block, (a, g)).refresh(FLOOR)


@pytest.mark.parametrize("weight", [1e-3, 1.0, 7.0])
@every_group
@every_block
def test_a_weighted_measurement_is_that_of_a_scaled_gradient(kind, group, weight):
    a, g = data(*group)
    block = BLOCKS[kind]()
    for _ in range(2):
        scaled = block.measure(a, math.sqrt(weight) * g)
        for one, two in zip(block.weighted(block.measure(a, g), weight), scaled, strict=True):
            torch.testing.assert_close(one, two)
        updated(block, (a, g)).refresh(FLOOR)


@every_group
@pytest.mark.parametrize("kind", [kind for kind in BLOCKS if kind != "Spectral"])
def test_the_undamped_block_is_quadratic_in_g(kind, group):
    a, g = data(*group)
    one, two = (refreshed(BLOCKS[kind](), a, scale * g, Damping(0.1)) for scale in (1.0, 3.0))
    torch.testing.assert_close(9 * one.dense(), two.dense())


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.95])
@every_group
@every_block
def test_statistics_are_bias_corrected_averages(kind, group, decay):
    batches = [data(*group) for _ in range(5)]
    block, singles = BLOCKS[kind](), [updated(BLOCKS[kind](), each) for each in batches]
    for a, g in batches:
        block.update(block.measure(a, g), decay)
    weights = torch.tensor([decay ** (4 - k) for k in range(5)], dtype=DOUBLE)
    weights /= weights.sum()
    for name in block.statistics:
        expected = sum(w * getattr(single, name) for w, single in zip(weights, singles, strict=True))
        torch.testing.assert_close(getattr(block, name), expected)
    assert block.updates == 5


@pytest.mark.parametrize("kind", ["KFAC", "EKFAC", "TKFAC", "THOR"])
def test_one_sample_with_one_position_is_exact(kind):
    a, g = data(n=1, s=1)
    block = refreshed(BLOCKS[kind](), a, g, FLOOR)
    torch.testing.assert_close(block.dense(), positionwise_fisher(a, g))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@every_group
@every_block
def test_single_precision_gives_the_same_directions(kind, group, scale):
    gradient = torch.randn(*group, 3, 5, dtype=DOUBLE)
    a, g = data(*group, n=30)
    for damping in DAMPINGS:
        exact = refreshed(BLOCKS[kind](), scale * a, g / scale, damping)
        single = refreshed(BLOCKS[kind](), (scale * a).float(), (g / scale).float(), damping)
        assert {t.dtype for t in single.tensors().values()} <= {torch.float32, torch.bool}
        direction, expected = single.precondition(gradient.float()), exact.precondition(gradient)
        assert direction.dtype == torch.float32
        assert (direction - expected).norm() < 2e-3 * expected.norm()


ZEROS = {
    "g": lambda a, g: (a, 0 * g),
    "a": lambda a, g: (0 * a, g),
    "both": lambda a, g: (0 * a, 0 * g),
    "one output": lambda a, g: (a, g * torch.tensor([1.0, 0.0, 1.0])),
    "one input": lambda a, g: (a * torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0]), g),
    "nearly g": lambda a, g: (a, 1e-18 * g),
    "nearly a": lambda a, g: (1e-18 * a, g),
    "nearly both": lambda a, g: (1e-18 * a, 1e-18 * g),
    "g and large a": lambda a, g: (1e8 * a, 0 * g),
    "a and large g": lambda a, g: (0 * a, 1e8 * g),
}


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("zero", ZEROS)
@every_block
def test_whatever_is_zero_directions_are_finite(kind, zero, dtype):
    for group in GROUPS:
        a, g = (x.to(dtype) for x in ZEROS[zero](*data(*group, dtype=dtype)))
        gradient = torch.einsum("...nso,...nsi->...oi", g, a) / 6
        for damping in (FLOOR, Damping(1.0, (1e-5, 1e-2)), Damping(0.0, (1e-5, math.inf))):
            block = refreshed(BLOCKS[kind](), a, g, damping)
            assert block.precondition(gradient).isfinite().all()
            assert block.precondition(torch.randn_like(gradient)).isfinite().all()
            assert (gradient * block.precondition(gradient)).sum() >= 0


def dead_output(a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    g = g.clone()
    g[..., 1] = 0
    return a, g


def dead_input(a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    a = a.clone()
    a[..., 1] = 0
    return a, g


DEFICIENT = [(kind, dead_output) for kind in BLOCKS] + [(kind, dead_input) for kind in BLOCKS if kind != "NGPlus"]


@pytest.mark.parametrize(("kind", "deficient"), DEFICIENT)
def test_a_singular_block_without_damping_is_an_error_and_leaves_what_was(kind, deficient):
    a, g = data(n=20)
    block = refreshed(BLOCKS[kind](), a, g, Damping(0.3))
    gradient = torch.randn(3, 5, dtype=DOUBLE)
    block.update(block.measure(*deficient(5 * a, 5 * g)), 0.0)
    before, inverses = block.precondition(gradient), {name: getattr(block, name).clone() for name in block.inverses}
    with pytest.raises(NotPositiveDefiniteError, match="raise the damping"):
        block.refresh(Damping(0.0))
    assert torch.equal(block.precondition(gradient), before)
    assert all(torch.equal(getattr(block, name), value) for name, value in inverses.items())


@pytest.mark.parametrize(("kind", "deficient"), DEFICIENT)
def test_a_block_that_never_had_an_inverse_is_not_ready_after_a_failure(kind, deficient):
    block = updated(BLOCKS[kind](), deficient(*data(n=20)))
    with pytest.raises(NotPositiveDefiniteError, match="raise the damping"):
        block.refresh(Damping(0.0))
    assert block.measured
    assert not block.ready
    assert set(block.tensors()) == set(block.statistics)


@pytest.mark.parametrize("refreshes", [0, 1, 2])
@every_group
@every_block
def test_tensors_and_load_carry_a_block_over(kind, group, refreshes):
    block, copy = updated(BLOCKS[kind](), data(*group)), refreshed(BLOCKS[kind](), *data(*group), Damping(0.1))
    copy.shape = block.shape = (3, 5)
    for _ in range(refreshes):
        block.refresh(FLOOR)
        updated(block, data(*group))
    copy.load(block.updates, {name: t.clone() for name, t in block.tensors().items()})
    assert copy.updates == block.updates
    assert copy.ready == block.ready == (refreshes > 0)
    batch, gradient = data(*group), torch.randn(*group, 3, 5, dtype=DOUBLE)
    for each in (block, copy):
        updated(each, batch).refresh(FLOOR)
        updated(each, batch)
    assert set(copy.tensors()) == set(block.tensors())
    assert all(torch.equal(copy.tensors()[name], value) for name, value in block.tensors().items())
    assert torch.equal(copy.precondition(gradient), block.precondition(gradient))


@pytest.mark.parametrize(("i", "o"), [(5, 3), (3, 5), (4, 4), (1, 1), (2, 7)])
@every_group
@every_block
def test_shapes_and_dims_are_those_of_the_tensors(kind, group, i, o):
    block = refreshed(BLOCKS[kind](), *data(*group, i=i, o=o), FLOOR)
    assert_shapes(block, group, block.shapes(i, o))
    dense = [getattr(block, name).shape[-1] for name in block.statistics if getattr(block, name).dim() > len(group) + 1]
    assert max(block.dims(i, o), default=0) == max(dense, default=0)


def assert_shapes(block: CurvatureBlock, group: tuple[int, ...], expected: dict[str, tuple[int, ...]]) -> None:
    """A scalar is one for all groups. State of these shapes and dtypes is made before the first step."""
    found = {name: (tuple(t.shape), t.dtype) for name, t in block.tensors().items()}
    dtypes = {name: block.dtypes.get(name, DOUBLE) for name in expected}
    assert found == {name: ((*group, *shape) if shape else (), dtypes[name]) for name, shape in expected.items()}


def trace_per_position(a: Tensor, g: Tensor) -> Tensor:
    """E[Σₛ ‖aₛ‖² ‖gₛ‖²]."""
    return sum(a[k, s].dot(a[k, s]) * g[k, s].dot(g[k, s]) for k in range(a.shape[0]) for s in range(a.shape[1])) / len(a)


@pytest.mark.parametrize("decay", [0.5, 0.95])
@pytest.mark.parametrize("kind", ["LNGD", "TKFAC"])
def test_the_trace_of_the_fisher_matrix_is_kept_over_several_measurements(kind, decay):
    batches = [(scale * a, g) for scale in (1.0, 3.0, 0.2) for a, g in [data()]]
    block = BLOCKS[kind]()
    for a, g in batches:
        block.update(block.measure(a, g), decay)
    weights = torch.tensor([decay**2, decay, 1.0], dtype=DOUBLE)
    expected = sum(w * trace_per_position(a, g) for w, (a, g) in zip(weights / weights.sum(), batches, strict=True))
    torch.testing.assert_close(block.dense().trace(), expected)
