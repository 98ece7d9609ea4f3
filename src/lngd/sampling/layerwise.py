"""fisher="layerwise": g = Jᵩᵀ ε, ready in the forward pass (LNGD sec. 3.1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from lngd.sampling.draws import Draws, Noise, draw
from lngd.sampling.fisher_type import FisherType
from lngd.sampling.pull import pull_each
from lngd.sampling.source import Call, OnSample, Source

AT_ITS_OUTPUT = "sampled at its own output: reentrant checkpointing lies behind it; use_reentrant=False samples it in full"

AT_A_BORDER = "sampled where its sharded module ends, whose weights are needed on the way"
AT_ITS_OUTPUT_FOR_WEIGHTS = "sampled at its own output: weights that fully_shard has freed lie behind it"


@dataclass(frozen=True)
class Layerwise:
    """Each layer samples what the next one receives, p(â|a) = N(a, I): g = Jᵩᵀ ε with E[ε εᵀ] = I (LNGD sec. 3.1).

    Args:
        noise: ε, "rademacher" (signs) or "gaussian".
    """

    noise: Noise = "rademacher"
    type: ClassVar[FisherType] = FisherType.LAYERWISE

    def __post_init__(self) -> None:
        if self.noise not in get_args(Noise):
            raise ValueError(f"Layerwise(noise={self.noise!r}) is out of range: noise must be 'rademacher' or 'gaussian'")

    def source(self, deliver: OnSample, generator: torch.Generator) -> "LayerwiseSource":
        """What samples a model's layers in this way."""
        return LayerwiseSource(deliver, noise=self.noise, generator=generator)


class LayerwiseSource(Source):
    """Noise on a layer's input is pulled back to every pre-activation it was made from, whatever lies between.

    Reentrant checkpointing can't be differentiated on the spot: the last layer before it and the last one inside it receive noise
    on their own output.
    """

    fisher = FisherType.LAYERWISE
    pulls_in_mid_forward = True

    def __init__(self, deliver: OnSample, *, noise: Noise, generator: torch.Generator) -> None:
        super().__init__(deliver, Draws(generator))
        self.noise, self.generator = noise, generator

    def begins(self, forward_id: int) -> None:
        """What a checkpoint has run again belongs to the micro-batch before, and waits for no other layer."""
        self.open = [(call, edge) for call, edge in self.open if call.rerun]
        self._close()
        super().begins(forward_id)

    def arriving(self, x: Tensor) -> None:
        """Closes the pre-activations that x was made from: g = Jᵩᵀ ε."""
        if not self.open or x.grad_fn is None:
            return
        opened, self.open = self.open, []
        epsilon = draw(self.noise, self.generator, shape=x.shape, dtype=x.dtype, device=x.device)
        if self.borders and not any(call.rerun for call, _ in opened):
            found = self._over_borders(x, epsilon, opened)
        else:
            found = pull_each(x, epsilon, opened, self._at_its_output)
        for (call, edge), g in zip(opened, found, strict=True):
            if g is None:
                self.open.append((call, edge))
            else:
                self.give(call, g)
        if any(call.rerun for call, _ in opened):
            self.drawn()

    def leaving(self, outputs: Sequence[Tensor]) -> None:
        """Where its weights are needed on the way from its outputs back to an open layer, the outputs receive the noise."""
        if self.open and self.borders.needs_weights(outputs, [edge for _, edge in self.open]):
            for output in outputs:
                names = {call.name for call, _ in self.open}
                self.arriving(output)
                self.notes |= dict.fromkeys(names - {call.name for call, _ in self.open}, AT_A_BORDER)

    def _over_borders(self, x: Tensor, epsilon: Tensor, opened: Sequence[tuple[Call, GradientEdge]]) -> Sequence[Tensor | None]:
        try:
            return self.borders.pull(x, epsilon, [edge for _, edge in opened])
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # of a weight that is freed, or a checkpoint that would compute with it once more
            names = {call.name for call, _ in opened}
            self.notes |= dict.fromkeys(names, AT_ITS_OUTPUT_FOR_WEIGHTS)
            return [self._noise_at(call) for call, _ in opened]

    def finished(self, output: Any) -> None:
        """What is still open receives g = ε: its own output is what the next layer would get."""
        self._close()
        super().finished(output)

    def part_finished(self) -> None:
        """What is open belongs to the micro-batch before."""
        self._close()
        super().part_finished()

    def waits(self, call: Call) -> None:
        """A layer's first call is measured at once: x and g of all layers, kept until the backward pass, are larger."""
        if len(self._called[call.key]) > 1:
            super().waits(call)
        else:
            call.count = self.measured([call])
            call.let_go()

    def together(self, calls: list[Call]) -> list[list[Call]]:
        """Each call has noise of its own."""
        return [[call] for call in calls]

    def _close(self) -> None:
        opened, self.open = self.open, []
        for call, _ in opened:
            if call.rerun:
                self.notes[call.name] = AT_ITS_OUTPUT
            self.give(call, self._noise_at(call))
            if call.rerun:
                self.drawn()

    def _at_its_output(self, call: Call, _edge: GradientEdge) -> Tensor:
        self.notes[call.name] = AT_ITS_OUTPUT
        return self._noise_at(call)

    def _noise_at(self, call: Call) -> Tensor:
        return draw(self.noise, self.generator, shape=call.shape, dtype=call.dtype, device=call.x.device)
