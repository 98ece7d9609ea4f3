"""What `fisher=` takes: a name, a type or a way of sampling with its settings."""

from typing import Any, TypeAlias

from lngd.sampling.empirical import Empirical
from lngd.sampling.fisher_type import FisherType
from lngd.sampling.layerwise import Layerwise
from lngd.sampling.sampled import Sampled

Fisher: TypeAlias = Layerwise | Empirical | Sampled
WAYS: dict[FisherType, type[Fisher]] = {way.type: way for way in (Layerwise, Empirical, Sampled)}


def as_fisher(given: Any) -> Fisher:
    """A way of sampling as it is; of a name or a type, the one with the usual settings.

    Raises:
        ValueError: it is none of them.
    """
    if isinstance(given, Fisher):
        return given
    for way in FisherType:
        if given is way or given == way.value:
            return WAYS[way]()
    names = ", ".join(repr(way.value) for way in FisherType)
    raise ValueError(
        f"fisher={given!r} is out of range: it must be one of {names}, a member of lngd.FisherType, "
        "or Layerwise(noise=…), Empirical() or Sampled(likelihood=…)"
    )
