from pathlib import Path

import pytest
from typer.testing import CliRunner

from lngd_bench.cli.app import app
from lngd_bench.errors import BenchError
from lngd_bench.tasks.bleu import corpus_bleu
from lngd_bench.tasks.datasets import ende, places, wmt
from lngd_bench.tasks.datasets.help_texts import pages, paragraphs
from lngd_bench.tasks.datasets.number_words import english, german
from lngd_bench.tasks.datasets.parallel_text import ParallelText, read_directory, write_directory

PAGE = """<!DOCTYPE html><html><head><title>no text</title></head><body>
<h1 id="hd_1" dir="auto"><a href="x.html">{0} one</a></h1>
<p id="par_2" class="paragraph">{0} <span class="menuitem">two</span>,
   &quot;quoted&quot; &amp; more.</p><p id="par_3"> </p><p class="bare">no id</p>
<div><p id="par_4">{0} four</p></div><p id="only_{0}">{0} only</p></body></html>"""


NUMBERS = [(str(number), [(english(number), german(number))]) for number in range(200)]


def write_help(directory: Path, count: int = 60) -> Path:
    """Pages of both languages as the packages have them; the last English page has no German one."""
    for number in range(count):
        for language, word in (("en-US", english(number)), ("de", german(number))):
            if language == "en-US" or number < count - 1:
                path = directory / language / "text" / "shared" / f"{number:03}.html"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(PAGE.format(word), encoding="utf-8")
    return directory


def write_lines(directory: Path, count: int, name: str = "train") -> tuple[Path, Path]:
    paths = directory / f"{name}.en", directory / f"{name}.de"
    for path, word in zip(paths, ("line of", "Zeile aus"), strict=True):
        path.write_text("".join(f"{word} text {'x' * number}\n" for number in range(count)), encoding="utf-8")
    return paths


def test_a_page_is_read_by_element_id_with_its_markup_gone() -> None:
    assert paragraphs(PAGE.format("E")) == {
        "hd_1": "E one",
        "par_2": 'E two, "quoted" & more.',
        "par_4": "E four",
        "only_E": "E only",
    }


def test_texts_with_the_same_id_on_the_same_page_are_a_pair(tmp_path: Path) -> None:
    found = dict(pages(write_help(tmp_path, 3)))
    assert list(found) == ["shared/000.html", "shared/001.html"]
    assert found["shared/001.html"][0] == ("one one", "eins one")
    assert len(found["shared/001.html"]) == 3


def test_whole_pages_are_held_out_and_nothing_is_on_both_sides(tmp_path: Path) -> None:
    text = ende.from_help(write_help(tmp_path))
    assert len(text.train) + len(text.test) == 59 * 3
    assert len(text.test) % 3 == 0
    assert {source for source, _ in text.train}.isdisjoint(source for source, _ in text.test)


def test_a_test_line_known_up_to_case_and_digits_is_dropped() -> None:
    first = ende.split(NUMBERS)
    held_out = next(name for name, pairs in NUMBERS if pairs[0] in first.test)
    trained = next(name for name, pairs in NUMBERS if pairs[0] in first.train)
    twins = [(trained, [("Press key 1", "Taste 1")]), (held_out, [("press KEY 23", "Taste 23"), ("Press a key", "Eine Taste")])]
    text = ende.split([*NUMBERS, *twins])
    assert ("Press key 1", "Taste 1") in text.train
    assert ("press KEY 23", "Taste 23") not in text.test
    assert ("Press a key", "Eine Taste") in text.test


@pytest.mark.parametrize(
    "pair",
    [("same", "same"), ("word " * 61, "Wort " * 61), ("short", "x" * 34 + " " + "y" * 10)],
    ids=["equal", "long", "unequal lengths"],
)
def test_pairs_that_teach_nothing_are_left_out(pair: tuple[str, str]) -> None:
    assert pair not in ende.split([("x", [pair]), *NUMBERS]).train


def test_a_directory_is_read_as_it_was_written(tmp_path: Path) -> None:
    text = ParallelText([("a b", "ä ö"), ("c\u2028d", "e")], [("f", "g")])
    write_directory(text, tmp_path)
    again = read_directory(tmp_path)
    assert again.test == text.test
    assert again.train[0] == ("a b", "ä ö")
    assert len(again.train) == 2


def test_wmts_own_name_of_its_test_set_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LNGD_DATA", raising=False)
    directory = tmp_path / "wmt-ende"
    directory.mkdir()
    write_lines(directory, 9)
    write_lines(directory, 4, "newstest2014")
    text = wmt.load_wmt(tmp_path)
    assert (len(text.train), len(text.test)) == (9, 4)


def test_files_of_unequal_length_are_refused_by_name(tmp_path: Path) -> None:
    ours, theirs = write_lines(tmp_path, 9)
    theirs.write_text("eine Zeile\n")
    with pytest.raises(BenchError, match=r"train\.en has 9 lines, .*train\.de 1: line k"):
        ende.from_files(ours, theirs)


def test_bytes_that_are_no_utf_8_are_refused_by_name(tmp_path: Path) -> None:
    ours, theirs = write_lines(tmp_path, 2)
    theirs.write_bytes(b"gr\xfc\xdfe\nx\n")
    with pytest.raises(BenchError, match=r"train\.de: byte 2 is no UTF-8"):
        ende.from_files(ours, theirs)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_lines(tmp_path, 2)
    with pytest.raises(BenchError, match=r"test\.en is missing"):
        read_directory(tmp_path)


def test_too_little_text_is_refused() -> None:
    with pytest.raises(BenchError, match="1 training and 0 test pairs are left"):
        ende.split([("x", [("a", "b")])])


@pytest.mark.parametrize(("load", "hint"), [(ende.load_ende, "lngd data ende"), (wmt.load_wmt, "put train.en")])
def test_text_that_is_nowhere_says_how_to_get_it(load, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LNGD_DATA", raising=False)
    monkeypatch.setattr(places, "CACHE", tmp_path / "none")
    with pytest.raises(BenchError, match=hint):
        load(tmp_path)


def test_the_command_prepares_what_the_task_reads(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app,
        ["data", "ende", "--help-dir", str(write_help(tmp_path / "help")), "--data-dir", str(tmp_path)],
        catch_exceptions=False,
    )
    text = ende.load_ende(tmp_path)
    copied = corpus_bleu(*zip(*text.test, strict=True)).score
    assert f"{len(text.train)} training pairs" in done.output
    assert f"BLEU {copied:.1f}" in done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--en", "x"], "--en and --de go together"), (["--help-dir", "nowhere"], "apt-get install libreoffice-help-en-us")],
)
def test_a_wrong_use_of_the_command_says_what_to_do(words: list[str], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        CliRunner().invoke(app, ["data", "ende", *words], catch_exceptions=False)
