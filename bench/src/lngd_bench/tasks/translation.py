"""Translation as a task: a vocabulary that two languages share, batches of pairs of like length, label smoothing, BLEU.

A batch holds as many pairs as fit into a number of tokens, padding counted, on its longer side. Pairs are put into batches by
their length, the batches in random order, anew in every pass.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import torch
from sacrebleu.metrics.bleu import BLEU
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from lngd_bench.clock import CPU
from lngd_bench.errors import BenchError
from lngd_bench.tasks.data import Batch, Batches, Data, check_enough, held_out_size
from lngd_bench.tasks.datasets.parallel_text import Pair, ParallelText
from lngd_bench.tasks.decoding import beam_search, greedy, translator
from lngd_bench.tasks.models.transformer import BEGIN, END, PAD, Sentences
from lngd_bench.tasks.scoring import Score, evaluating, means, totals

SMOOTHING = 0.1
JITTER = 0.1  # of a length, in which order pairs are put into batches: no two passes have the same batches


class Vocabulary:
    """Byte-pair encoding: words of bytes, so that no text is unknown; ids 0, 1 and 2 are padding, beginning and end."""

    def __init__(self, pairs: Sequence[Pair], size: int) -> None:
        """From both sides of the training text; smaller than `size` only where the text has no more to merge."""
        self.tokenizer = Tokenizer(models.BPE())
        self.tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        self.tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=["<pad>", "<s>", "</s>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
            min_frequency=2,
        )
        self.tokenizer.train_from_iterator((side for pair in pairs for side in pair), trainer)
        self.tokenizer.encode_special_tokens = True  # a text that says </s> is text

    def encoded(self, texts: Sequence[str]) -> list[Tensor]:
        """Ids of each text, without beginning and end."""
        return [torch.tensor(encoding.ids, dtype=torch.int32) for encoding in self.tokenizer.encode_batch_fast(list(texts))]

    def decoded(self, rows: Iterable[Sequence[int]]) -> list[str]:
        """Special ids left out."""
        return [text.strip() for text in self.tokenizer.decode_batch([list(row) for row in rows])]


@dataclass(frozen=True)
class Encoded:
    """A pair as ids: the source with its end, the target between beginning and end."""

    source: Tensor
    target: Tensor

    @property
    def length(self) -> int:
        return max(len(self.source), len(self.target) - 1)


@dataclass(frozen=True)
class Corpus(Data):
    """Pairs as ids.

    Attributes:
        references: the German lines of the evaluation pairs.
    """

    vocabulary: Vocabulary
    train: Sequence[Encoded]
    test: Sequence[Encoded]
    references: Sequence[str]
    device: torch.device = CPU

    def to(self, device: torch.device) -> Self:
        """Batches go there; the ids stay on the host."""
        return replace(self, device=device)

    def first(self, samples: int) -> Self:
        check_enough(samples, len(self.train))
        return replace(self, train=self.train[:samples])

    def held_out(self) -> Self:
        """The last tenth of the training pairs evaluates, at most as many as evaluate otherwise."""
        size = held_out_size(len(self.train), len(self.test))
        held_out = self.train[-size:]
        references = self.vocabulary.decoded([pair.target.tolist() for pair in held_out])
        return replace(self, train=self.train[:-size], test=held_out, references=references)

    def batches(self, size: int, generator: torch.Generator) -> Batches:
        """Raises BenchError where a pair is longer than a batch."""
        longest = max(pair.length for pair in self.train)
        if longest > size:
            raise BenchError(f"a pair has {longest} tokens, a batch of {size} has no room for it: choose a larger --batch-size")
        return Batches(self, size, generator)

    def chunks(self, size: int) -> Iterator[Batch]:
        return (self._padded(self.test[start : start + size]) for start in range(0, len(self.test), size))

    def deal(self, size: int, generator: torch.Generator) -> Sequence[Tensor]:
        lengths = torch.tensor([pair.length for pair in self.train])
        jittered = lengths * (1 + JITTER * torch.rand(len(lengths), generator=generator))
        dealt = list(_filled(jittered.argsort().tolist(), lengths.tolist(), size))
        return [torch.tensor(dealt[place]) for place in torch.randperm(len(dealt), generator=generator).tolist()]

    def batch(self, rows: Tensor, seed: int) -> Batch:
        return self._padded([self.train[row] for row in rows.tolist()])

    def _padded(self, pairs: Sequence[Encoded]) -> Batch:
        sides = ([pair.source for pair in pairs], [pair.target for pair in pairs])
        source, target = (pad_sequence(side, batch_first=True, padding_value=PAD).long().to(self.device) for side in sides)
        return Sentences(source, target[:, :-1]), target[:, 1:]


def _filled(order: Sequence[int], lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Consecutive rows as long as their number times the longest fits."""
    rows: list[int] = []
    longest = 0
    for row in order:
        if rows and (len(rows) + 1) * max(longest, lengths[row]) > size:
            yield rows
            rows, longest = [], 0
        rows.append(row)
        longest = max(longest, lengths[row])
    yield rows


def corpus(text: ParallelText, size: int) -> Corpus:
    """With a vocabulary of that size, learnt from the training part."""
    vocabulary = Vocabulary(text.train, size)
    begin, end = torch.tensor([BEGIN], dtype=torch.int32), torch.tensor([END], dtype=torch.int32)

    def encoded(pairs: Sequence[Pair]) -> list[Encoded]:
        sides = (vocabulary.encoded([pair[side] for pair in pairs]) for side in (0, 1))
        return [Encoded(torch.cat([s, end]), torch.cat([begin, t, end])) for s, t in zip(*sides, strict=True)]

    return Corpus(vocabulary, encoded(text.train), encoded(text.test), [german for _, german in text.test])


def smoothed_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over tokens without padding, a tenth of the probability spread over the vocabulary (Vaswani et al. 2017, sec. 5.4)."""
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), ignore_index=PAD, label_smoothing=SMOOTHING)


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """BLEU, 0 to 100, by sacreBLEU: cased, 13a tokens, one reference; and the signature that says so (Post 2018)."""
    metric = BLEU()
    score = metric.corpus_score(list(hypotheses), [list(references)]).score
    return score, str(metric.get_signature())


def evaluator(*, beams: int, chunk: int = 128) -> Callable[[nn.Module, Data], Score]:
    """Loss without smoothing and accuracy by token; BLEU of greedy (`beams=1`) or beam search, none with `beams=0`."""

    def without_padding(outputs: Tensor, targets: Tensor) -> Tensor:
        kept = targets != PAD
        return totals(outputs[kept], targets[kept])

    @torch.no_grad()
    def evaluate(model: nn.Module, data: Data) -> Score:
        assert isinstance(data, Corpus)
        with evaluating(model):
            loss, accuracy = means(model, data.chunks(chunk), without_padding)
            bleu = corpus_bleu(translations(model, data, beams, chunk), data.references)[0] if beams else None
        return Score(loss, accuracy, bleu)

    return evaluate


def translations(model: nn.Module, data: Corpus, beams: int, chunk: int) -> list[str]:
    """Of the evaluation sentences, in their order."""
    search = greedy if beams == 1 else partial(beam_search, beams=beams)
    return data.vocabulary.decoded([row for x, _ in data.chunks(chunk) for row in search(translator(model), x.source)])
