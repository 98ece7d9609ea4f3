from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu import sentence_bleu
from torch.nn import functional

from lngd_bench.errors import BenchError
from lngd_bench.tasks.bleu import corpus_bleu
from lngd_bench.tasks.data import Data
from lngd_bench.tasks.datasets.number_words import english, german, load_number_words
from lngd_bench.tasks.datasets.parallel_text import ParallelText
from lngd_bench.tasks.models.transformer import Transformer
from lngd_bench.tasks.translation import SMOOTHING, Corpus, corpus, evaluator, smoothed_cross_entropy
from lngd_bench.tasks.vocabulary import BEGIN, END, PAD, Vocabulary

PAIRS = [("The file is open.", "Die Datei ist geöffnet."), ("Größe → 5 €\u2028x", "Ünïcode 🎉 tab\tstop"), ("a", "b")]


@pytest.fixture(scope="module")
def numbers() -> Corpus:
    text = load_number_words()
    return corpus(text, Vocabulary.learnt(text.train, 300))


def test_the_vocabulary_is_shared_and_gives_every_text_back() -> None:
    vocabulary = Vocabulary.learnt(PAIRS, 400)
    sides = [side for pair in PAIRS for side in pair]
    assert vocabulary.decoded([ids.tolist() for ids in vocabulary.encoded(sides)]) == sides


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40).map(str.strip))
def test_text_that_was_never_seen_is_no_unknown_word(text: str) -> None:
    vocabulary = Vocabulary.learnt(PAIRS, 300)
    (ids,) = vocabulary.encoded([text])
    assert {PAD, BEGIN, END}.isdisjoint(ids.tolist())
    assert vocabulary.decoded([ids.tolist()]) == [text]


def test_special_words_in_a_text_are_text() -> None:
    vocabulary = Vocabulary.learnt(PAIRS, 300)
    (ids,) = vocabulary.encoded(["a </s> b <pad>"])
    assert {PAD, BEGIN, END}.isdisjoint(ids.tolist())


def test_a_pass_uses_every_pair_once_in_batches_that_fit(numbers: Corpus) -> None:
    dealt = numbers.deal(256, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(list(dealt)).tolist()) == list(range(len(numbers.train)))
    for rows in dealt:
        assert len(rows) * max(numbers.train[row].length for row in rows.tolist()) <= 256


def test_pairs_of_a_batch_have_like_lengths(numbers: Corpus) -> None:
    """Against batches of as many pairs in random order."""

    def padding(batches: Sequence[torch.Tensor]) -> float:
        return sum(numbers.batch(rows, 0)[1].eq(PAD).sum().item() for rows in batches)

    dealt = numbers.deal(256, torch.Generator().manual_seed(0))
    order = torch.randperm(len(numbers.train), generator=torch.Generator().manual_seed(0))
    assert padding(dealt) < 0.75 * padding(order.split([len(rows) for rows in dealt]))


def test_a_batch_is_what_the_pairs_say(numbers: Corpus) -> None:
    (source, target), labels = numbers.batch(torch.tensor([5, 17]), 0)
    for row, number in enumerate((5, 17)):
        pair = numbers.train[number]
        assert source[row][source[row] != PAD].tolist() == pair.source.tolist()
        assert target[row][: len(pair.target) - 1].tolist() == pair.target[:-1].tolist()
        assert labels[row][labels[row] != PAD].tolist() == pair.target[1:].tolist()
    assert target[:, 0].tolist() == [BEGIN, BEGIN]


def test_a_pair_longer_than_a_batch_is_refused(numbers: Corpus) -> None:
    with pytest.raises(BenchError, match="larger --batch-size"):
        numbers.batches(3, torch.Generator())


def test_held_out_references_are_the_training_texts() -> None:
    text = load_number_words()
    made = corpus(text, Vocabulary.learnt(text.train, 300)).held_out()
    assert list(made.references) == [target for _, target in text.train[-len(made.test) :]]


def test_the_loss_is_label_smoothing_by_its_definition_without_padding() -> None:
    torch.manual_seed(0)
    outputs, targets = torch.randn(2, 4, 7, dtype=torch.float64), torch.tensor([[3, 4, 2, 0], [5, 2, 0, 0]])
    terms = []
    for log_p, label in zip(outputs.log_softmax(-1).flatten(0, 1), targets.flatten().tolist(), strict=True):
        wanted = torch.full((7,), SMOOTHING / 7, dtype=torch.float64)
        wanted[label] += 1 - SMOOTHING
        terms += [] if label == PAD else [-(wanted * log_p).sum()]
    assert torch.allclose(smoothed_cross_entropy(outputs, targets), torch.stack(terms).mean())


def test_the_score_counts_words_that_are_no_padding(numbers: Corpus) -> None:
    torch.manual_seed(0)
    model = Transformer(300, width=16, heads=2, layers=1, inner=32)
    score = evaluator(beams=0, chunk=7)(model, numbers)
    losses, right, words = [], 0, 0
    for x, y in numbers.chunks(1):
        logits = model.eval()(x)[0]
        losses.append(functional.cross_entropy(logits, y[0], reduction="sum").item())
        right += (logits.argmax(-1) == y[0]).sum().item()
        words += y.numel()
    assert score.loss == pytest.approx(sum(losses) / words, rel=1e-5)
    assert score.accuracy == pytest.approx(right / words)
    assert score.bleu is None


def test_bleu_is_sacrebleus_with_its_signature() -> None:
    perfect = corpus_bleu(["Das ist ein guter Satz ."], ["Das ist ein guter Satz ."])
    assert perfect.score == pytest.approx(100)
    assert "nrefs:1" in perfect.signature
    assert "tok:13a" in perfect.signature
    one = "Die Datei ist jetzt geöffnet und kann gelesen werden ."
    other = "Die Datei ist geöffnet und kann nun gelesen werden ."
    assert corpus_bleu([one], [other]).score == pytest.approx(sentence_bleu(one, [other]).score, abs=1e-6)


@pytest.mark.parametrize(
    ("number", "ours", "theirs"),
    [
        (0, "zero", "null"),
        (21, "twenty-one", "einundzwanzig"),
        (101, "one hundred and one", "einhunderteins"),
        (116, "one hundred and sixteen", "einhundertsechzehn"),
        (777, "seven hundred and seventy-seven", "siebenhundertsiebenundsiebzig"),
    ],
)
def test_numbers_in_words(number: int, ours: str, theirs: str) -> None:
    assert (english(number), german(number)) == (ours, theirs)


def test_all_numbers_differ_in_both_languages() -> None:
    assert len({english(number) for number in range(1000)}) == len({german(number) for number in range(1000)}) == 1000


def test_a_corpus_is_data_for_a_run(numbers: Corpus) -> None:
    data: Data = numbers
    assert data.first(10).device == torch.device("cpu")
    with pytest.raises(BenchError, match="asks for 801"):
        data.first(801)


def test_a_text_without_long_pairs(tmp_path: Path) -> None:
    text = ParallelText([("a b c", "d"), ("a", "d e f g")], [("a b", "c")])
    assert text.no_longer_than(3) == ParallelText([("a b c", "d")], [("a b", "c")])
