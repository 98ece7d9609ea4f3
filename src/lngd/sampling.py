"""Temporary."""

from dataclasses import dataclass
from typing import ClassVar

from lngd.capture import source_of
from lngd.fisher import FisherType as FisherType
from lngd.fisher import Likelihood, Noise
from lngd.fisher import MeanOver as MeanOver


@dataclass(frozen=True)
class Layerwise:
    noise: Noise = "rademacher"
    type: ClassVar[FisherType] = FisherType.LAYERWISE

    def source(self, deliver, generator):
        return source_of(self.type, deliver, noise=self.noise, likelihood="categorical", generator=generator)


@dataclass(frozen=True)
class Empirical:
    type: ClassVar[FisherType] = FisherType.EMPIRICAL

    def source(self, deliver, generator):
        return source_of(self.type, deliver, noise="rademacher", likelihood="categorical", generator=generator)


@dataclass(frozen=True)
class Sampled:
    likelihood: Likelihood = "categorical"
    type: ClassVar[FisherType] = FisherType.SAMPLED

    def source(self, deliver, generator):
        return source_of(self.type, deliver, noise="rademacher", likelihood=self.likelihood, generator=generator)


Fisher = Layerwise | Empirical | Sampled


def as_fisher(given):
    if isinstance(given, (Layerwise, Empirical, Sampled)):
        return given
    for way, kind in zip(FisherType, (Layerwise, Empirical, Sampled), strict=True):
        if given is way or given == way.value:
            return kind()
    raise ValueError(f"fisher={given!r} is out of range: it must be one of 'layerwise', 'empirical', 'sampled', or an object")
