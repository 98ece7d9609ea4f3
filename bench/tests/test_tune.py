from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from lngd_bench.training.race import Place, race, unfinished
from lngd_bench.training.train import RunSpec
from lngd_bench.training.tune import Budget, Grid, Trial, grid_around, paste_line, tune
from runs import TOY


def test_a_grid_is_geometric_around_the_customary_rate() -> None:
    assert grid_around(0.1, 5) == [0.025, 0.05, 0.1, 0.2, 0.4]
    assert len(grid_around(0.002, 4)) == 4


def grid(*metrics: float | None, higher: bool = True) -> Grid:
    return Grid("sgd", tuple(Trial(2.0**i, metric) for i, metric in enumerate(metrics)), higher)


@pytest.mark.parametrize(
    ("trials", "best", "edge", "further"),
    [
        (grid(0.1, 0.9, 0.2), 2.0, 0, [1.4, 2.8]),
        (grid(0.9, 0.8, None), 1.0, -1, [0.5, 0.25]),
        (grid(0.1, 0.2, 0.9), 4.0, 1, [8.0, 16.0]),
        (grid(2.0, 1.0, 3.0, higher=False), 2.0, 0, [1.4, 2.8]),
    ],
)
def test_a_best_rate_at_the_edge_asks_for_rates_beyond_it_and_one_inside_for_nearer_ones(
    trials: Grid, best: float, edge: int, further: list[float]
) -> None:
    assert (trials.best.rate, trials.edge, trials.further()) == (best, edge, further)


def test_the_line_to_paste_names_every_best_rate() -> None:
    assert paste_line([grid(0.1, 0.9, 0.2)]) == 'rates={"sgd": 2},'


def test_every_optimizer_gets_the_same_number_of_trials_on_seeds_no_report_uses(tmp_path: Path) -> None:
    place = Place(out=tmp_path, held_out=True)
    made: list[RunSpec] = []

    def run(specs: Sequence[RunSpec]) -> None:
        waiting = unfinished(specs, tmp_path, resume=True)
        made.extend(waiting)
        list(race(waiting, place))

    grids = tune(TOY, ["sgd", "adamw"], budget=Budget(rates=3), seeds=1, place=place, run=run)
    counts = Counter(spec.optimizer for spec in made)
    assert counts["sgd"] == counts["adamw"] >= 3
    assert {spec.seed for spec in made} == {1000}
    assert [grid.optimizer for grid in grids] == ["sgd", "adamw"]


def test_the_rate_of_adamws_part_is_tried_at_the_best_rate_and_others_have_as_many_further_rates(tmp_path: Path) -> None:
    place = Place(out=tmp_path, held_out=True)

    def run(specs: Sequence[RunSpec]) -> None:
        list(race(unfinished(specs, tmp_path, resume=True), place))

    muon, adamw = tune(TOY, ["muon", "adamw"], budget=Budget(rates=3, rounds=0, rests=2), seeds=1, place=place, run=run)
    assert len(muon.trials) == len(adamw.trials) == 5
    assert {(trial.rate, trial.rest) for trial in muon.trials if trial.rest} == {(muon.best_rated.rate, r) for r in (3.2, 0.32)}
    assert not any(trial.rest for trial in adamw.trials)


def test_the_line_to_paste_has_what_else_was_found() -> None:
    muon = Grid("muon", (Trial(0.01, 0.5), Trial(0.01, 0.9, rest=3.2)), True)
    assert paste_line([muon]) == 'rates={"muon": 0.01},\nrests={"muon": 3.2},'
