import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lngd_bench.studies.theory.quadratic import (
    Quadratics,
    decrease,
    gain,
    layer_rates,
    least_squares,
    measured_gain,
    random_quadratics,
    single_rate,
    violation,
)

FAMILIES = pytest.mark.parametrize("family", [random_quadratics, least_squares])

layer = st.tuples(
    st.floats(-1e3, 1e3).filter(lambda slope: slope == 0 or abs(slope) > 1e-3), st.floats(1e-3, 1e3)
)  # ⟨dₗ,∇ₗ⟩ of either sign, dₗᵀHₗdₗ > 0


def block_diagonal(slopes: list[float], curvatures: list[float]) -> Quadratics:
    return Quadratics(torch.tensor(slopes, dtype=torch.float64), torch.diag(torch.tensor(curvatures, dtype=torch.float64)))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def explicit_problem(sizes: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Quadratics]:
    """H, ∇ and D̃ (a column a layer) of one dense model, and what `quadratic` keeps of it."""
    size = sum(sizes)
    root, gradient, direction = torch.randn(size, size + 2).double(), torch.randn(size).double(), torch.randn(size).double()
    H = root @ root.T
    columns = torch.zeros(size, len(sizes), dtype=torch.float64)
    start = 0
    for layer_index, width in enumerate(sizes):
        columns[start : start + width, layer_index] = direction[start : start + width]
        start += width
    return H, gradient, columns, Quadratics(columns.T @ gradient, columns.T @ H @ columns)


@settings(deadline=None)
@given(st.lists(layer, min_size=1, max_size=8))
def test_one_rate_a_layer_is_never_worse_where_h_is_block_diagonal(layers):
    models = block_diagonal(*map(list, zip(*layers, strict=True)))
    layered, single = decrease(models, layer_rates(models)), decrease(models, single_rate(models))
    assert single <= layered + 1e-12 * layered.abs()


def test_the_decrease_is_that_of_the_full_quadratic():
    H, gradient, columns, models = explicit_problem([2, 1, 4])
    rates = torch.tensor([0.3, -0.2, 0.7], dtype=torch.float64)
    step = columns @ rates
    expected = gradient.dot(step) - step.dot(H @ step) / 2
    torch.testing.assert_close(decrease(models, rates), expected)


def test_the_rates_are_what_a_line_search_finds_on_a_block_diagonal_h():
    _, _, _, coupled = explicit_problem([2, 3])
    models = coupled.coupled(0)
    grid = torch.linspace(-3, 3, 601, dtype=torch.float64)
    one, two = torch.meshgrid(grid, grid, indexing="ij")
    best = layer_rates(models)
    unit = best.abs().max()
    pairs = torch.stack([one, two], -1) * unit
    values = decrease(Quadratics(models.slopes.expand(601, 601, 2), models.curvature.expand(601, 601, 2, 2)), pairs)
    where = pairs.flatten(0, 1)[values.argmax()]
    torch.testing.assert_close(where, best, atol=0.01 * unit.item(), rtol=0)
    assert values.max() <= decrease(models, best) + 1e-12
    along = torch.stack([decrease(models, single_rate(models) * factor) for factor in torch.linspace(0, 2, 201)])
    assert along.argmax() == 100


@FAMILIES
def test_the_theorem_holds_for_the_random_models_and_coupling_is_what_breaks_it(family):
    models = family(500, 4, 3, generator())
    assert violation(models.coupled(0)).max() <= 1e-12
    assert violation(models).max() > 0
    torch.testing.assert_close(models.coupled(1).curvature, models.curvature)


def test_the_gain_from_measured_curvatures_is_the_gain_of_the_models():
    models = random_quadratics(50, 3, 2, generator(2)).coupled(0)
    kappas = models.curvature.diagonal(dim1=-2, dim2=-1) / models.slopes
    torch.testing.assert_close(measured_gain(models.slopes, kappas), gain(models))
