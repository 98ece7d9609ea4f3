"""A layer's curvature against loops in float64: per-sample gradients of the data's own loss, without any code of the library."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compatibility.runs import DOUBLE, seeded
from lngd import FisherType
from lngd.methods import Method
from reference import backpropagated, statistics, unrolled


def kind_of(method: type[Method]) -> str:
    """The method's curvature, as `reference.statistics` names it."""
    return method.block.__name__.removesuffix("Block")


def samples(model: nn.Module, module: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """`a` and `g` of a module, `[groups, n, s, …]`; the calls of a module that is called often are further positions."""
    calls: list[tuple[Tensor, Tensor]] = []
    handle = module.register_forward_hook(lambda _module, args, output: calls.append((args[0], output)))
    loss = F.cross_entropy(model(x), y, reduction="sum")  # each sample's own gradient
    handle.remove()
    grads = torch.autograd.grad(loss, [output for _, output in calls])
    a = [unrolled(module, call) for call, _ in calls]
    return torch.cat(a, 2).detach(), torch.cat([backpropagated(module, grad) for grad in grads], 2)


def one_step(method: type[Method], model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Method:
    """The optimizer after a step on the data's own labels."""
    optimizer = method(model, fisher=FisherType.EMPIRICAL, generator=seeded(), **options)
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    return optimizer


def assert_exact(method: type[Method], model: nn.Module, name: str, x: Tensor, **options: Any) -> None:
    """After one step the statistics of layer `name` are those of loops over samples and positions."""
    model, y = model.to(DOUBLE), torch.arange(len(x)) % 3
    a, g = samples(model, model.get_submodule(name), x, y)
    block = one_step(method, model, x, y, **options).blocks[name]
    for k in range(len(a)):
        for statistic, expected in statistics(kind_of(method), a[k], g[k]).items():
            found = getattr(block, statistic)[k] if len(a) > 1 else getattr(block, statistic)
            found = torch.diag(found) if found.dim() < expected.dim() else found  # of one-hot inputs the diagonal is kept
            message = f"{statistic} of {method.__name__}, group {k}"
            torch.testing.assert_close(found.reshape(expected.shape), expected, rtol=1e-9, atol=1e-12, msg=message)


def dense_of(kind: str, a: Tensor, g: Tensor) -> Tensor:
    """The block as one matrix on row-major `[o, i]` gradients, as its paper writes it."""
    found = statistics(kind, a, g)
    match kind:
        case "LNGD":
            return torch.kron(found["psi"].diag(), found["phi"])
        case "Spectral":
            return torch.kron(found["psi"], found["phi"])
        case "TKFAC":
            return torch.kron(found["B"], found["A"]) / found["A"].trace()
        case "NGPlus":
            return torch.kron(found["L"], torch.eye(a.shape[-1], dtype=a.dtype))
        case _:
            return torch.kron(found["B"], found["A"])
