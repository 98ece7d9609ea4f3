"""Numbers in words, English and German: a translation task that needs no data, for tests."""

import torch

from lngd_bench.tasks.datasets.parallel_text import ParallelText

_ENGLISH = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"""
_GERMAN = """null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn
achtzehn neunzehn zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig"""
ENGLISH, GERMAN = _ENGLISH.split(), _GERMAN.split()
INSIDE = ["", "ein", *GERMAN[2:10]]  # of a German word, where `eins` loses its s
for ten in range(20, 100, 10):  # the lists become those of all numbers below a hundred
    ENGLISH[ten + 1 : ten + 1] = [f"{ENGLISH[ten]}-{ENGLISH[one]}" for one in range(1, 10)]
    GERMAN[ten + 1 : ten + 1] = [f"{INSIDE[one]}und{GERMAN[ten]}" for one in range(1, 10)]


def english(number: int) -> str:
    """Of 0 to 999: `two hundred and forty-one`."""
    hundreds, rest = divmod(number, 100)
    words = [f"{ENGLISH[hundreds]} hundred"] * (hundreds > 0) + [ENGLISH[rest]] * (rest > 0 or not hundreds)
    return " and ".join(words)


def german(number: int) -> str:
    """Of 0 to 999: `zweihunderteinundvierzig`."""
    hundreds, rest = divmod(number, 100)
    return f"{INSIDE[hundreds]}hundert{GERMAN[rest] if rest else ''}" if hundreds else GERMAN[rest]


def load_number_words(train: int = 800) -> ParallelText:
    """All numbers below 1,000 in a fixed random order, split."""
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0)).tolist()
    pairs = [(english(number), german(number)) for number in order]
    return ParallelText(pairs[:train], pairs[train:])
