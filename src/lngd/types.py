"""The shape vocabulary: n samples, s positions (pixels or tokens), i inputs, o outputs.

A layer with a bias counts a constant 1 among its inputs, in the last place. A grouped convolution puts one more
dimension, its groups, in front of every shape below: `*group` stands for that dimension or for nothing.
The shapes are checked in the tests (jaxtyping with beartype) and cost nothing at run time.
"""

from jaxtyping import Bool, Float, Shaped
from torch import Tensor

Activations = Float[Tensor, "*group n s i"]
"""What enters a layer, `a`."""

Gradients = Float[Tensor, "*group n s o"]
"""Gradients with respect to a layer's pre-activation, `g`, one per sample and position, summed over nothing."""

GradientMatrix = Float[Tensor, "*group o i"]
"""A gradient or a direction as the matrix that multiplies the activations."""

InputFactor = Float[Tensor, "*group i i"]
"""A dense Fisher factor over the inputs, such as Φ."""

OutputFactor = Float[Tensor, "*group o o"]
"""A dense Fisher factor over the outputs."""

OutputDiagonal = Float[Tensor, "*group o"]
"""A diagonal Fisher factor over the outputs, such as Ψ."""

Dense = Float[Tensor, "*group oi oi"]
"""A whole Fisher block, row-major, output side first: it acts on `gradient.flatten(-2)`."""

Scalar = Float[Tensor, ""]
Flag = Bool[Tensor, ""]
"""A truth value that stays on the device, so that a step never waits for it."""

AnyTensor = Shaped[Tensor, "..."]
