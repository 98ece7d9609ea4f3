"""Whether the loss is what the arguments say, as far as the first gradient of the model's output shows it.

The gradient of a cross-entropy with respect to a sample's logits is w · (p − q): p the model's probabilities, q the target,
w what the loss multiplies the sample with. It sums to zero over the classes. With a mean over N samples, or tokens, w is 1/N,
with a sum it is 1.
"""

import math

import torch
from torch import Tensor

from lngd.sampling import MeanOver, Source, class_axis, find_predictions, pulling
from lngd.sampling.sampled import SampledSource
from lngd.torch_private import is_batched
from lngd.warned import warn

ROWS = 256
"""So many rows are looked at, those with the largest gradients."""
FAR_FROM_ZERO = 0.01
"""|Σ g| / Σ |g| from which rows don't sum to zero: below that of a regression with thousands of outputs."""
FAR_FROM_ZERO_ROUNDED = 0.05
"""The same for gradients in half precision, of which the smallest may be lost."""
LOG_PROBABILITIES = 0.05
"""log Σ exp z up to which the output holds log-probabilities: their loss picks entries, its gradient does not sum to zero."""
AS_A_SUM = 0.02
"""How near to 1 w has to be."""


class LossForm:
    """Looks at the model's output and its gradient once, and says at the step what it has seen."""

    def __init__(self, source: Source, mean_over: MeanOver, *, of_scale: bool) -> None:
        self.of_classes = isinstance(source, SampledSource) and source.likelihood == "categorical"
        self.of_a_sum, self.of_scale = mean_over == "none", of_scale
        self.known = False
        self._seen: Tensor | None = None
        self._shape, self._rows, self._far = torch.Size(), 0, 0.0

    def look_at(self, output: object) -> None:
        """The output of a forward at a measuring step."""
        z = None if self.known else find_predictions(output)
        if z is None or z.grad_fn is None or z.is_nested or z.dim() < 2 or z.shape[class_axis(z)] < 2 or not z.numel():
            return
        kept, output_nr, self._rows = [z.detach()], z.output_nr, z.numel() // z.shape[class_axis(z)]

        def arrived(gradients: tuple[Tensor | None, ...]) -> None:
            gradient = gradients[output_nr]
            if gradient is not None and kept and not (self.known or pulling() or is_batched(gradient)):
                self._seen, self._shape = signs_of_a_form(kept.pop(), gradient.detach()), gradient.shape
                self._far = FAR_FROM_ZERO if gradient.dtype.itemsize >= 4 else FAR_FROM_ZERO_ROUNDED

        z.grad_fn.register_prehook(arrived)

    def warn(self, *, scaled: bool) -> None:
        """Waits for the device, the first time there is something. `scaled`: by a GradScaler, whose mean may look like a sum."""
        if self.known or self._seen is None:
            return
        (off_zero, log_sum, weight, rows), self._seen = self._seen.tolist(), None
        if math.isnan(off_zero):
            return
        self.known = True
        if self.of_classes and off_zero >= self._far and log_sum > LOG_PROBABILITIES:
            warn(
                "labels are drawn as classes, but the loss is no cross-entropy over the "
                f"{'last' if len(self._shape) <= 3 else 'second'} dimension of the model's output: "
                "give fisher=Sampled('gaussian') for regression, fisher=Sampled('bernoulli') for yes-or-no logits",
            )
        if off_zero >= self._far or min(rows, self._shape[0]) <= 1 or scaled:
            return
        samples = self._shape[0]
        if self.of_scale and not self.of_a_sum and abs(weight - 1) < AS_A_SUM:
            warn(
                f"the loss looks like a sum over the {samples} samples of the batch, not like a mean: "
                "give mean_over='none', or divide the loss by their number",
            )
        if self.of_a_sum and any(abs(weight * count - 1) < AS_A_SUM for count in (samples, self._rows)):
            warn(
                f"the loss looks like a mean over the {samples} samples of the batch, not like a sum: "
                "give mean_over='batch', or 'token' where it is one over tokens",
            )


@torch.no_grad()
def signs_of_a_form(z: Tensor, g: Tensor) -> Tensor:
    """Of the rows with the largest gradients g at outputs z: |Σ g| / Σ |g|, the largest |log Σ exp z|, w, and how many have any.

    Where g is positive it is w·p, unless targets are smoothed; then w comes out too small. In a weighted mean w is a row's share,
    so the median w of two rows and more is never near 1. The sum over a row is known up to ε·w, since p − 1 is rounded: where
    the model is sure of itself that is all there is. The first number is NaN if g is zero. All stays on the device.
    """
    axis, least, rounding = class_axis(z), torch.promote_types(z.dtype, torch.float32), torch.finfo(g.dtype).eps
    z, g = (t.movedim(axis, -1).reshape(-1, t.shape[axis]) for t in (z, g))
    largest = g.norm(1, dim=-1, dtype=least).topk(min(ROWS, len(g))).indices
    z, g = z[largest].to(least), g[largest].to(least)
    positive, any_at_all = g > 0, g.any(-1)
    weights = (g * positive).sum(-1) / (z.softmax(-1) * positive).sum(-1)  # 0 / 0 where there is no gradient
    weight = weights.nanmedian()
    off_zero = (g.sum(-1).abs() - rounding * weight.nan_to_num()).clamp(min=0).sum() / g.abs().sum()
    return torch.stack([off_zero, z.logsumexp(-1).abs().max(), weight, any_at_all.sum().to(least)])
