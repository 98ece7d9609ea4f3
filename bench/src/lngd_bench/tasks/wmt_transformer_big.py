"""The paper's Fig. 4 and Table 3: a Transformer translates English into German, judged by BLEU."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from lngd_bench.tasks.datasets.parallel_text import ENDE, WMT, ParallelText, load_number_words, read_directory
from lngd_bench.tasks.models.transformer import BIG, Transformer
from lngd_bench.tasks.schedule import paper_cosine, polynomial, warmed
from lngd_bench.tasks.task import Scale, Task
from lngd_bench.tasks.translation import Corpus, corpus, corpus_bleu, evaluator, smoothed_cross_entropy

VOCABULARY = 36560  # with it the network has the paper's 213.7 million parameters; the paper gives no number
WARMUP = 4000 / 25000  # of the steps, Vaswani et al. 2017 have 4,000
HERE_VOCABULARY = 2000
HERE_WORDS = 12
HERE_EVALUATIONS = 500
HERE_PAIRS = 19017


def _wmt(data_dir: Path | None) -> Corpus:
    return corpus(read_directory(WMT.found(data_dir)), VOCABULARY)


def here(text: ParallelText) -> ParallelText:
    """The short pairs, of which the first evaluate."""
    short = text.no_longer_than(HERE_WORDS)
    return replace(short, test=short.test[:HERE_EVALUATIONS])


def _here(data_dir: Path | None) -> Corpus:
    return corpus(here(read_directory(ENDE.found(data_dir))), HERE_VOCABULARY)


def _tiny(_: Path | None) -> Corpus:
    text = load_number_words()
    return corpus(replace(text, test=text.test[:32]), 300)


FULL = Task(
    name="wmt-transformer-big",
    title="Transformer-Big on WMT En–De",
    scale="full",
    metric="bleu",
    epochs=1,
    steps=25000,
    epoch_steps=1000,
    batch_size=25000,
    batch_unit="tokens",
    samples=4500000,
    model=partial(Transformer, VOCABULARY, **BIG, dropout=0.3),
    data_set=WMT,
    data=_wmt,
    loss=smoothed_cross_entropy,
    evaluate=evaluator(beams=4),
    scoring=f"sacreBLEU {corpus_bleu(['a'], ['a'])[1]}",
    tuning={"metric": "loss", "evaluate": evaluator(beams=0), "scoring": ""},
    step_seconds=600.0,
    schedule=polynomial(2),
    schedules={"sgd": warmed(paper_cosine(), WARMUP, restarts=False), "adamw": warmed(polynomial(2), WARMUP, restarts=False)},
    weight_decay=0.004,
    mean_over="token",
    target=32.0,
    rates={},
    note="beam search with 4 beams",
)
HERE = replace(
    FULL,
    title="Transformer of width 128 on LibreOffice's help, English–German",
    scale="here",
    steps=3000,
    epoch_steps=500,
    batch_size=512,
    samples=HERE_PAIRS,
    model=partial(Transformer, HERE_VOCABULARY, width=128, heads=4, layers=2, inner=512, dropout=0.0),
    data_set=ENDE,
    data=_here,
    evaluate=evaluator(beams=1),
    step_seconds=0.13,
    schedule=warmed(polynomial(2), restarts=False),
    schedules={},
    target=None,
    # lngd tune wmt-transformer-big --optimizers sgd,adamw,muon-fp32,kfac,lngd,lngd-spectral --trials 3 --rounds 1 --steps 300
    # --epoch-steps 150 --threads 1: 5 trials each, by evaluation loss. SGD's best is the highest of its rates.
    rates={"sgd": 0.4, "adamw": 0.004, "muon-fp32": 0.02, "kfac": 0.4, "lngd": 0.25, "lngd-spectral": 0.02},
    note=f"an epoch is 500 steps, {HERE_EVALUATIONS} evaluation pairs of at most {HERE_WORDS} words, greedy search",
)
TINY = replace(
    HERE,
    title="Transformer of width 32 on numbers in words",
    scale="tiny",
    steps=6,
    epoch_steps=3,
    batch_size=128,
    samples=500,
    model=partial(Transformer, 300, width=32, heads=2, layers=1, inner=64, dropout=0.1),
    data_set=None,
    data=_tiny,
    step_seconds=0.02,
    rates={},
    note="an epoch is 3 steps, 32 evaluation pairs, greedy search",
)
SCALES: Mapping[Scale, Task] = {"full": FULL, "here": HERE, "tiny": TINY}
