"""The page as headless Chromium shows it: committed records, and one record whose every text tries to break out."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from lngd_bench.report.colours import contrast
from lngd_bench.report.comparison import compare
from lngd_bench.report.page import page
from lngd_bench.report.summary import summarise
from runs import hand_made
from test_comparison import changed
from test_page import HOSTILE, hostile

RESULTS = Path(__file__).parents[2] / "docs" / "results"
SCHEMES = ("light", "dark")
TEN = "mnist-cnn"  # the section with ten optimizers
PANELS = 2  # of a section
PHONE = 360  # pixels

# Of every text that is visible: what it says, its colour and that of the nearest paper beneath it, as `rgb(…)`.
TEXTS = """() => [...document.querySelectorAll("body *")]
  .filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
  .map((e) => {
    const paper = (n) => !n ? "rgb(255, 255, 255)"
      : getComputedStyle(n).backgroundColor === "rgba(0, 0, 0, 0)" ? paper(n.parentElement) : getComputedStyle(n).backgroundColor;
    const style = getComputedStyle(e);
    return [e.textContent, e instanceof SVGElement ? style.fill : style.color, paper(e)];
  })"""
# Of every line in a panel: its colour, and its bounding box on the screen.
LINES = """(panel) => [...panel.querySelectorAll(".line")].map((e) => {
  const box = e.getBoundingClientRect();
  return [getComputedStyle(e).stroke, box.width, box.height];
})"""

DASHES = "lines => lines.map((line) => line.getAttribute('stroke-dasharray'))"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    assert program, "these tests need Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    committed = compare([RESULTS / "default", RESULTS / "family" / "mnist", RESULTS / "long" / "stdlib-charlm"])
    chosen = [summary for summary in committed if summary.task in ("digits-mlp", "stdlib-charlm") or len(summary.rows) == 10]
    rates = [changed(hand_made("sgd", 0, [0.5, 0.6], 1.0, lr=rate), task="rates") for rate in range(1, 15)]
    path.write_text(page([*chosen, *summarise(rates), *summarise([hostile()])]))
    return path


@contextmanager
def opened(browser: Browser, file: Path, address: str = "", **options: object) -> Iterator[Page]:
    """The page, which must load nothing else, report no error and show no dialog while it is open."""
    faults: list[str] = []
    context = browser.new_context(**{"viewport": {"width": 1100, "height": 900}, **options})
    tab = context.new_page()
    tab.on("console", lambda message: faults.append(message.text))
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("request", lambda request: request.url.split("#")[0] == file.as_uri() or faults.append(request.url))
    tab.on("dialog", lambda dialog: faults.append(dialog.message))
    tab.goto(file.as_uri() + address)
    yield tab
    context.close()
    assert faults == []


def hexadecimal(colour: str) -> str:
    red, green, blue, *opacity = (float(part) for part in re.findall(r"[\d.]+", colour))
    assert opacity in ([], [1.0])
    return f"#{round(red):02x}{round(green):02x}{round(blue):02x}"


def column(tab: Page, section: str, heading: str) -> list[str]:
    """The texts of a table's column, from top to bottom."""
    headings = tab.locator(f"#{section} thead th").all_inner_texts()
    place = next(index for index, text in enumerate(headings) if text.strip() == heading)
    return tab.locator(f"#{section} tbody tr > :nth-child({place + 1})").all_inner_texts()


def heading(tab: Page, section: str, text: str) -> Locator:
    return tab.locator(f"#{section} thead th", has_text=re.compile(f"^{re.escape(text)}$"))


def numbers(texts: list[str]) -> list[float]:
    return [float(text.split()[0]) for text in texts if text not in ("", "–")]


def box_of(shape: Locator) -> dict[str, float]:
    box = shape.bounding_box()
    assert box, "it is not shown"
    return dict(box)


def colours_of(tab: Page) -> tuple[str, str]:
    """Of the paper and of a line."""
    line = tab.locator("[data-label=AdamW] .line").first
    return tab.evaluate("getComputedStyle(document.body).backgroundColor"), line.evaluate("e => getComputedStyle(e).stroke")


def shapes(tab: Page, section: str) -> list[str]:
    return tab.locator(f"#{section} .panel .line").evaluate_all("lines => lines.map((line) => line.getAttribute('d'))")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_series_is_a_line_of_its_own_colour_that_stands_out(
    browser: Browser, file: Path, tmp_path: Path, scheme: str
) -> None:
    with opened(browser, file, color_scheme=scheme) as tab:
        tab.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
        paper = hexadecimal(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        panels = tab.locator(f"#{TEN} .panel").all()
        assert len(panels) == PANELS
        for panel in panels:
            drawn = panel.evaluate(LINES)
            colours = {hexadecimal(colour) for colour, _, _ in drawn}
            assert len(drawn) == len(colours) == 10
            assert all(width > 100 and height > 10 for _, width, height in drawn)
            assert all(contrast(colour, paper) >= 3 for colour in colours)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_text_can_be_read(browser: Browser, file: Path, scheme: str) -> None:
    with opened(browser, file, color_scheme=scheme) as tab:
        tab.locator(f"#{TEN} .panel svg").first.hover()
        texts = tab.evaluate(TEXTS)
        assert len(texts) > 300
        weak = [text for text, ink, paper in texts if contrast(hexadecimal(ink), hexadecimal(paper)) < 4.5]
        assert weak == []


def test_a_click_on_a_heading_sorts_by_number_and_what_is_missing_is_last(browser: Browser, file: Path) -> None:
    with opened(browser, file) as tab:
        before = column(tab, TEN, "optimizer")
        for direction, reverse in (("ascending", False), ("descending", True)):
            heading(tab, TEN, "seconds").click()
            shown = column(tab, TEN, "seconds")
            assert numbers(shown) == sorted(numbers(shown), reverse=reverse)
            assert shown[-1] == "–"
            assert heading(tab, TEN, "seconds").get_attribute("aria-sort") == direction
            assert tab.locator(f"#{TEN} th[aria-sort$=cending]").count() == 1
        heading(tab, TEN, "seconds").click()
        assert column(tab, TEN, "optimizer") == before


def test_percentages_and_negative_numbers_sort_by_number_too(browser: Browser, file: Path) -> None:
    with opened(browser, file) as tab:
        heading(tab, "mnist-mlp", "LNGD saves").click()
        shown = column(tab, "mnist-mlp", "LNGD saves")
        assert numbers(shown) == sorted(numbers(shown))
        assert numbers(shown)[0] < -900
        assert column(tab, "mnist-mlp", "optimizer")[-1] == "LNGD"


def test_the_keyboard_sorts(browser: Browser, file: Path) -> None:
    with opened(browser, file) as tab:
        heading(tab, TEN, "best acc. %").get_by_role("button").focus()
        tab.keyboard.press("Enter")
        shown = numbers(column(tab, TEN, "best acc. %"))
        assert shown == sorted(shown)


def test_a_sorted_table_has_an_address(browser: Browser, file: Path) -> None:
    with opened(browser, file) as tab:
        heading(tab, TEN, "seconds").click()
        heading(tab, TEN, "seconds").click()
        heading(tab, "digits-mlp", "rate").click()
        address, wanted = tab.evaluate("location.hash"), column(tab, TEN, "optimizer")
        assert wanted != sorted(wanted)
    with opened(browser, file, address) as tab:
        assert column(tab, TEN, "optimizer") == wanted
        rates = numbers(column(tab, "digits-mlp", "rate"))
        assert rates == sorted(rates)
        tab.evaluate("location.hash = '#digits-mlp'")
        assert column(tab, TEN, "optimizer") == wanted
    with opened(browser, file, f"#{TEN}=nonsense.sideways&x=%E0") as tab:
        assert tab.locator("th[aria-sort$=cending]").count() == 0


def test_a_heading_without_a_sort_says_so_to_a_screen_reader(browser: Browser, file: Path) -> None:
    with opened(browser, file) as tab:
        sorts = tab.locator("thead th").evaluate_all("all => all.map((th) => th.getAttribute('aria-sort'))")
        assert set(sorts) == {"none"}
        assert tab.locator("thead th button").count() == len(sorts)


def test_seconds_take_the_place_of_epochs(browser: Browser, file: Path) -> None:
    with opened(browser, file) as tab:
        section = tab.locator(f"#{TEN}")
        before = shapes(tab, TEN)
        assert section.locator(".panel svg text", has_text=re.compile("^epochs$")).count() == PANELS
        section.get_by_role("button", name="seconds").last.click()
        assert section.locator(".panel svg text", has_text="seconds of training").count() == PANELS
        assert section.locator(".controls [role=group] [aria-pressed=true]").all_inner_texts() == ["seconds"]
        assert not set(shapes(tab, TEN)) & set(before)
        section.get_by_role("button", name="epochs").last.click()
        assert shapes(tab, TEN) == before


def test_an_entry_of_the_legend_hides_and_shows_its_series(browser: Browser, file: Path) -> None:
    with opened(browser, file) as tab:
        entry = tab.locator(f"#{TEN} .legend button", has_text=re.compile("^K-FAC$"))
        lines = tab.locator(f"#{TEN} .panel [data-label='K-FAC']")
        assert (lines.count(), entry.get_attribute("aria-pressed")) == (PANELS, "true")
        entry.click()
        assert (lines.count(), entry.get_attribute("aria-pressed")) == (0, "false")
        assert tab.locator(f"#{TEN} .panel .line").count() == 9 * PANELS
        entry.press("Enter")
        assert lines.count() == PANELS


def test_with_everything_hidden_nothing_fails(browser: Browser, file: Path) -> None:
    with opened(browser, file) as tab:
        for entry in tab.locator("#digits-mlp .legend button").all():
            entry.click()
        assert tab.locator("#digits-mlp .panel text", has_text="nothing to show").count() == PANELS
        tab.locator("#digits-mlp .panel svg").first.hover()
        assert tab.locator("#digits-mlp .tip:visible").count() == 0


def test_a_crowd_is_hidden_at_once_and_its_values_are_cut_short(browser: Browser, file: Path) -> None:
    with opened(browser, file) as tab:
        section = tab.locator("#rates")
        assert len(set(section.locator(".panel").first.locator(".line").evaluate_all(DASHES))) > 1
        assert section.locator(".panel").first.locator("text", has_text=re.compile(r"^\d$")).all_text_contents()[-2:] == [
            "1",
            "2",
        ]
        section.locator(".panel > svg").last.press("End")
        assert section.locator(".tip:visible > div").count() == 13
        assert section.locator(".tip:visible").inner_text().endswith("and 2 more")
        for shown in (0, 14):
            section.get_by_role("button", name="all series").click()
            assert section.locator(".panel .line").count() == shown * PANELS


def test_the_whole_range_shows_what_fell_out_of_the_frame(browser: Browser, file: Path) -> None:
    with opened(browser, file) as tab:
        section = tab.locator(f"#{TEN}")
        frame = box_of(section.locator(".panel > svg").last)
        line = section.locator(".panel [data-label='LNGD-sample'] .line").last
        assert box_of(line)["y"] > frame["y"] + frame["height"]
        section.get_by_role("button", name="whole range").click()
        assert box_of(line)["y"] + box_of(line)["height"] < frame["y"] + frame["height"]


def test_pointing_shows_the_values_of_the_records(browser: Browser, file: Path) -> None:
    summary = next(s for s in compare([RESULTS / "default"]) if s.task == "digits-mlp")
    runs = next(row.runs for row in summary.rows if row.label == "LNGD")
    last = sum(run.epochs[-1].metric or 0 for run in runs) / len(runs)
    with opened(browser, file) as tab:
        box = box_of(tab.locator("#digits-mlp .panel > svg").last)
        tab.mouse.move(box["x"] + box["width"] - 14, box["y"] + 80)
        tip = tab.locator("#digits-mlp .tip:visible")
        assert tip.inner_text().startswith("epoch 15")
        assert f"{100 * last:.2f} %" in tip.locator(".series", has_text="LNGD").inner_text()
        tab.mouse.move(0, 0)
        assert tab.locator("#digits-mlp .tip:visible").count() == 0


def test_the_arrow_keys_walk_along_a_chart(browser: Browser, file: Path) -> None:
    with opened(browser, file) as tab:
        svg, tip = tab.locator("#digits-mlp .panel > svg").first, tab.locator("#digits-mlp .tip:visible")
        for key, epoch in (("ArrowRight", 1), ("ArrowRight", 2), ("End", 15), ("ArrowRight", 15), ("Home", 1), ("ArrowLeft", 1)):
            svg.press(key)
            assert tip.inner_text().split("\n")[0] == f"epoch {epoch}"
        svg.press("Escape")
        assert tip.count() == 0


def test_the_target_is_drawn_at_its_value(browser: Browser, file: Path) -> None:
    with opened(browser, file) as tab:
        assert tab.locator("#digits-mlp .panel text.halo").all_text_contents() == ["target 97.00 %"]
        line = box_of(tab.locator("#digits-mlp .panel line.target"))
        tick = box_of(tab.locator("#digits-mlp .panel text", has_text=re.compile("^97$")))
        assert abs(line["y"] - tick["y"] - tick["height"] / 2) < 3


def test_a_loss_is_judged_from_above(browser: Browser, file: Path) -> None:
    with opened(browser, file) as tab:
        tab.locator("#stdlib-charlm .panel > svg").last.press("End")
        values = [float(text.split()[0]) for text in tab.locator("#stdlib-charlm .tip:visible .value").all_inner_texts()]
        assert len(values) == 4
        assert values == sorted(values)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_button_switches_between_light_and_dark(browser: Browser, file: Path, scheme: str) -> None:
    other = SCHEMES[1 - SCHEMES.index(scheme)]
    with opened(browser, file, color_scheme=other) as tab:
        wanted = colours_of(tab)
    with opened(browser, file, color_scheme=scheme) as tab:
        before = colours_of(tab)
        tab.get_by_role("button", name=other.title(), exact=True).click()
        assert colours_of(tab) == wanted
        tab.get_by_role("button", name=scheme.title(), exact=True).click()
        assert colours_of(tab) == before


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("scripts", [True, False])
def test_a_phone_shows_the_page_without_scrolling_sideways(
    browser: Browser, file: Path, tmp_path: Path, scheme: str, scripts: bool
) -> None:
    options = {"color_scheme": scheme, "viewport": {"width": PHONE, "height": 800}, "java_script_enabled": scripts}
    with opened(browser, file, **options) as tab:
        if scripts:
            tab.screenshot(path=tmp_path / "phone.png", full_page=True)
        for details in tab.locator("summary").all():
            details.click()
        widest = max(box["x"] + box["width"] for part in tab.locator("section > *").all() if (box := part.bounding_box()))
        assert widest <= PHONE
        if scripts:
            assert tab.evaluate("document.documentElement.scrollWidth") <= PHONE
            inside, outside = tab.locator(f"#{TEN} .scroll").evaluate("e => [e.scrollWidth, e.clientWidth]")
            assert inside > outside


def test_the_charts_follow_the_window(browser: Browser, file: Path) -> None:
    with opened(browser, file) as tab:
        tab.set_viewport_size({"width": PHONE, "height": 800})
        tab.wait_for_function(f"document.querySelector('#{TEN} .panel svg').viewBox.baseVal.width < {PHONE}")


def test_without_scripts_tables_and_still_charts_are_there(browser: Browser, file: Path, tmp_path: Path) -> None:
    with opened(browser, file, java_script_enabled=False) as tab:
        tab.screenshot(path=tmp_path / "still.png", full_page=True)
        assert len(column(tab, TEN, "optimizer")) == 10
        assert tab.locator(f"#{TEN} svg.static").count() == PANELS
        for line in tab.locator(f"#{TEN} svg.static .line").all():
            assert box_of(line)["width"] > 100
        assert tab.locator("#theme:visible").count() == 0
    with opened(browser, file) as tab:
        assert tab.locator("svg.static").count() == 0


def test_what_a_record_says_is_shown_as_text_and_never_runs(browser: Browser, file: Path) -> None:
    with opened(browser, file) as tab:
        section = tab.locator("section").last
        assert section.locator("h2").inner_text() == HOSTILE
        assert section.locator(".legend button").inner_text() == HOSTILE
        section.locator(".panel > svg").first.press("End")
        assert HOSTILE in section.locator(".tip:visible").inner_text()
        assert section.locator("img").count() == 0
