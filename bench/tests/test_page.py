"""The page as text and as headless Chromium shows it; what records say must stay text in both."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lngd_bench.report.page import page
from lngd_bench.report.summary import summarise
from lngd_bench.training.records import Record
from runs import diverged, hand_made

HOSTILE = '</script><script>hacked()</script><img src=x onerror="hacked()">'


def hostile() -> Record:
    """Every text of it tries to break out."""
    record = hand_made("sgd", 0, [0.5, 0.6], 1.0)
    config = {**record.header.config, "title": HOSTILE, "note": HOSTILE}
    texts = dict.fromkeys(("task", "optimizer", "torch", "device", "machine", "date", "command"), HOSTILE)
    return Record(replace(record.header, config=config, **texts), record.epochs)


def test_nothing_that_a_record_says_becomes_markup() -> None:
    summaries = summarise([hostile(), diverged(hostile())], 0.5)
    text = page([replace(summary, difference=HOSTILE) for summary in summaries])
    assert "<img src=x" not in text
    assert "<script>hacked" not in text


def test_the_first_to_reach_the_target_is_first_in_a_table() -> None:
    records = [hand_made(name, 0, [0.5, metric], seconds) for name, metric, seconds in (("sgd", 0.6, 2.0), ("muon", 0.6, 1.0))]
    text = page(summarise([*records, hand_made("adamw", 0, [0.5, 0.5], 0.1)], 0.6))
    assert text.index("<td>Muon") < text.index("<td>SGD") < text.index("<td>AdamW")


@pytest.mark.browser
def test_the_page_opens_offline_without_an_error_and_shows_tables_and_charts(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    assert program, "this test needs Chromium: apt-get install chromium"
    path = tmp_path / "report.html"
    race = [hand_made(name, seed, [0.5, 0.6 + seed / 10], 1.0) for name in ("sgd", "lngd") for seed in (0, 1)]
    nothing = replace((failed := diverged(hand_made("muon", 0, [], 1.0))).header, task="nothing")
    path.write_text(page(summarise([*race, hostile(), Record(nothing, failed.epochs)], 0.6)), encoding="utf-8")
    faults: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.on("console", lambda message: faults.append(message.text))
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("request", lambda request: request.url == path.as_uri() or faults.append(request.url))
        tab.goto(path.as_uri())
        tab.wait_for_selector("#chart-2 .legend")
        assert tab.locator("table").count() == 3
        assert tab.locator("#chart-0 .scatterlayer path.js-line").count() == 8
        assert tab.locator("#chart-1 .legendtext").text_content() == HOSTILE
        tab.locator("#chart-0 .legendtoggle").first.click()
        tab.wait_for_function("document.querySelectorAll('#chart-0 .scatterlayer path.js-line').length === 4")
        browser.close()
    assert faults == []
