"""Sentences out of a translation model: greedy and beam search, many sentences at once, a word of each at a time."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lngd_bench.tasks.models.transformer import Transformer
from lngd_bench.tasks.vocabulary import BEGIN, END, PAD

LENGTH_PENALTY = 0.6  # α of Vaswani et al. 2017, sec. 6.1
ROOM = 50  # tokens that a translation may have more than its source (same section)
LATEST = 2.0  # times the source's length plus a few, where that is less: an untrained model never ends
FEW = 10
NEVER = [PAD, BEGIN]  # no words of a translation


Search = Callable[[Transformer, Tensor], list[list[int]]]
"""Sources `[n, s]` → ids of each sentence, its end included where it came."""


def search_with(beams: int) -> Search:
    return greedy if beams == 1 else BeamSearch(beams)


def translator(model: nn.Module) -> Transformer:
    """The model itself, whatever is wrapped around it for compilation or averaging.

    Raises:
        TypeError: it is none.
    """
    inner = getattr(model, "_orig_mod", getattr(model, "module", model))
    if isinstance(inner, Transformer):
        return inner
    if inner is model:
        raise TypeError(f"{type(model).__name__} does not translate, a Transformer does")
    return translator(inner)


def longest(source: Tensor) -> int:
    """Tokens after which a translation ends in any case."""
    places = source.shape[1]
    return min(places + ROOM, int(LATEST * places) + FEW)


@torch.no_grad()
def greedy(model: Transformer, source: Tensor) -> list[list[int]]:
    """The likeliest word at each place; ids of each sentence, the end included where it came."""
    reading = model.read(source)
    word = source.new_full((len(source), 1), BEGIN)
    over = torch.zeros(len(source), dtype=torch.bool, device=source.device)
    written: list[Tensor] = []
    for place in range(longest(source)):
        logits, reading = model.continued(word, reading, place)
        logits[..., NEVER] = -torch.inf
        word = logits[:, -1].argmax(-1).masked_fill(over, PAD)[:, None]
        written.append(word)
        over |= word[:, 0] == END
        if over.all():
            break
    return [_trimmed(row) for row in torch.cat(written, 1).tolist()]


class BeamSearch:
    """The `beams` likeliest beginnings of each sentence at each place; of the ended ones the best by log p / length penalty.

    An end counts where it is among the `beams` likeliest, so one beam is greedy search. The penalty is ((5 + length) / 6)^α
    (Wu et al. 2016, eq. 14). A sentence is over when no beginning can beat its best end.
    """

    def __init__(self, beams: int, alpha: float = LENGTH_PENALTY) -> None:
        self.beams, self.alpha = beams, alpha

    @torch.no_grad()
    def __call__(self, model: Transformer, source: Tensor) -> list[list[int]]:
        reading = model.read(source.repeat_interleave(self.beams, 0))
        state = _Beams.start(source, self.beams)
        for place in range(longest(source)):
            logits, reading = model.continued(state.written[..., -1].flatten()[:, None], reading, place)
            log_p = logits[:, -1].log_softmax(-1).view(len(source), self.beams, -1)
            state, parents = state.grown(log_p, self.penalty(place + 1))
            if state.over(self.penalty(longest(source))):
                break
            reading = reading.at(parents)
        return [_trimmed(row) for row in state.result().tolist()]

    def penalty(self, length: int) -> float:
        return ((5 + length) / 6) ** self.alpha


class _Beams:
    """`written` `[n, beams, t]` with log-probabilities `scores`, and the best ended row of each sentence with its figure."""

    def __init__(self, written: Tensor, scores: Tensor, best: Tensor, figures: Tensor) -> None:
        self.written, self.scores, self.best, self.figures = written, scores, best, figures

    @classmethod
    def start(cls, source: Tensor, beams: int) -> "_Beams":
        """All beams are the beginning; all but one are impossible, so that the first step does not find it many times."""
        n = len(source)
        scores = torch.full((n, beams), -torch.inf, device=source.device)
        scores[:, 0] = 0
        written = source.new_full((n, beams, 1), BEGIN)
        return cls(written, scores, source.new_full((n, 1), END), torch.full((n,), -torch.inf, device=source.device))

    def grown(self, log_p: Tensor, penalty: float) -> tuple["_Beams", Tensor]:
        """Every beginning with every word, the ended ones taken out, and which row each new one comes from."""
        n, beams, words = log_p.shape
        total = self.scores[..., None] + log_p
        total[..., NEVER] = -torch.inf
        weakest = total.flatten(1).topk(beams).values[:, -1:]
        ends = total[..., END]
        ended = self._with_best_end(ends.masked_fill(ends < weakest, -torch.inf) / penalty)
        total[..., END] = -torch.inf
        scores, place = total.flatten(1).topk(beams)
        parent, word = place // words, place % words
        before = self.written[torch.arange(n, device=place.device)[:, None], parent]
        rows = parent + beams * torch.arange(n, device=place.device)[:, None]
        return _Beams(torch.cat([before, word[..., None]], -1), scores, *ended), rows.flatten()

    def over(self, mildest_penalty: float) -> bool:
        """Scores only fall, and the mildest penalty is the longest sentence's."""
        return bool((self.scores.max(1).values / mildest_penalty <= self.figures).all())

    def result(self) -> Tensor:
        """The best end; where no beginning has ended, the best beginning."""
        best, rows = _same_length(self.best, self._rows(self.scores.argmax(1)))
        never = self.figures == -torch.inf
        return torch.where(never[:, None], rows, best)

    def _rows(self, place: Tensor) -> Tensor:
        """One beam of each sentence, without its beginning."""
        return self.written[torch.arange(len(place), device=place.device), place][:, 1:]

    def _with_best_end(self, figures: Tensor) -> tuple[Tensor, Tensor]:
        figure, place = figures.max(1)
        rows = nn.functional.pad(self._rows(place), (0, 1), value=END)
        best, rows = _same_length(self.best, rows)
        better = figure > self.figures
        return torch.where(better[:, None], rows, best), torch.where(better, figure, self.figures)


def _same_length(*tensors: Tensor) -> list[Tensor]:
    """Padded on the right to the longest."""
    size = max(tensor.shape[1] for tensor in tensors)
    return [nn.functional.pad(tensor, (0, size - tensor.shape[1]), value=PAD) for tensor in tensors]


def _trimmed(row: Sequence[int]) -> list[int]:
    """Without the padding after the end."""
    row = list(row)
    return row[: row.index(END) + 1] if END in row else [word for word in row if word != PAD]
