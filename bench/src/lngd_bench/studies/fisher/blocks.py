"""The Fisher blocks of the paper's Figs. 1 and 5 as a line of `fisher.jsonl`, from which both figures can be drawn again.

An approximate block is a Kronecker product and is kept as its two factors in float32. The exact one is not: its lower triangle is
kept in float16, relative to its largest entry, which costs 214 kB for 400 × 400. Figures are always drawn from what is kept.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from lngd_bench.studies.fisher.figure_records import FigureRecord

EVENT = "blocks"
FILE = "fisher.jsonl"
RECORD = FigureRecord("fisher", FILE, 64 * 2**20, "blocks")  # it has 0.3 million bytes
LARGEST_SIDE = 2000  # of a block; the paper's has 400
DRAWN = "LNGD"  # the method that no figure lacks


@dataclass(frozen=True)
class FisherBlocks:
    """One layer's blocks, weights only and with inputs first.

    Attributes:
        exact: `[i·o, i·o]`, symmetric.
        factors: by method, over the inputs `[i, i]` and over the outputs `[o, o]`.
    """

    title: str
    exact: Tensor
    factors: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def outputs(self) -> int:
        return len(next(iter(self.factors.values()))[1])

    @classmethod
    def of(cls, title: str, exact: Tensor, blocks: Mapping[str, Tensor], outputs: int) -> Self:
        """As it is read again: rounded to what a line keeps."""
        factors = {name: kronecker_factors(block, outputs) for name, block in blocks.items()}
        return cls.from_line(cls(title, exact, factors).line())

    def dense(self) -> dict[str, Tensor]:
        return {name: torch.kron(inputs, outputs) for name, (inputs, outputs) in self.factors.items()}

    def line(self) -> dict[str, Any]:
        """For JSON."""
        largest = self.exact.abs().max().item()
        lower = self.exact.numpy()[np.tril_indices(len(self.exact))] / (largest or 1.0)
        factors = {name: [_packed(factor.numpy(), "<f4") for factor in pair] for name, pair in self.factors.items()}
        sides = {"inputs": len(self.exact) // self.outputs, "outputs": self.outputs}
        return {
            "event": EVENT,
            "title": self.title,
            **sides,
            "largest": largest,
            "exact": _packed(lower, "<f2"),
            "factors": factors,
        }

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> Self:
        """Raises one of DAMAGED where sizes don't fit or values are not finite."""
        inputs, outputs = int(line["inputs"]), int(line["outputs"])
        side = inputs * outputs
        if not (inputs > 0 and outputs > 0 and side <= LARGEST_SIDE):
            raise ValueError(f"a block of {inputs} inputs and {outputs} outputs")
        lower = _unpacked(line["exact"], "<f2", side * (side + 1) // 2) * float(line["largest"])
        factors = {
            str(name): (_square(pair[0], inputs), _square(pair[1], outputs))
            for name, pair in line["factors"].items()
            if len(pair) == 2
        }
        if not (DRAWN in factors and np.isfinite(lower).all()):
            raise ValueError(f"no factors of {DRAWN}, or entries that are not finite")
        return cls(str(line["title"]), _symmetric(lower, side), factors)


def kronecker_factors(block: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
    """X over the inputs and Y over the outputs of a block X ⊗ Y: its partial traces, of which one is divided by tr X · tr Y."""
    parts = block.unflatten(1, (-1, outputs)).unflatten(0, (-1, outputs))  # [i, o, i, o]
    over_inputs = parts.diagonal(dim1=1, dim2=3).sum(-1)
    over_outputs = parts.diagonal(dim1=0, dim2=2).sum(-1)
    trace = block.trace()
    return over_inputs, over_outputs / trace if trace else over_outputs


def read_blocks(directory: Path) -> FisherBlocks:
    """What `lngd fisher` has left in a directory.

    Raises:
        BenchError: nothing, or a record from before it kept blocks, or a damaged one.
    """
    return RECORD.read(directory, _blocks)


def _blocks(lines: Sequence[Mapping[str, Any]]) -> FisherBlocks | None:
    found = [line for line in lines if line["event"] == EVENT]
    return FisherBlocks.from_line(found[0]) if found else None


def _packed(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode("ascii")


def _unpacked(text: str, kind: str, count: int) -> np.ndarray:
    """Checked before a byte is decoded."""
    size = count * np.dtype(kind).itemsize
    if len(text) != 4 * -(-size // 3):
        raise ValueError(f"{len(text)} characters where {count} numbers were expected")
    return np.frombuffer(base64.b64decode(text, validate=True), kind).astype(np.float64)


def _square(text: str, side: int) -> Tensor:
    values = _unpacked(text, "<f4", side * side)
    if not np.isfinite(values).all():
        raise ValueError("factors that are not finite")
    return torch.from_numpy(values.reshape(side, side))


def _symmetric(lower: np.ndarray, side: int) -> Tensor:
    matrix = np.zeros((side, side))
    matrix[np.tril_indices(side)] = lower
    return torch.from_numpy(matrix + np.tril(matrix, -1).T)
