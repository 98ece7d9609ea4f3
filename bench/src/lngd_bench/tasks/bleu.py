"""BLEU by sacreBLEU, whose signature says how it was computed (Post 2018)."""

from collections.abc import Sequence
from dataclasses import dataclass

from sacrebleu.metrics.bleu import BLEU


@dataclass(frozen=True)
class Bleu:
    """Of a corpus, 0 to 100."""

    score: float
    signature: str


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[str]) -> Bleu:
    """Cased, tokenised by sacreBLEU's 13a rules, one reference."""
    metric = BLEU()
    score = metric.corpus_score(list(hypotheses), [list(references)]).score
    return Bleu(score, str(metric.get_signature()))


def signature() -> str:
    """Of every score that `corpus_bleu` gives."""
    return corpus_bleu(["a"], ["a"]).signature
