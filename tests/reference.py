"""Independent references: small models, loops and explicit Jacobians, without any code of the library."""

import io
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mlp(*widths: int, activation: Callable[[], nn.Module] = nn.Tanh, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Linear layers with an activation between them; the same weights at every call."""
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Linear(i, o), activation()]
    return nn.Sequential(*layers[:-1]).to(dtype)


def convolutional() -> nn.Sequential:
    """Layers with and without groups, with and without biases, and AdamW's part; the same weights at every call."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)),
        nn.Conv2d(1, 4, 2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 2, groups=2, bias=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def curved(model: nn.Module) -> list[dict[str, Any]]:
    """Groups that ask for curvature, which embeddings have on request only."""
    return [{"params": list(model.parameters()), "curvature": True}]


def batch(n: int, *shape: int, classes: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Inputs and labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *shape, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(0, classes, (n,), generator=generator)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Tensor:
    """The loop of every user."""
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.detach()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: Iterable[int]) -> None:
    """One batch of 16 a step, another at every step."""
    for step in steps:
        train_step(model, optimizer, *batch(16, 4, seed=step, dtype=torch.float32))


def expected_square(segment: Callable[[Tensor], Tensor], s: Tensor) -> Tensor:
    """E[(Jᵀε)²] for E[ε εᵀ] = I: the sum of squares of each column of the Jacobian of `segment` at `s`, shaped like `s`."""
    jacobian = torch.func.jacrev(segment)(s.detach())
    return jacobian.reshape(-1, *s.shape).square().sum(0)


def factors(a: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """Φ and Ψ by loops over samples and positions, from `a` [n, s, i] and E[g²] [n, s, o] (LNGD eqs. 4–5)."""
    n, positions, inputs = a.shape
    phi, psi = a.new_zeros(inputs, inputs), a.new_zeros(squares.shape[-1])
    for sample in range(n):
        for s in range(positions):
            row, square = a[sample, s], squares[sample, s]
            phi += square.sum() * torch.outer(row, row) / n
            psi += row.dot(row) * square / n
    return phi, psi / psi.sum()


def with_ones(a: Tensor) -> Tensor:
    """A constant 1 as the last input."""
    return torch.cat([a, torch.ones_like(a[..., :1])], -1)


def per_sample_gradients(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """∇⁽ⁿ⟩ of the cross-entropy for every parameter, by name, the sample first."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights: dict[str, Tensor], sample: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, weights, (sample.unsqueeze(0),))
        return F.cross_entropy(logits, label.unsqueeze(0))

    return torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, x, y)


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every tensor of a training run by a path: weights, buffers, and all that a checkpoint holds."""
    found = {f"model.{name}": value.detach().clone() for name, value in model.state_dict().items()}
    _collect("optimizer", optimizer.state_dict(), found)
    return found


def _collect(path: str, value: object, found: dict[str, Tensor]) -> None:
    if isinstance(value, Tensor):
        found[path] = value.detach().clone()
    elif isinstance(value, int | float):
        found[path] = torch.tensor(float(value), dtype=torch.float64)
    elif isinstance(value, dict):
        for key, entry in value.items():
            _collect(f"{path}.{key}", entry, found)
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            _collect(f"{path}.{index}", entry, found)


def differences(one: dict[str, Tensor], two: dict[str, Tensor], ignoring: Iterable[str] = ()) -> list[str]:
    """The paths that are not bit-equal in both, without those that end in one of `ignoring`."""
    names = [name for name in {**one, **two} if not name.endswith(tuple(ignoring))]
    return [n for n in names if n not in one or n not in two or not torch.equal(one[n], two[n])]


def through_a_file(state: dict) -> dict:
    """A checkpoint as it comes back from disk."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def by_position(module: nn.Module, t: Tensor) -> Tensor:
    """A tensor shaped like a layer's output as `[n, s, o]`."""
    if isinstance(module, nn.Linear | nn.Embedding):
        return t.reshape(len(t), -1, t.shape[-1])
    return t.flatten(2).mT


def unrolled(module: nn.Module, x: Tensor) -> Tensor:
    """What W multiplies at each position, `[groups, n, s, i]`: the output's Jacobian by the weight, and the bias's constant."""
    groups = getattr(module, "groups", 1)

    def output(weight: Tensor, sample: Tensor) -> Tensor:
        return by_position(module, torch.func.functional_call(module, {"weight": weight}, sample.unsqueeze(0)))[0]

    samples = []
    for sample in x.detach():
        jacobian = torch.func.jacrev(output)(module.weight.detach(), sample)  # [s, o, *weight]
        outputs = jacobian.shape[1]
        first = range(0, outputs, outputs // groups)  # the first output of each group
        samples.append(torch.stack([into_output(module, jacobian[:, o], o) for o in first]))
    a = torch.stack(samples, dim=1)
    return a if getattr(module, "bias", None) is None else with_ones(a)


def into_output(module: nn.Module, jacobian: Tensor, o: int) -> Tensor:
    """From the derivative of output o by the whole weight, `[s, *weight]`, the weights that lead to o, `[s, i]`."""
    if isinstance(module, nn.Embedding):
        return jacobian[:, :, o]
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        inputs = module.in_channels // module.groups
        group, own = divmod(o, module.out_channels // module.groups)
        return jacobian[:, group * inputs : (group + 1) * inputs, own].flatten(1)
    return jacobian[:, o].flatten(1)


def backpropagated(module: nn.Module, grad: Tensor) -> Tensor:
    """A gradient with respect to a layer's output as `[groups, n, s, o]`."""
    groups = getattr(module, "groups", 1)
    return torch.stack(by_position(module, grad).chunk(groups, dim=-1))


def sample_gradients(a: Tensor, g: Tensor) -> list[Tensor]:
    """Gₙ = Σₛ gₛ aₛᵀ, one `[o, i]` a sample."""
    n, positions = a.shape[:2]
    return [sum(torch.outer(g[k, s], a[k, s]) for s in range(positions)) for k in range(n)]


def exact_fisher(a: Tensor, g: Tensor) -> Tensor:
    """E[vec G vec Gᵀ], row-major, cross terms between positions included."""
    gradients = [G.flatten() for G in sample_gradients(a, g)]
    return sum(torch.outer(v, v) for v in gradients) / len(gradients)


def positionwise_fisher(a: Tensor, g: Tensor) -> Tensor:
    """E[Σₛ (gₛ ⊗ aₛ)(gₛ ⊗ aₛ)ᵀ]: positions count as independent."""
    n, positions = a.shape[:2]
    rows = [torch.kron(g[k, s], a[k, s]) for k in range(n) for s in range(positions)]
    return sum(torch.outer(v, v) for v in rows) / n


def over_mean_eigenvalue(matrix: Tensor) -> Tensor:
    """With mean eigenvalue one."""
    return matrix / torch.linalg.eigvalsh(matrix).mean()


def statistics(kind: str, a: Tensor, g: Tensor) -> dict[str, Tensor]:
    """A block's statistics by loops over samples and positions, from `[n, s, i]` and `[n, s, o]`, as its paper defines them."""
    n, positions = a.shape[:2]
    rows = [(a[k, s], g[k, s]) for k in range(n) for s in range(positions)]
    match kind:
        case "LNGD":
            phi, psi = factors(a, g.square())
            return {"phi": phi, "psi": psi}
        case "Spectral":
            known = statistics("KFAC", a, g)
            return {"phi": over_mean_eigenvalue(known["A"]), "psi": over_mean_eigenvalue(known["B"])}
        case "KFAC" | "EKFAC" | "THOR":
            A = sum(torch.outer(x, x) for x, _ in rows) / n
            B = sum(torch.outer(y, y) for _, y in rows) / (n * positions)
            return {"A": A, "B": B}
        case "TKFAC":
            A = sum(y.dot(y) * torch.outer(x, x) for x, y in rows) / n
            B = sum(x.dot(x) * torch.outer(y, y) for x, y in rows) / n
            return {"A": A, "B": B}
        case _:
            return {"L": sum(G @ G.T for G in sample_gradients(a, g)) / n}


class Branches(nn.Module):
    """Uses one of its branches at a time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.left, self.right, self.head = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)
        self.use_left = True

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.left if self.use_left else self.right)(x).tanh())
