"""The private names of torch that the library can't do without, each in a function that says which public name is missing.

What each has to mean is a test in tests/test_torch_private.py, so that a new release of torch which changes one fails there.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# Operations on lists of tensors: one call, and on a GPU a few kernels, for all of them. torch's optimizers and clip_grad_norm_
# are made of them; the only public names are those of the optimizers. They take tensors of no dimension for numbers, too.
foreach_norm: Callable[..., tuple[Tensor, ...]] = torch._foreach_norm
foreach_mul: Callable[..., tuple[Tensor, ...]] = torch._foreach_mul
foreach_add: Callable[..., tuple[Tensor, ...]] = torch._foreach_add
foreach_div: Callable[..., tuple[Tensor, ...]] = torch._foreach_div
foreach_sqrt: Callable[..., tuple[Tensor, ...]] = torch._foreach_sqrt
foreach_lerp: Callable[..., tuple[Tensor, ...]] = torch._foreach_lerp
foreach_mul_: Callable[..., None] = torch._foreach_mul_
foreach_add_: Callable[..., None] = torch._foreach_add_
foreach_lerp_: Callable[..., None] = torch._foreach_lerp_
foreach_addcmul_: Callable[..., None] = torch._foreach_addcmul_
