"""The borders of FSDP2's modules: what crosses them, on either side of what torch does there."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils import _pytree as pytree

from lngd.capture.attachment import Attachment
from lngd.capture.compiled import named_modules
from lngd.capture.uses import Uses
from lngd.sampling import Source, pulling
from lngd.torch_private import NO_PASS, is_sharded_module, running_pass


class BorderHooks:
    """Hooks on the sharded modules inside a model, before and behind torch's own.

    Args:
        source: is told of what crosses.
        uses: is told of weights that were gathered.
        measuring: whether the step measures.
    """

    def __init__(self, source: Source, uses: Uses, measuring: Callable[[], bool]) -> None:
        self.source, self.uses, self.measuring = source, uses, measuring
        self._on: dict[nn.Module, Attachment] = {}
        self._entering: list[tuple[nn.Module, dict[int, GradientEdge]]] = []
        self._leaving: list[tuple[nn.Module, dict[int, GradientEdge]]] = []

    def attach(self, model: nn.Module) -> None:
        """To the sharded modules of a model that it does not know yet; those that are gone are forgotten."""
        sharded = {module: name for name, module in named_modules(model) if is_sharded_module(module)}
        for module in self._on.keys() - sharded.keys():
            self._on.pop(module).remove()
        for module, name in sharded.items():
            if module in self._on:
                continue
            self._on[module] = hooks = Attachment(self, module)
            if module is not model and self.source.pulls_in_mid_forward:
                hooks.before("enter_first", with_kwargs=True, prepend=True)
                hooks.before("enter_last", with_kwargs=True)
                hooks.first_after("leave_first", place=2)  # behind that of a layer
                hooks.after("leave_last")
            hooks.before("gathered", name)

    def remove(self) -> None:
        """Takes the hooks off."""
        while self._on:
            self._on.popitem()[1].remove()

    def gathered(self, name: str, module: nn.Module, _args: tuple) -> None:
        """Behind torch's own hook: the module's weights are whole."""
        if not torch.compiler.is_compiling() and self.measuring():
            self.uses.gathered(module, name)

    def enter_first(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Before torch's own hook."""
        if self._looks():
            self._entering.append((module, _edges((args, kwargs))))

    def enter_last(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Behind it."""
        while self._entering and self._entering[-1][0] is not module:
            self._entering.pop()  # of a call that failed
        if not (self._looks() and self._entering):
            return
        _, before = self._entering.pop()
        for place, t in _tensors((args, kwargs)):
            far = before.get(place)
            if far is not None and get_gradient_edge(t) != far:
                self.source.borders.add(t, far)

    def leave_first(self, module: nn.Module, _args: tuple, _kwargs: dict[str, Any], output: Any) -> Any:
        """Before torch's own hook: a copy stands for each output, so that what torch puts on it is on the near side."""
        if not self._looks():
            return None
        self.source.leaving([t for _, t in _tensors(output)])
        self._leaving.append((module, _edges(output)))
        return _copied(output)

    def leave_last(self, module: nn.Module, _args: tuple, output: Any) -> Any:
        """Behind it."""
        while self._leaving and self._leaving[-1][0] is not module:
            self._leaving.pop()
        if not (self._looks() and self._leaving):
            return None
        _, before = self._leaving.pop()
        output = _copied(output)
        for place, t in _tensors(output):
            if place in before:
                self.source.borders.add(t, before[place])
        return output

    def _looks(self) -> bool:
        """In a forward of a measuring step, and not where checkpointing runs it once more."""
        return torch.is_grad_enabled() and self.measuring() and running_pass() == NO_PASS and not pulling()


def _tensors(tree: Any) -> list[tuple[int, Tensor]]:
    """Tensors with a graph behind them, and their places."""
    leaves = enumerate(pytree.tree_leaves(tree))
    return [(place, t) for place, t in leaves if isinstance(t, Tensor) and t.grad_fn is not None]


def _edges(tree: Any) -> dict[int, GradientEdge]:
    return {place: get_gradient_edge(t) for place, t in _tensors(tree)}


def _copied(tree: Any) -> Any:
    """With a copy of each tensor, another node of the graph: a view would be told to the user as a danger."""
    return pytree.tree_map(lambda t: t.clone() if isinstance(t, Tensor) and t.grad_fn is not None else t, tree)
