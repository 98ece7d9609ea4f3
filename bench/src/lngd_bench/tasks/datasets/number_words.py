"""Numbers in words, English and German: a translation task that needs no data, for tests."""

import torch

from lngd_bench.tasks.datasets.parallel_text import ParallelText

_ENGLISH = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"""
_GERMAN = """null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn
achtzehn neunzehn zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig"""
TEENS = 20  # from here on a word is put together
ONES_EN, TENS_EN = _ENGLISH.split()[:TEENS], _ENGLISH.split()[TEENS:]
ONES_DE, TENS_DE = _GERMAN.split()[:TEENS], _GERMAN.split()[TEENS:]


def english(number: int) -> str:
    """Of 0 to 999: `two hundred and forty-one`."""
    hundreds, rest = divmod(number, 100)
    if not hundreds:
        return _english_below_100(rest)
    head = f"{ONES_EN[hundreds]} hundred"
    return f"{head} and {_english_below_100(rest)}" if rest else head


def german(number: int) -> str:
    """Of 0 to 999: `zweihunderteinundvierzig`."""
    hundreds, rest = divmod(number, 100)
    if not hundreds:
        return _german_below_100(rest)
    head = f"{_joined(hundreds)}hundert"
    return f"{head}{_german_below_100(rest)}" if rest else head


def load_number_words(train: int = 800) -> ParallelText:
    """All numbers below 1,000 in a fixed random order, split."""
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0)).tolist()
    pairs = [(english(number), german(number)) for number in order]
    return ParallelText(pairs[:train], pairs[train:])


def _english_below_100(number: int) -> str:
    if number < TEENS:
        return ONES_EN[number]
    tens, ones = divmod(number, 10)
    return f"{TENS_EN[tens - 2]}-{ONES_EN[ones]}" if ones else TENS_EN[tens - 2]


def _german_below_100(number: int) -> str:
    if number < TEENS:
        return ONES_DE[number]
    tens, ones = divmod(number, 10)
    return f"{_joined(ones)}und{TENS_DE[tens - 2]}" if ones else TENS_DE[tens - 2]


def _joined(digit: int) -> str:
    """`eins` loses its s inside a word."""
    return "ein" if digit == 1 else ONES_DE[digit]
