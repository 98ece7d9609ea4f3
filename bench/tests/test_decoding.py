import itertools

import pytest
import torch
from torch import nn

from lngd_bench.tasks.decoding import BeamSearch, greedy, longest, translator
from lngd_bench.tasks.models.transformer import BIG, Sentences, Transformer
from lngd_bench.tasks.vocabulary import BEGIN, END, PAD
from lngd_bench.tasks.wmt_transformer_big import VOCABULARY

WORDS = 6  # three special ids and three words
SOURCES = torch.tensor([[3, 4, END], [5, END, PAD], [4, 4, END]])


def small(seed: int = 0, words: int = WORDS) -> Transformer:
    """Sharp enough that its choices differ from sentence to sentence."""
    torch.manual_seed(seed)
    model = Transformer(words, width=16, heads=2, layers=2, inner=32).eval()
    with torch.no_grad():
        model.embedding.weight.mul_(3)
    return model


def log_probability(model: Transformer, source: torch.Tensor, words: list[int]) -> float:
    """From one whole forward pass: an independent way to the number that the searches add up word by word."""
    logits = model(Sentences(source[None], torch.tensor([[BEGIN, *words[:-1]]])))
    return logits[0].log_softmax(-1)[range(len(words)), words].sum().item()


def test_transformer_big_has_the_papers_213_7_million_parameters() -> None:
    with torch.device("meta"):
        model = Transformer(VOCABULARY, **BIG)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 213.7


def test_no_position_sees_a_later_word_and_none_sees_padding() -> None:
    model = small()
    before = model(Sentences(SOURCES, torch.tensor([[1, 3, 4], [1, 3, 4], [1, 3, 4]])))
    later = model(Sentences(SOURCES, torch.tensor([[1, 3, 5], [1, 3, 5], [1, 3, 5]])))
    assert torch.equal(before[:, :2], later[:, :2])
    padded = torch.cat([SOURCES, torch.full((3, 2), PAD)], 1)
    assert torch.allclose(model(Sentences(padded, torch.tensor([[1, 3, 4]] * 3))), before, atol=1e-5)


def test_word_by_word_gives_the_logits_of_the_whole() -> None:
    model, target = small(), torch.tensor([[1, 3, 4, 5], [1, 5, 4, 3], [1, 3, 3, 3]])
    whole = model(Sentences(SOURCES, target))
    reading, pieces = model.read(SOURCES), []
    for place in range(4):
        piece, reading = model.continued(target[:, place : place + 1], reading, place)
        pieces.append(piece)
    assert torch.allclose(torch.cat(pieces, 1), whole, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_one_beam_is_greedy(seed: int) -> None:
    model = small(seed)
    assert BeamSearch(1)(model, SOURCES) == greedy(model, SOURCES)


@pytest.mark.parametrize("seed", range(5))
def test_greedy_takes_the_likeliest_word_at_each_place(seed: int) -> None:
    model = small(seed)
    for source, words in zip(SOURCES, greedy(model, SOURCES), strict=True):
        for place in range(len(words)):
            rivals = {word: log_probability(model, source, [*words[:place], word]) for word in range(2, WORDS)}
            assert rivals[words[place]] >= max(rivals.values()) - 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_a_beam_wide_enough_finds_the_best_of_all_sentences(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against every sentence of at most four words, by whole forward passes."""
    monkeypatch.setattr("lngd_bench.tasks.decoding.longest", lambda _: 5)
    model, search = small(seed), BeamSearch(3**4)
    for source, found in zip(SOURCES, search(model, SOURCES), strict=True):
        sentences = [[*words, END] for length in range(5) for words in itertools.product(range(3, WORDS), repeat=length)]
        figures = [log_probability(model, source, words) / search.penalty(len(words)) for words in sentences]
        assert log_probability(model, source, found) / search.penalty(len(found)) == pytest.approx(max(figures), abs=1e-4)


def test_a_model_that_never_ends_is_stopped() -> None:
    model = small()
    with torch.no_grad():
        model.embedding.weight[END] = -100 * model.norm.weight
    rows = greedy(model, SOURCES)
    assert {len(row) for row in rows if END not in row} <= {longest(SOURCES)}


def test_sentences_of_a_batch_do_not_change_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lngd_bench.tasks.decoding.longest", lambda _: 9)
    model = small(3)
    together = BeamSearch(3)(model, SOURCES)
    assert together == [BeamSearch(3)(model, row[None][:, : int((row != PAD).sum())])[0] for row in SOURCES]


def test_a_wrapped_model_is_found_and_another_is_refused() -> None:
    model = small()
    assert translator(torch.optim.swa_utils.AveragedModel(model)).embedding.weight.shape == model.embedding.weight.shape
    assert translator(torch.compile(model, backend="eager")) is model
    with pytest.raises(TypeError, match="Linear does not translate"):
        translator(nn.Linear(1, 1))
