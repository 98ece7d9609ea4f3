"""Numbers in words, English and German: a translation task that needs no data, for tests."""

import torch

from lngd_bench.tasks.datasets.parallel_text import ParallelText

TEENS = 20  # from here on a word is put together
_ENGLISH = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"""
_GERMAN = """null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn
achtzehn neunzehn zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig"""
ENGLISH, GERMAN = _ENGLISH.split(), _GERMAN.split()


def english(number: int) -> str:
    """Of 0 to 999: `two hundred and forty-one`."""
    if number >= 100:
        rest = f" and {english(number % 100)}" if number % 100 else ""
        return f"{ENGLISH[number // 100]} hundred{rest}"
    tens, ones = divmod(number, 10)
    if number < TEENS or not ones:
        return ENGLISH[number if number < TEENS else TEENS - 2 + tens]
    return f"{ENGLISH[TEENS - 2 + tens]}-{ENGLISH[ones]}"


def german(number: int) -> str:
    """Of 0 to 999: `zweihunderteinundvierzig`."""
    if number >= 100:
        return f"{_inside(number // 100)}hundert{german(number % 100) if number % 100 else ''}"
    tens, ones = divmod(number, 10)
    if number < TEENS or not ones:
        return GERMAN[number if number < TEENS else TEENS - 2 + tens]
    return f"{_inside(ones)}und{GERMAN[TEENS - 2 + tens]}"


def _inside(digit: int) -> str:
    """`eins` loses its s inside a word."""
    return "ein" if digit == 1 else GERMAN[digit]


def load_number_words(train: int = 800) -> ParallelText:
    """All numbers below 1,000 in a fixed random order, split."""
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0)).tolist()
    pairs = [(english(number), german(number)) for number in order]
    return ParallelText(pairs[:train], pairs[train:])
