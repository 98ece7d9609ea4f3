"""Other people's optimizers as competitors: each at the settings its authors give, imported when one is built.

What a run saves may hold only tensors, numbers, strings and plain containers. Objects in an optimizer's state are taken
apart into theirs and put together again in an optimizer that has just been built.
"""

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lngd_bench.competitors.joined import Joined, adamw_for_the_rest, trainable_of
from lngd_bench.errors import BenchError

REFRESH_EVERY = 10
"""Steps between two eigenbases or roots: SOAP's default; Shampoo's port would wait for 1,000 steps, heavyball for 2."""


def library(module: str = "pytorch_optimizer") -> Any:
    """A third party's package.

    Raises:
        BenchError: it is missing; with the command that cures it.
    """
    if not find_spec(module):
        package = module.replace("_", "-")
        raise BenchError(f"this optimizer needs {package}: pip install {package}")
    return import_module(module)


def soap(model: nn.Module, lr: float, weight_decay: float) -> Optimizer:
    """pytorch-optimizer's port of the authors' SOAP: Adam (0.95, 0.95) in eigenbases, renewed by one QR step every 10 steps.

    As in the original, the first step only measures.
    """
    return library().SOAP(model.parameters(), lr=lr, weight_decay=weight_decay, precondition_frequency=REFRESH_EVERY)


class Shampoo(Joined):
    """pytorch-optimizer's port of Google's distributed Shampoo.

    Its plain `Shampoo` has no grafting and takes a root of every axis of a kernel at every step. Step lengths are grafted
    from RMSProp with momentum, so that a rate means what AdamW's means; decay 0.99 for runs of hundreds of steps. Blocks of
    128, Google's default, and roots by SVD: in trials on Fashion-MNIST both were cheaper than the port's 512 and
    Schur–Newton iteration and no worse. Grafting from SGD, the port's default, was better on a perceptron at 0.1 and worse
    on a convolutional network.
    """

    def __init__(self, model: nn.Module, lr: float, weight_decay: float) -> None:
        self.shampoo: Any = library().ScalableShampoo(
            trainable_of(model),
            lr=lr,
            betas=(0.9, 0.99),
            moving_average_for_momentum=True,
            weight_decay=weight_decay,
            decoupled_weight_decay=True,
            start_preconditioning_step=REFRESH_EVERY,
            preconditioning_compute_steps=REFRESH_EVERY,
            block_size=128,
            use_svd=True,
            graft_type=library().optimizer.shampoo.LayerWiseGrafting.RMSPROP,
        )
        super().__init__(trainable_of(model), [self.shampoo])

    def state_dict(self) -> dict[str, Any]:
        """Its objects' tensors, by parameter and attribute."""
        groups = self.shampoo.state_dict()["param_groups"]
        states = [_plain(self.shampoo.state[p]) if p in self.shampoo.state else {} for p in self.trainable]
        return {"param_groups": groups, "states": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.shampoo.load_state_dict({"state": {}, "param_groups": state_dict["param_groups"]})
        self._share_groups()
        loaded = list(zip(self.trainable, state_dict["states"], strict=True))
        for parameter, state in loaded:
            parameter.grad = torch.zeros_like(parameter) if state else None
        for group in self.param_groups:
            self.shampoo.init_group(group)  # makes the objects of parameters with gradients
        for parameter, state in loaded:
            _fill(self.shampoo.state[parameter], state)
        self.zero_grad()


class HeavyBall(Joined):
    """One of heavyball's, not compiled: on a CPU compiling takes longer than a run. AdamW has what it is not given."""

    def __init__(self, trainable: list[nn.Parameter], taken: list[nn.Parameter], own: Callable[..., Any], **options: Any) -> None:
        self.own, self.taken = own(taken, **options), taken
        super().__init__(trainable, [self.own, *adamw_for_the_rest(trainable, taken, options["lr"], options["weight_decay"])])

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """It warns of every schedule that this is for multi-tensor steps only, which these are."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Learning rate changed between steps")
            return super().step(closure)

    def state_dict(self) -> dict[str, Any]:
        """With the share of an update of its factors that is due, which it leaves out."""
        return super().state_dict() | {"due": dict(self.own.inner_group)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Its own casts bounds that it keeps in float64 to the parameters' dtype: they are put back as they were."""
        super().load_state_dict(state_dict)
        self.own.inner_group.update(state_dict["due"])
        states = state_dict["inner"][0]["state"]
        self.own.state.update((p, states[index]) for index, p in enumerate(self.taken) if index in states)


def psgd(model: nn.Module, lr: float, weight_decay: float) -> Optimizer:
    """heavyball's PSGD with Kronecker factors (Li 2015, arXiv 1512.04202), at its defaults."""
    everything = trainable_of(model)
    return HeavyBall(everything, everything, _heavyball().PSGDKron, lr=lr, weight_decay=weight_decay)


def kl_shampoo(model: nn.Module, lr: float, weight_decay: float) -> Optimizer:
    """heavyball's KL-Shampoo (Lin et al. 2025, arXiv 2509.03378): Shampoo's factors by the least KL divergence, no grafting.

    It would give vectors their bare gradients; they are AdamW's at the same rate.
    """
    everything = trainable_of(model)
    matrices = [p for p in everything if p.ndim > 1]
    options = {"lr": lr, "weight_decay": weight_decay, "precondition_frequency": REFRESH_EVERY}
    return HeavyBall(everything, matrices, _heavyball().KLShampoo, **options)


def kl_soap(model: nn.Module, lr: float, weight_decay: float) -> Optimizer:
    """heavyball's KL-SOAP (the same paper): Adam in the eigenbases of those factors."""
    everything = trainable_of(model)
    options = {"lr": lr, "weight_decay": weight_decay, "precondition_frequency": REFRESH_EVERY}
    return HeavyBall(everything, everything, _heavyball().KLSOAP, **options)


def _heavyball() -> Any:
    package = library("heavyball")
    package.utils.compile_mode = None
    return package


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if torch.is_tensor(value) else _tensors(value) for name, value in state.items()}


def _tensors(thing: Any) -> dict[str, Any]:
    """An object's attributes that change in training: its tensors and lists of tensors."""
    return {name: value for name, value in vars(thing).items() if torch.is_tensor(value) or _is_list_of_tensors(value)}


def _is_list_of_tensors(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(torch.is_tensor(item) for item in value)


def _fill(state: dict[str, Any], content: Mapping[str, Any]) -> None:
    for name, value in content.items():
        if torch.is_tensor(value):
            state[name] = value
        else:
            vars(state[name]).update(value)
