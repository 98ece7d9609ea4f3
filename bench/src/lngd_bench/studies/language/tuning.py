"""Twelve trials for every optimizer, which has one rate to find or two; after each, the rule knows where the next one goes.

Conventions. A point counts half octaves: `(3, -2)` is the customary rate times √2³ and the default `rest` over 2. Losses are to
be made small; a run that diverges has an infinite one.
"""

from collections.abc import Callable, Iterable

Point = tuple[int, int]
"""Of the rate and of `rest`, from the optimizer's own."""
TRIALS = 12
FIRST_RATES = 4
"""Of an optimizer with two rates, a factor of 2 apart; one with a single rate has all its trials √2 apart."""


def tuned(loss: Callable[[Point], float], *, two_rates: bool) -> dict[Point, float]:
    """What every trial ended with.

    With two rates: four rates, then `rest` × ¼, ½, 2 and 4 at the best of them, then the two rates next to the best (√2) at the
    best `rest`, then twice whatever is next to the best and still unknown: a rate above, a rate below, `rest` above or below.
    """
    search = Search(loss)
    if not two_rates:
        search.rates(TRIALS, apart=1)
        return search.found
    search.rates(FIRST_RATES, apart=2)
    rate, _ = search.best
    search.look((rate, rest) for rest in (-4, -2, 2, 4))
    rate, rest = search.best
    search.look(((rate - 1, rest), (rate + 1, rest)))
    while len(search.found) < TRIALS:
        rate, rest = search.best
        around = ((rate + 1, rest), (rate - 1, rest), (rate, rest + 1), (rate, rest - 1))
        search.look([next(point for point in around if point not in search.found)])
    return search.found


class Search:
    """The trials so far.

    Attributes:
        found: each with its loss, in their order.
    """

    def __init__(self, loss: Callable[[Point], float]) -> None:
        self.loss, self.found = loss, dict[Point, float]()

    @property
    def best(self) -> Point:
        """Of equals the lowest rate: where all diverge, it is the way out."""
        return min(self.found, key=lambda point: (self.found[point], point[0], abs(point[1])))

    def look(self, points: Iterable[Point]) -> None:
        for point in points:
            self.found[point] = self.loss(point)

    def rates(self, count: int, *, apart: int) -> None:
        """So many at the default `rest`; each next one at the end that is nearer to the best, above if both are as near."""
        self.look([(0, 0)])
        while len(self.found) < count:
            rates = sorted(rate for rate, _ in self.found)
            place = rates.index(self.best[0])
            up = len(rates) - 1 - place <= place
            self.look([(rates[-1] + apart if up else rates[0] - apart, 0)])
