"""Runs many random cases and writes down what was run: `make fuzz CASES=10000 SEED=1 RECORD=record.json`."""

import argparse
import datetime
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import hypothesis
import torch
from hypothesis import HealthCheck, given

from fuzz.drawing import cases
from fuzz.known import is_known
from fuzz.promises import STEPS, Run, check
from fuzz.settings import Case
from lngd.optimizer.hyperparameters import as_step_size

SETTINGS = {"deadline": None, "database": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}


def counting(counts: Counter[str]) -> Callable[[], None]:
    """A test of all cases; what it ran to the end is counted."""

    @given(cases(steps=STEPS).filter(lambda case: not is_known(case)))
    def every_run_keeps_its_promises(case: Case) -> None:
        count(counts, check(case))

    return every_run_keeps_its_promises


def count(counts: Counter[str], run: Run) -> None:
    """Counts a run and what it was made of."""
    case, optimizer = run.case, run.optimizer
    kinds = {type(module).__name__ for module in run.model.modules() if any(True for _ in module.parameters(recurse=False))}
    settings, fisher = case.settings, optimizer.param_groups[0]["progress"]["fisher"]
    keys = ["cases", f"method: {settings.method}", f"dtype: {case.training.dtype}", f"fisher: {fisher}"]
    if "step_size" in settings.options:
        keys.append(f"step size: {as_step_size(settings.options['step_size'])}".split("(")[0])
    counts.update(keys + [f"layer: {kind}" for kind in kinds])
    counts.update({f"unmoved: {reason}": times for reason, times in run.unmoved.items()})
    counts["skipped steps"] += int(optimizer.stats()["skipped"])


def failures_of(test: Callable[[], None]) -> list[BaseException]:
    """Runs a test; what it found, minimised."""
    try:
        test()
    except BaseExceptionGroup as several:
        return [*several.exceptions]
    except (AssertionError, ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as one:
        return [one]
    return []


def long_run(wanted: int, seed: int) -> dict[str, object]:
    """The record of a run of `wanted` cases."""
    counts: Counter[str] = Counter()
    test = hypothesis.settings(max_examples=wanted, **SETTINGS)(hypothesis.seed(seed)(counting(counts)))
    began = time.perf_counter()
    failures = failures_of(test)
    for failure in failures:
        print(type(failure).__name__, failure, *getattr(failure, "__notes__", []), sep="\n", end="\n\n")
    return {
        "cases": counts.pop("cases"),
        "seed": seed,
        "failures": len(failures),
        "seconds": round(time.perf_counter() - began, 1),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "torch": torch.__version__,
        "counts": dict(sorted(counts.items())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/fuzz.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    record = long_run(arguments.cases, arguments.seed)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    raise SystemExit(bool(record["failures"]))


if __name__ == "__main__":
    main()
