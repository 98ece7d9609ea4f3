"""From parallel text to BLEU: preparing and reading text, vocabulary, batches, loss, search."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

from lngd_bench.cli.app import app
from lngd_bench.errors import BenchError
from lngd_bench.tasks import SCALES
from lngd_bench.tasks.data import Data
from lngd_bench.tasks.datasets.help_texts import split
from lngd_bench.tasks.datasets.parallel_text import ENDE, WMT, english, german, load_number_words, read_directory, read_pair
from lngd_bench.tasks.decoding import beam_search, greedy, length_penalty, translator
from lngd_bench.tasks.models.transformer import BEGIN, END, PAD, Sentences, Transformer
from lngd_bench.tasks.translation import (
    SMOOTHING,
    Corpus,
    Vocabulary,
    corpus,
    corpus_bleu,
    evaluator,
    smoothed_cross_entropy,
)

PAGE = """<!DOCTYPE html><html><head><title>no text</title></head><body>
<h1 id="hd_1" dir="auto"><a href="x.html">{0} one</a></h1>
<p id="par_2" class="paragraph">{0} <span class="menuitem">two</span>,
   &quot;quoted&quot; &amp; more.</p><p id="par_3"> </p><p class="bare">no id</p>
<div><p id="par_4">{0} four</p></div><p id="only_{0}">{0} only</p></body></html>"""
NUMBERS = [(str(number), [(english(number), german(number))]) for number in range(200)]
PAIRS = [("The file is open.", "Die Datei ist geöffnet."), ("Größe → 5 €\u2028x", "Ünïcode 🎉 tab\tstop"), ("a", "b")]
WORDS = 6  # three special ids and three words
SOURCES = torch.tensor([[3, 4, END], [5, END, PAD], [4, 4, END]])


@pytest.fixture(scope="module")
def numbers() -> Corpus:
    return corpus(load_number_words(), 300)


def small(seed: int = 0, words: int = WORDS) -> Transformer:
    """Sharp enough that its choices differ from sentence to sentence."""
    torch.manual_seed(seed)
    model = Transformer(words, width=16, heads=2, layers=2, inner=32).eval()
    with torch.no_grad():
        model.embedding.weight.mul_(3)
    return model


def write_help(directory: Path, count: int = 60) -> Path:
    """Pages of both languages as the packages have them; the last English page has no German one."""
    for number in range(count):
        for language, word in (("en-US", english(number)), ("de", german(number)))[: 1 if number == count - 1 else 2]:
            path = directory / language / "text" / "shared" / f"{number:03}.html"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(PAGE.format(word), encoding="utf-8")
    return directory


def test_the_command_prepares_whole_pages_for_the_test_and_nothing_stands_on_both_sides(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="apt-get install libreoffice-help-en-us"):
        CliRunner().invoke(app, ["data", "ende", "--help-dir", "nowhere"], catch_exceptions=False)
    words = ["data", "ende", "--help-dir", str(write_help(tmp_path / "help")), "--data-dir", str(tmp_path)]
    printed = CliRunner().invoke(app, words, catch_exceptions=False).output
    text = read_directory(ENDE.found(tmp_path))
    assert len(text.train) + len(text.test) == 59 * 3
    assert len(text.test) % 3 == 0
    assert {source for source, _ in text.train}.isdisjoint(source for source, _ in text.test)
    pairs = [("one one", "eins one"), ('one two, "quoted" & more.', 'eins two, "quoted" & more.'), ("one four", "eins four")]
    assert set(pairs) <= {*text.train, *text.test}
    assert f"{len(text.train)} training pairs" in printed
    assert f"BLEU {corpus_bleu(*zip(*text.test, strict=True))[0]:.1f}" in printed
    assert SCALES["wmt-transformer-big"]["here"].data(tmp_path).references


def test_parallel_files_are_read_by_line_feeds_and_refused_by_name_where_they_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "train.en").write_bytes("a b\nc\u2028d\nf\r g\n".encode())
    (tmp_path / "train.de").write_bytes("ä ö\r\ne\r\nh\r\n".encode())
    assert read_pair(tmp_path / "train.en", tmp_path / "train.de") == [("a b", "ä ö"), ("c d", "e"), ("f g", "h")]
    for name in ("newstest2014.en", "newstest2014.de"):  # WMT's own name
        (tmp_path / name).write_text("x\n")
    assert read_directory(WMT.found(tmp_path)).test == [("x", "x")]
    for content, message in ((b"one\n", r"train\.en has 3 lines, .*train\.de 1: line k"), (b"gr\xfc\n", r"train\.de: .*utf-8")):
        (tmp_path / "train.de").write_bytes(content)
        with pytest.raises(BenchError, match=message):
            read_directory(tmp_path)


def test_numbers_in_words() -> None:
    assert [english(number) for number in (30, 101, 621)] == ["thirty", "one hundred and one", "six hundred and twenty-one"]
    assert [german(number) for number in (30, 101, 621)] == ["dreißig", "einhunderteins", "sechshunderteinundzwanzig"]


def test_a_test_line_known_up_to_case_and_digits_is_dropped() -> None:
    first = split(NUMBERS)
    held_out = next(name for name, pairs in NUMBERS if pairs[0] in first.test)
    trained = next(name for name, pairs in NUMBERS if pairs[0] in first.train)
    twins = [(trained, [("Press key 1", "Taste 1")]), (held_out, [("press KEY 23", "Taste 23"), ("Press a key", "Eine Taste")])]
    text = split([*NUMBERS, *twins])
    assert ("Press key 1", "Taste 1") in text.train
    assert ("press KEY 23", "Taste 23") not in text.test
    assert ("Press a key", "Eine Taste") in text.test


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40).map(str.strip))
def test_text_that_was_never_seen_comes_back_and_has_no_special_word(text: str) -> None:
    vocabulary = Vocabulary(PAIRS, 300)
    ids = [row.tolist() for row in vocabulary.encoded([text, "a </s> b <pad>"])]
    assert {PAD, BEGIN, END}.isdisjoint(itertools.chain(*ids))
    assert vocabulary.decoded(ids) == [text, "a </s> b <pad>"]


def test_a_pass_uses_every_pair_once_in_batches_of_like_length_that_fit(numbers: Corpus) -> None:
    """Padding against that of batches of as many pairs in random order."""

    def padding(batches: Sequence[torch.Tensor]) -> float:
        return sum(numbers.batch(rows, 0)[1].eq(PAD).sum().item() for rows in batches)

    dealt = numbers.deal(256, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(list(dealt)).tolist()) == list(range(len(numbers.train)))
    assert all(len(rows) * max(numbers.train[row].length for row in rows.tolist()) <= 256 for rows in dealt)
    order = torch.randperm(len(numbers.train), generator=torch.Generator().manual_seed(0))
    assert padding(dealt) < 0.75 * padding(order.split([len(rows) for rows in dealt]))
    with pytest.raises(BenchError, match="larger --batch-size"):
        numbers.batches(3, torch.Generator())


def test_a_batch_is_what_the_pairs_say(numbers: Corpus) -> None:
    (source, target), labels = numbers.batch(torch.tensor([5, 17]), 0)
    for row, number in enumerate((5, 17)):
        pair = numbers.train[number]
        assert source[row][source[row] != PAD].tolist() == pair.source.tolist()
        assert target[row][: len(pair.target) - 1].tolist() == pair.target[:-1].tolist()
        assert labels[row][labels[row] != PAD].tolist() == pair.target[1:].tolist()
    assert target[:, 0].tolist() == [BEGIN, BEGIN]


def test_held_out_references_are_the_training_texts(numbers: Corpus) -> None:
    data: Data = numbers.held_out()
    assert isinstance(data, Corpus)
    assert list(data.references) == [target for _, target in load_number_words().train[-len(data.test) :]]


def test_the_loss_is_label_smoothing_by_its_definition_without_padding() -> None:
    outputs, targets = torch.randn(2, 4, 7, dtype=torch.float64), torch.tensor([[3, 4, 2, 0], [5, 2, 0, 0]])
    terms = []
    for log_p, label in zip(outputs.log_softmax(-1).flatten(0, 1), targets.flatten().tolist(), strict=True):
        wanted = torch.full((7,), SMOOTHING / 7, dtype=torch.float64)
        wanted[label] += 1 - SMOOTHING
        terms += [] if label == PAD else [-(wanted * log_p).sum()]
    assert torch.allclose(smoothed_cross_entropy(outputs, targets), torch.stack(terms).mean())


def test_the_score_counts_words_that_are_no_padding(numbers: Corpus) -> None:
    model = small(words=300)
    score = evaluator(beams=0, chunk=7)(model, numbers)
    losses, right, words = [], 0, 0
    for x, y in numbers.chunks(1):
        logits = model(x)[0]
        losses.append(functional.cross_entropy(logits, y[0], reduction="sum").item())
        right += (logits.argmax(-1) == y[0]).sum().item()
        words += y.numel()
    assert score.loss == pytest.approx(sum(losses) / words, rel=1e-5)
    assert score.accuracy == pytest.approx(right / words)
    assert score.bleu is None


def log_probability(model: Transformer, source: torch.Tensor, words: list[int]) -> float:
    """From one whole forward pass: an independent way to the number that the searches add up word by word."""
    logits = model(Sentences(source[None], torch.tensor([[BEGIN, *words[:-1]]])))
    return logits[0].log_softmax(-1)[range(len(words)), words].sum().item()


def test_no_position_sees_a_later_word_and_none_sees_padding() -> None:
    model = small()
    before, later = (model(Sentences(SOURCES, torch.tensor([[1, 3, last]] * 3))) for last in (4, 5))
    assert torch.equal(before[:, :2], later[:, :2])
    padded = torch.cat([SOURCES, torch.full((3, 2), PAD)], 1)
    assert torch.allclose(model(Sentences(padded, torch.tensor([[1, 3, 4]] * 3))), before, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_greedy_takes_the_likeliest_word_at_each_place_and_one_beam_is_greedy(seed: int) -> None:
    model = small(seed)
    found = greedy(model, SOURCES)
    assert beam_search(model, SOURCES, 1) == found
    for source, words in zip(SOURCES, found, strict=True):
        for place in range(len(words)):
            rivals = {word: log_probability(model, source, [*words[:place], word]) for word in range(2, WORDS)}
            assert rivals[words[place]] >= max(rivals.values()) - 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_a_beam_wide_enough_finds_the_best_of_all_sentences(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against every sentence of at most four words, by whole forward passes."""
    monkeypatch.setattr("lngd_bench.tasks.decoding.most_words", lambda _: 5)
    model = small(seed)
    for source, found in zip(SOURCES, beam_search(model, SOURCES, 3**4), strict=True):
        sentences = [[*words, END] for length in range(5) for words in itertools.product(range(3, WORDS), repeat=length)]
        figures = [log_probability(model, source, words) / length_penalty(len(words)) for words in sentences]
        assert log_probability(model, source, found) / length_penalty(len(found)) == pytest.approx(max(figures), abs=1e-4)


def test_a_wrapped_model_is_found_and_another_is_refused() -> None:
    model = small()
    assert translator(torch.optim.swa_utils.AveragedModel(model)).embedding.weight.shape == model.embedding.weight.shape
    assert translator(torch.compile(model, backend="eager")) is model
    with pytest.raises(TypeError, match="Linear does not translate"):
        translator(nn.Linear(1, 1))
