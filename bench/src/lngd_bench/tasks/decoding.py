"""Sentences out of a translation model: greedy and beam search, many sentences at once, a word of each at a time."""

import torch
from torch import Tensor, nn

from lngd_bench.tasks.models.transformer import BEGIN, END, PAD, Transformer

LENGTH_PENALTY = 0.6  # α of Vaswani et al. 2017, sec. 6.1
ROOM = 50  # tokens that a translation may have more than its source (same section)
LATEST = 2.0  # times the source's length plus a few, where that is less: an untrained model never ends
FEW = 10
NEVER = [PAD, BEGIN]  # no words of a translation


def translator(model: nn.Module) -> Transformer:
    """The model itself, whatever is wrapped around it for compilation or averaging; raises TypeError where it is none."""
    inner = getattr(model, "_orig_mod", getattr(model, "module", model))
    if isinstance(inner, Transformer):
        return inner
    if inner is model:
        raise TypeError(f"{type(model).__name__} does not translate, a Transformer does")
    return translator(inner)


def most_words(source: Tensor) -> int:
    """Tokens after which a translation ends in any case."""
    places = source.shape[1]
    return min(places + ROOM, int(LATEST * places) + FEW)


@torch.no_grad()
def greedy(model: Transformer, source: Tensor) -> list[list[int]]:
    """The likeliest word at each place, from sources `[n, s]`; ids of each sentence, its end included where it came."""
    reading = model.read(source)
    word = source.new_full((len(source), 1), BEGIN)
    over = torch.zeros(len(source), dtype=torch.bool, device=source.device)
    written: list[Tensor] = []
    for place in range(most_words(source)):
        logits, reading = model.continued(word, reading, place)
        logits[..., NEVER] = -torch.inf
        word = logits[:, -1].argmax(-1).masked_fill(over, PAD)[:, None]
        written.append(word)
        over |= word[:, 0] == END
        if over.all():
            break
    return _sentences(torch.cat(written, 1))


@torch.no_grad()
def beam_search(model: Transformer, source: Tensor, beams: int) -> list[list[int]]:
    """The `beams` likeliest beginnings of each sentence at each place; of the ended ones the best by log p / length penalty.

    An end counts where it is among the `beams` likeliest, so one beam is greedy search. A sentence is over when no beginning
    can beat its best end: scores only fall, and the mildest penalty is the longest sentence's.
    """
    n, most = len(source), most_words(source)
    sentence = torch.arange(n, device=source.device)
    reading = model.read(source.repeat_interleave(beams, 0))
    written = source.new_full((n, beams, most + 1), PAD)  # the beginning first
    written[..., 0] = BEGIN
    scores = torch.full((n, beams), -torch.inf, device=source.device)
    scores[:, 0] = 0  # all beams are the same beginning: the first step must not find it many times
    best, figures = written[:, 0], torch.full((n,), -torch.inf, device=source.device)
    for place in range(1, most + 1):
        logits, reading = model.continued(written[..., place - 1].reshape(-1, 1), reading, place - 1)
        total = scores[..., None] + logits[:, -1].log_softmax(-1).view(n, beams, -1)
        total[..., NEVER] = -torch.inf
        ends, weakest = total[..., END], total.flatten(1).topk(beams).values[:, -1:]
        figure, beam = (ends.masked_fill(ends < weakest, -torch.inf) / length_penalty(place)).max(1)
        ended = written[sentence, beam]
        ended[:, place] = END
        best = torch.where((figure > figures)[:, None], ended, best)
        figures = figures.maximum(figure)
        total[..., END] = -torch.inf
        scores, chosen = total.flatten(1).topk(beams)
        parent, word = chosen // total.shape[-1], chosen % total.shape[-1]
        written = written[sentence[:, None], parent]
        written[..., place] = word
        if (scores.max(1).values / length_penalty(most) <= figures).all():
            break
        reading = reading.at((parent + beams * sentence[:, None]).flatten())
    never = figures == -torch.inf  # where no beginning has ended, the best beginning
    return _sentences(torch.where(never[:, None], written[sentence, scores.argmax(1)], best)[:, 1:])


def length_penalty(length: int) -> float:
    """((5 + length) / 6)^α (Wu et al. 2016, eq. 14)."""
    return ((5 + length) / 6) ** LENGTH_PENALTY


def _sentences(rows: Tensor) -> list[list[int]]:
    """Without what follows the end."""
    return [row[: row.index(END) + 1] if END in row else [word for word in row if word != PAD] for row in rows.tolist()]
