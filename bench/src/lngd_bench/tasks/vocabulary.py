"""A vocabulary that two languages share: byte-pair encoding, learnt from the training text by `tokenizers`."""

from collections.abc import Iterable, Sequence

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from lngd_bench.tasks.datasets.parallel_text import Pair

PAD, BEGIN, END = range(3)
SPECIAL = ["<pad>", "<s>", "</s>"]


class Vocabulary:
    """Words of bytes, so that no text is unknown; ids 0, 1 and 2 are padding, beginning and end."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    @classmethod
    def learnt(cls, pairs: Sequence[Pair], size: int) -> "Vocabulary":
        """From both sides of the training text; smaller than `size` only where the text has no more to merge."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False, min_frequency=2
        )
        tokenizer.train_from_iterator((side for pair in pairs for side in pair), trainer)
        tokenizer.encode_special_tokens = True  # a text that says </s> is text
        return cls(tokenizer)

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def encoded(self, texts: Sequence[str]) -> list[Tensor]:
        """Ids of each text, without beginning and end."""
        return [torch.tensor(encoding.ids, dtype=torch.int32) for encoding in self.tokenizer.encode_batch_fast(list(texts))]

    def decoded(self, rows: Iterable[Sequence[int]]) -> list[str]:
        """Each up to its end, special ids left out."""
        return [text.strip() for text in self.tokenizer.decode_batch([_until_end(row) for row in rows])]


def _until_end(row: Sequence[int]) -> Sequence[int]:
    return row[: row.index(END)] if END in row else row
