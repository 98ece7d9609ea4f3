"""The page as text; what a browser makes of it is in test_page_in_chromium."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lngd_bench.report.chart_data import chart_data
from lngd_bench.report.still_chart import even_ticks

from lngd_bench import report
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.report.colours import COLOURS, CONTRAST, DARK_PAPER, LIGHT_PAPER, contrast, on_dark, on_light, readable
from lngd_bench.report.page import page, script_json, section_names
from lngd_bench.report.summary import summarise
from lngd_bench.training.records import Record
from runs import diverged, hand_made

HOSTILE = '</script><script>hacked()</script><img src=x onerror="hacked()">'


def data_of(text: str) -> list:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def hostile() -> Record:
    """Every text of it tries to break out."""
    record = hand_made("sgd", 0, [0.5, 0.6], 1.0)
    config = {**record.header.config, "title": HOSTILE, "note": HOSTILE}
    texts = dict.fromkeys(("task", "optimizer", "torch", "device", "machine", "date", "command"), HOSTILE)
    return Record(replace(record.header, config=config, **texts), record.epochs)


def test_nothing_that_a_record_says_becomes_markup() -> None:
    text = page(summarise([hostile(), diverged(hostile())], 0.5))
    assert "<img" not in text
    assert text.count("<script") == text.count("</script>") == 2
    assert data_of(text)[0]["series"][0]["label"] == HOSTILE


@given(st.text())
def test_json_in_a_script_element_comes_back_and_never_ends_it(text: str) -> None:
    written = script_json({"text": text})
    assert json.loads(written) == {"text": text}
    assert not set(written) & set("<>&\u2028\u2029")


@given(st.lists(st.text(max_size=3) | st.sampled_from(["a", "a b", "a-b", "a-2", ""]), max_size=12))
def test_every_section_has_a_plain_name_of_its_own(tasks: list[str]) -> None:
    names = section_names(tasks)
    assert len(set(names)) == len(tasks)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in names)


def test_the_charts_get_means_deviations_and_accumulated_seconds() -> None:
    summary = summarise([hand_made("lngd", seed, [0.5, 0.6 + 0.2 * seed], 1.5) for seed in range(2)], 0.55)[0]
    data = chart_data(summary)
    assert data["target"] == 0.55
    (series,) = data["series"]
    assert series["metric"]["mean"] == pytest.approx([0.5, 0.7])
    assert series["metric"]["deviation"] == pytest.approx([0, 0.141421], abs=1e-6)
    assert series["metric"]["seconds"] == [1.5, 3.0]
    assert series["train_loss"]["mean"] == pytest.approx([0.9, 0.8])


def test_a_single_seed_has_no_deviation_and_a_run_without_figures_no_points() -> None:
    summary = summarise([hand_made("sgd", 0, [0.5], 1.0), diverged(hand_made("muon", 0, [], 1.0))])[0]
    one, none = chart_data(summary)["series"]
    assert one["metric"]["deviation"] is None
    assert none["metric"]["mean"] == []


def test_a_page_is_made_even_where_every_run_failed() -> None:
    text = page(summarise([diverged(hand_made("muon", 0, [], 1.0))]))
    assert "nothing to show" in text
    assert data_of(text)[0]["target"] is None


def test_sections_of_one_task_say_in_what_they_differ() -> None:
    records = [[hand_made("sgd", 0, [0.5] * epochs, 1.0)] for epochs in (2, 3)]
    text = page([summarise(group, 0.5)[0] for group in records])
    assert '<p class="difference">total steps: 12</p>' in text
    assert '<a href="#toy-2">toy: total steps: 18</a>' in text


def test_the_optimizers_colours_are_told_apart_and_from_both_papers() -> None:
    assert set(COLOURS) == set(OPTIMIZERS)
    for paper, colour in ((LIGHT_PAPER, on_light), (DARK_PAPER, on_dark)):
        shown = [colour(name, index) for index, name in enumerate([*COLOURS, "another"])]
        assert all(contrast(shade, paper) >= CONTRAST for shade in shown)
        assert len(set(shown)) == len(shown)


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    assert readable("#0072B2", LIGHT_PAPER) == "#0072b2"


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_ticks_are_round_few_and_inside(low: float, span: float) -> None:
    ticks = even_ticks(low, low + span)
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)


def test_the_template_is_part_of_the_package() -> None:

    assert {path.name for path in (Path(report.__path__[0]) / "page_files").iterdir()} == {
        "page.html",
        "section.html",
        "style.css",
        "script.js",
    }
