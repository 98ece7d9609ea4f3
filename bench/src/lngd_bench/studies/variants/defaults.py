"""The lr, damping and interval of LNGD, or of another method of the family, together: `docs/defaults.md`, `docs/methods.md`."""

import argparse
import inspect
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any

import lngd
from lngd.methods import Method
from lngd.optimizer.hyperparameters import as_step_size
from lngd.sampling import as_fisher
from lngd_bench.competitors.optimizers import OPTIMIZERS
from lngd_bench.studies.variants.changes import Wanted, built, last_epoch
from lngd_bench.tasks import TASKS

SEED = 1000  # apart from those of the reports
METHODS: Mapping[str, type[Method]] = {method.__name__: method for method in Method.__subclasses__()}
OWN: Mapping[str, Any] = {name: parameter.default for name, parameter in inspect.signature(lngd.LNGD).parameters.items()}
"""LNGD's defaults."""
OBJECTS: Mapping[str, Any] = {
    "step_size": as_step_size(OWN["step_size"]),
    "fisher": as_fisher(OWN["fisher"]),
    "schedule": OWN["schedule"],
    "factors": OWN["factors"],
}
"""Those that are made of several things."""
REVERTIBLE = [
    *lngd.PAPER,
    *(
        f"{name}.{field.name}"
        for name, given in OBJECTS.items()
        for field in fields(given)
        if hasattr(lngd.PAPER[name], field.name)
    ),
]


def wanted(given: argparse.Namespace) -> Iterator[Wanted]:
    """Every combination of what the command line lists."""
    grid = itertools.product(given.tasks, given.lr, given.damping, given.curvature_every, given.kl_clip, given.revert)
    for name, lr, damping, every, kl_clip, reverted in grid:
        options: dict[str, Any] = {"damping": damping, "schedule": _schedule(given.method, every)}
        if kl_clip is not None:
            options["step_size"] = lngd.KLClip(kl_clip)
        if reverted:
            options[reverted.partition(".")[0]] = _as_in_the_paper(options, reverted)
        build = built(partial(METHODS[given.method], **options))
        if given.baseline:
            build, options = OPTIMIZERS[given.baseline].build, {}
        task = replace(TASKS[name], steps=given.steps, epoch_steps=100)
        about = {"task": name, "steps": given.steps, "optimizer": given.baseline or given.method.lower(), "lr": lr, **options}
        yield about, partial(last_epoch, task, build, lr, SEED)


def _schedule(method: str, every: int) -> lngd.Schedule:
    """The method's own at another interval. EKFAC measures its eigenvalues many times between two refreshes of their basis."""
    own: lngd.Schedule = inspect.signature(METHODS[method]).parameters["schedule"].default
    measured, refreshed = (max(1, every // 4), 5 * every) if method == "EKFAC" else (every, every)
    return replace(own, curvature_every=measured, inverse_every=refreshed)


def _as_in_the_paper(options: Mapping[str, Any], name: str) -> Any:
    """An argument as `lngd.PAPER` has it, or with only one thing that belongs to it so."""
    argument, _, field = name.partition(".")
    paper = lngd.PAPER[argument]
    return replace(options.get(argument, OBJECTS[argument]), **{field: getattr(paper, field)}) if field else paper
