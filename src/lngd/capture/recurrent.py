"""torch's recurrent networks, product by product: a kernel computes all steps at once, and nobody sees what a weight multiplies.

The same equations as the kernel's, so the same numbers but for rounding, and the same draws of dropout on the CPU.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Linear: TypeAlias = Callable[..., Tensor]
"""F.linear, as a call that is seen."""
States: TypeAlias = tuple[Tensor, ...]
"""h, and c of an LSTM; `[n, h]` each."""
Cell: TypeAlias = Callable[[Linear, Tensor, States, "Weights"], States]


class Weights:
    """Of one layer in one direction, in torch's order: inward and onward, then their biases and the projection, if any."""

    def __init__(self, given: Iterable[Tensor], *, biased: bool) -> None:
        inward, onward, *rest = given
        biases = rest[:2] if biased else (None, None)
        self.inward, self.onward = (inward, biases[0]), (onward, biases[1])
        self.projection = rest[-1] if len(rest) % 2 else None


def lstm_cell(linear: Linear, x: Tensor, states: States, weights: Weights) -> States:
    """c ← σ(f) c + σ(i) tanh(g), h ← W_r σ(o) tanh(c)."""
    h, c = states
    i, f, g, o = (linear(x, *weights.inward) + linear(h, *weights.onward)).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return (h if weights.projection is None else linear(h, weights.projection)), c


def gru_cell(linear: Linear, x: Tensor, states: States, weights: Weights) -> States:
    """h ← z h + (1 − z) tanh(n_x + σ(r) n_h)."""
    (h,) = states
    r_x, z_x, n_x = linear(x, *weights.inward).chunk(3, 1)
    r_h, z_h, n_h = linear(h, *weights.onward).chunk(3, 1)
    n = (n_x + (r_x + r_h).sigmoid() * n_h).tanh()
    return ((h - n) * (z_x + z_h).sigmoid() + n,)


def rnn_cell(linear: Linear, x: Tensor, states: States, weights: Weights, *, activation: Callable[[Tensor], Tensor]) -> States:
    """h ← tanh or ReLU of W x + U h."""
    (h,) = states
    return (activation(linear(x, *weights.inward) + linear(h, *weights.onward)),)


def network(cell: Cell, linear: Linear, x: Tensor, *given: Any) -> tuple[Tensor, ...]:
    """What torch.lstm, torch.gru and their like return: the output and the last states, `[layers · directions, n, h]`."""
    sizes = None
    if not isinstance(given[2], bool):  # packed sequences
        sizes, *given = given  # type: ignore[assignment]
    begin, flat, biased, layers, dropout, training, both_ways, *batch_first = given
    begin = (begin,) if isinstance(begin, Tensor) else begin
    masks = None
    if sizes is not None:
        x = _padded(x, sizes)
        masks = (torch.arange(x.shape[1]) < sizes.unsqueeze(1)).to(x.device).unsqueeze(2)
    elif batch_first[0]:
        x = x.transpose(0, 1)
    directions, last = 2 if both_ways else 1, list[States]()
    count = len(flat) // (layers * directions)
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            k = layer * directions + direction
            weights = Weights(flat[k * count : (k + 1) * count], biased=biased)
            states, found = _pass(
                cell, linear, x, tuple(t[k] for t in begin), weights=weights, masks=masks, backwards=direction == 1
            )
            outputs.append(found)
            last.append(states)
        x = torch.cat(outputs, 2) if both_ways else outputs[0]
        if dropout and layer < layers - 1:
            dropped = F.dropout(x if sizes is None else _packed(x, sizes), dropout, training)
            x = dropped if sizes is None else _padded(dropped, sizes)
    if sizes is not None:
        x = _packed(x, sizes)
    elif batch_first[0]:
        x = x.transpose(0, 1)
    return x, *(torch.stack(states) for states in zip(*last, strict=True))


def _padded(rows: Tensor, sizes: Tensor) -> Tensor:
    """Packed sequences as `[s, n, d]`, with zeros beyond a sequence's end; `sizes`: how many have a row at each step."""
    steps = rows.split(sizes.tolist())
    return torch.stack([F.pad(step, (0, 0, 0, len(steps[0]) - len(step))) for step in steps])


def _packed(x: Tensor, sizes: Tensor) -> Tensor:
    """The inverse."""
    return torch.cat([rows[:n] for rows, n in zip(x, sizes.tolist(), strict=True)])


def _pass(
    cell: Cell, linear: Linear, x: Tensor, states: States, *, weights: Weights, masks: Tensor | None, backwards: bool
) -> tuple[States, Tensor]:
    """One layer in one direction: its last states, and h of every step. Beyond its end a sequence's state stays as it is."""
    found: list[Tensor] = []
    for t in reversed(range(len(x))) if backwards else range(len(x)):
        new = cell(linear, x[t], states, weights)
        states = new if masks is None else tuple(torch.where(masks[t], a, b) for a, b in zip(new, states, strict=True))
        found.append(states[0])
    return states, torch.stack(found[::-1] if backwards else found)


def single(cell: Cell, linear: Linear, x: Tensor, begin: Any, *given: Any) -> Any:
    """What torch.lstm_cell, torch.gru_cell and their like return: the next state."""
    parts = [each for each in given if each is not None]
    states = cell(linear, x, (begin,) if isinstance(begin, Tensor) else tuple(begin), Weights(parts, biased=len(parts) == 4))
    return states if len(states) > 1 else states[0]


def opened(kernel: Callable[..., Any], ways: Callable[..., Any], linear: Linear, *args: Any) -> Any:
    """A call of torch's kernel, computed in these ways. Under autocast what it returns has the dtypes that the kernel chooses."""
    found = ways(linear, *args)
    device = args[0].device.type
    if not torch.is_autocast_enabled(device):
        return found
    silent = [0.0 if isinstance(each, float) else each for each in args]  # dropout draws nothing
    with torch.no_grad(), torch.autocast(device, torch.get_autocast_dtype(device), cache_enabled=False):
        like = kernel(*silent)
    if isinstance(found, Tensor):
        return found.to(like.dtype)
    return tuple(t.to(theirs.dtype) for t, theirs in zip(found, like, strict=True))


_tanh, _relu = partial(rnn_cell, activation=torch.tanh), partial(rnn_cell, activation=torch.relu)
_WAYS: dict[Any, Callable[..., Any]] = {
    torch.lstm: partial(network, lstm_cell),
    torch.lstm_cell: partial(single, lstm_cell),
    torch.gru: partial(network, gru_cell),
    torch.gru_cell: partial(single, gru_cell),
    torch.rnn_tanh: partial(network, _tanh),
    torch.rnn_tanh_cell: partial(single, _tanh),
    torch.rnn_relu: partial(network, _relu),
    torch.rnn_relu_cell: partial(single, _relu),
}
RECURRENT: dict[Any, Callable[..., Any]] = {kernel: partial(opened, kernel, ways) for kernel, ways in _WAYS.items()}
"""By the function that torch says it calls; each is given `linear` first."""
