"""What the forwards between two steps have measured of one layer."""

from dataclasses import dataclass

from torch import Tensor

from lngd.sampling import FisherType


@dataclass
class Measurement:
    """What the forwards since the last step have measured, a mean over their samples."""

    means: tuple[Tensor, ...] = ()
    samples: int = 0
    positions: int = 0
    largest: int = 0
    forward_id: int = -1
    fisher: FisherType | None = None
    """Where g came from, which is not always the optimizer's own Fisher type; None as long as there is none."""

    def add(self, measured: tuple[Tensor, ...], n: int, positions: int, forward_id: int) -> None:
        """Adds a mean over n samples. A second call in the same forward adds to the same samples, as further positions would."""
        if forward_id != self.forward_id:
            self.forward_id, self.largest, self.positions = forward_id, 0, 0
        before, self.samples = self.samples, self.samples + max(0, n - self.largest)
        self.largest, self.positions = max(self.largest, n), max(self.positions, positions)
        share, new = before / self.samples, n / self.samples
        self.means = tuple(m * share + x * new for m, x in zip(self.means, measured, strict=True)) if self.means else measured
