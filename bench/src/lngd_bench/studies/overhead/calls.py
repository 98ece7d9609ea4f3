"""What an ordinary training step costs in calls: of Python into the library, and of torch's operations.

    python -m lngd_bench.studies.overhead.calls
    python -m lngd_bench.studies.overhead.calls --against ../before

A training step is zero_grad, forward, backward and the optimizer's step. Ordinary is one that neither measures curvature nor
refreshes an inverse nor looks for scale-invariant layers: the 26th at the default schedule. With `--against` another checkout of
the library is counted beside this one, in a process of its own. The counts depend on the versions of Python and torch alone.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

import lngd

ORDINARY = 25
"""Steps before the one that is counted."""
WIDTH, LAYERS, CLASSES, BATCH = 128, 9, 10, 64
PACKAGE = str(Path(lngd.__file__).parent) + os.sep
Build = Callable[[nn.Module], Optimizer]
Counts = dict[tuple[str, str], int]
"""By what is counted and by optimizer."""

OURS: Mapping[str, Build] = {"LNGD": lngd.LNGD, "SpectralLNGD": lngd.SpectralLNGD}


def everyone() -> dict[str, Build]:
    """Those beside ours that torch has, and its Muon joined with AdamW where the checkout has that."""
    found: dict[str, Build] = {
        "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        "AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3),
    }
    if find_spec("lngd_bench") and find_spec("lngd_bench.competitors.muon"):
        from lngd_bench.competitors.muon import MuonWithAdamW

        found["Muon with AdamW"] = lambda model: MuonWithAdamW(model, lr=0.01)
    return found | dict(OURS)


def python_calls_of(work: Callable[[], object]) -> Counter[tuple[str, str]]:
    """How often each of the package's functions was called, by file and name."""
    calls: Counter[tuple[str, str]] = Counter()

    def see(frame: FrameType, event: str, _argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            calls[code.co_filename, code.co_qualname] += 1

    sys.setprofile(see)
    work()
    sys.setprofile(None)
    return calls


class Operations(TorchDispatchMode):
    """Counts the operations that torch dispatches while it is entered as a context."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class Training:
    """A perceptron and its optimizer, in front of an ordinary step."""

    def __init__(self, layers: int, build: Build) -> None:
        torch.manual_seed(0)
        hidden = [each for _ in range(layers - 1) for each in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
        self.model = nn.Sequential(*hidden, nn.Linear(WIDTH, CLASSES))
        self.optimizer = build(self.model)
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(BATCH, WIDTH, generator=generator)
        self.y = torch.randint(CLASSES, (BATCH,), generator=generator)
        for _ in range(ORDINARY):
            self.step()
        self.optimizer.zero_grad()

    def step(self) -> None:
        """A whole training step."""
        self.forward_and_backward()
        self.optimizer.step()

    def forward_and_backward(self) -> None:
        """New gradients."""
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(self.x), self.y).backward()


def python_calls() -> Iterator[tuple[tuple[str, str], int]]:
    """Of a net of two layers: what someone reads who follows a step."""
    for name, build in OURS.items():
        training = Training(2, build)
        calls = python_calls_of(training.step)
        yield ("Python calls, 2 layers", name), calls.total()
        yield ("functions, 2 layers", name), len(calls)
        yield ("files, 2 layers", name), len({file for file, _ in calls})


def operations() -> Iterator[tuple[tuple[str, str], int]]:
    """Of a net of nine layers: what a device is asked to do."""
    for name, build in everyone().items():
        training = Training(LAYERS, build)
        with Operations() as before:
            training.forward_and_backward()
        with Operations() as step:
            training.optimizer.step()
        yield (f"operations, {LAYERS} layers, forward and backward", name), before.count
        yield (f"operations, {LAYERS} layers, optimizer's step", name), step.count
        yield (f"operations, {LAYERS} layers, in all", name), before.count + step.count


def counted_in(checkout: Path) -> Counts:
    """The same of another checkout.

    Raises:
        SystemExit: it is none.
    """
    source = checkout.resolve() / "src"
    if not (source / "lngd").is_dir():
        raise SystemExit(f"--against {checkout}: no src/lngd there")
    path = os.pathsep.join([str(source), str(checkout.resolve() / "bench" / "src")])
    command = [sys.executable, "-P", __file__, "--json"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603  this file
    found = json.loads(done.stdout)
    if not Path(found["package"]).is_relative_to(source):
        raise SystemExit(f"--against {checkout}: its process has imported {found['package']}")
    return {(what, name): number for what, name, number in found["counts"]}


def table(now: Counts, before: Counts | None) -> str:
    """A row a count; where another checkout is counted, its column and what is left of it."""
    if before is None:
        return tabulate([[*key, number] for key, number in now.items()], ["what", "optimizer", "now"], "pipe")
    rows = []
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key), now.get(key)
        share = f"{new / old:.0%}" if old and new else "–"
        rows.append([*key, "–" if old is None else old, "–" if new is None else new, share])
    sides = ["left", "left", "right", "right", "right"]
    return tabulate(rows, ["what", "optimizer", "before", "now", "share"], "pipe", colalign=sides)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="PATH", help="another checkout, counted beside this one")
    parser.add_argument("--json", action="store_true", help="the counts alone, for another process")
    given = parser.parse_args()
    torch.set_num_threads(1)
    counts = dict([*python_calls(), *operations()])
    if given.json:
        print(json.dumps({"package": PACKAGE, "counts": [[*key, number] for key, number in counts.items()]}))
        return
    print(table(counts, counted_in(given.against) if given.against else None))


if __name__ == "__main__":
    main()
