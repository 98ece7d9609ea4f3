"""The optimizer itself: a torch.optim.Optimizer whose step is measure → refresh → precondition → scale → apply."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lngd.capture import Capture
from lngd.curvature import CurvatureBlock
from lngd.layers import Layer
from lngd.linalg import all_finite
from lngd.optimizer import checkpoint
from lngd.optimizer.bucket import step_layers
from lngd.optimizer.cycle import Cycle
from lngd.optimizer.fallback import Fallback
from lngd.optimizer.groups import GROUP_DEFAULTS, curvature_choices, fallback_rate, move_to_fallback, split_group, user_groups
from lngd.optimizer.layer_state import LayerState, Recipe, deliver_to
from lngd.optimizer.loss_scale import unscaled
from lngd.optimizer.memory import MemoryReport, memory_report
from lngd.optimizer.outcome import Limit, Summary, plan_model, unwrapped
from lngd.optimizer.refusals import refuse_sparse_gradients
from lngd.optimizer.schedule import Schedule
from lngd.optimizer.skips import SkipCounter


class NaturalGradient(torch.optim.Optimizer):
    """Natural gradient for the layers that have curvature, AdamW for every other trained parameter.

    Each group of `params` becomes two: one of `kind` "curvature" at `lr`, one of `kind` "fallback" at `fallback_lr`, so that one
    learning-rate scheduler drives both.

    Args:
        model: any module; under DDP in one process only, for the time being.
        params: parameters or torch.optim-style groups; None for all of the model's. A parameter left out is frozen.
        block: makes a layer's curvature.
        recipe: momentum, step size and scale, shared by all layers.
        curvature, inverses, spread: when statistics are measured and inverses refreshed, and over how many steps.
        defaults: the group-level hyperparameters, `GROUP_DEFAULTS`.
        warmup: steps over which lr rises linearly for the layers with curvature.
        rate_samples: samples of a batch that measure the rate; None for all.
        generator: the randomness of noise and of drawn labels.
        max_factor_dim: a layer with a larger dense factor that its block can't split falls back.

    Raises:
        ValueError: a hyperparameter out of range, nothing to train, `params` that are not the model's, or several processes.
    """

    _step_supports_amp_scaling = True  # GradScaler calls step() on an overflow too, and says so (`found_inf`)

    def __init__(
        self,
        model: nn.Module,
        params: Iterable[Any] | None,
        *,
        block: Callable[[Layer], CurvatureBlock],
        recipe: Recipe,
        curvature: Schedule,
        inverses: Schedule,
        spread: int,
        defaults: dict[str, Any],
        warmup: int,
        rate_samples: int | None,
        generator: torch.Generator | None,
        max_factor_dim: int,
    ) -> None:
        assert set(defaults) == set(GROUP_DEFAULTS)
        self._model, watched = unwrapped(model)
        groups = user_groups(self._model, params, defaults)
        trained = [p for group in groups for p in group["params"]]
        self._plan = plan_model(self._model, trained, Limit(block, max_factor_dim), curvature_choices(groups))
        self._recipe = recipe
        self._states = {name: LayerState(layer, block(layer), recipe) for name, layer in self._plan.layers.items()}
        self._cycle, self._warmup = Cycle(self._states, recipe.fisher.type, curvature, inverses, spread), warmup
        self._steps, self._skips, self._fallback = 0, SkipCounter(), Fallback()
        self._demoted: dict[str, str] = {}
        self._generator = generator or torch.Generator(trained[0].device).manual_seed(torch.initial_seed() % 2**63)
        super().__init__([half for group in groups for half in split_group(group, self._plan.layers)], defaults)
        self._bind_groups()
        self._rate_samples = rate_samples if recipe.step_size.needs_samples else 0
        self._watch(watched)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step. A step with a gradient or a statistic that is not finite is skipped whole and counted.

        Raises:
            RuntimeError: no parameter has a gradient, or a layer's factors have had no inverse for long.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not grads:
            raise RuntimeError("step() before any backward: no parameter has a gradient; call loss.backward() first")
        refuse_sparse_gradients(self._model, grads)
        self._capture.refuse_hidden_forwards()
        self._demote_unseen_layers()
        active = {name: s for name, s in self._states.items() if s.has_gradient()}
        scale = unscaled(self, grads)
        accept = self._cycle.measure(self._capture, scale.accept(all_finite(grads)), scale)
        self._capture.warn_of_wrong_loss(scaled=scale.overflow is not None)
        self._cycle.refresh(self._steps, accept)
        warmup = min(1.0, (self._steps + 1) / self._warmup) if self._warmup else 1.0
        step_layers(active, number=self._steps, warmup=warmup, accept=accept, rates=self._capture.gather(), scale=scale)
        self._fallback.step(self.param_groups, self.state, accept)
        self._skips.add(accept, expected=scale.overflow is not None)
        self._finish_step(active)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's own. What was measured with the gradients that go, goes with them."""
        super().zero_grad(set_to_none)
        self._capture.forget_arrived()
        self._cycle.forget()

    def close(self) -> None:
        """Takes the hooks off the model."""
        self._capture.close()

    @property
    def blocks(self) -> dict[str, CurvatureBlock]:
        """Every layer's curvature block, by module name."""
        return {name: state.block for name, state in self._states.items()}

    @property
    def rates(self) -> dict[str, Tensor]:
        """α_l of the last step, by module name; without lr and warm-up."""
        return {name: state.rate for name, state in self._states.items() if state.rate is not None}

    def stats(self) -> dict[str, float]:
        """Plain numbers for any logger: steps, skipped steps, and per layer the rate and what the step size keeps.

        Waits for the device; call it as often as you log, not at every step.
        """
        numbers: dict[str, float] = {"steps": float(self._steps), "skipped": float(self._skips.count())}
        for name, state in self._states.items():
            scalars = {"rate": state.rate, **state.state}
            numbers |= {f"{key}/{name}": float(v) for key, v in scalars.items() if v is not None and v.dim() == 0}
        return numbers

    def summary(self) -> Summary:
        """The outcome of every parameter, and why."""
        notes = self._capture.source.notes
        outcomes = (replace(o, reason=notes.get(o.layer, "")) if o.layer else o for o in self._plan.outcomes.values())
        return Summary(tuple(outcomes), self.memory_report().curvature)

    def memory_report(self) -> MemoryReport:
        """Bytes of all state, by layer, from shapes: true before the first step, too."""
        return memory_report(self._states, self.param_groups)

    def state_dict(self) -> dict[str, Any]:
        """torch.optim's own form with one more entry, `lngd`: statistics, inverses, averages, step and generator."""
        return super().state_dict() | {"lngd": checkpoint.save(self._header(), self._states, self._generator)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a checkpoint of the same model; the run goes on bit-equal.

        Raises:
            ValueError: it belongs to another model or optimizer (the first difference is named); nothing is changed.
        """
        complete = checkpoint.validated(state_dict, self._header(), self._states)
        saved = complete["lngd"]
        for name, reason in saved["demoted"]:
            if name in self._states:
                self._demote(name, reason)
        super().load_state_dict({key: complete[key] for key in ("state", "param_groups")})
        self._fallback.adopt(self.state)
        checkpoint.restore(saved, self._states, self._generator)
        self._steps, self._capture.measuring = saved["steps"], saved["measuring"]
        self._skips.restore(saved["skipped"])
        self._bind_groups()
        self._cycle.recall(saved)
        self._forget()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters. Those added after construction are trained by the fallback: their layers have no hooks."""
        if "kind" not in param_group:
            param_group = {**param_group, "kind": "fallback", "lr": fallback_rate({**self.defaults, **param_group})}
        super().add_param_group(param_group)

    def _header(self) -> dict[str, Any]:
        outcomes = [[o.name, list(o.shape), o.kind != "frozen"] for o in self._plan.outcomes.values()]
        return {
            "parameters": outcomes,
            "fisher": self._recipe.fisher.type.value,
            "mean_over": self._recipe.mean_over,
            "steps": self._steps,
            "skipped": self._skips.count(),
            "demoted": [list(pair) for pair in self._demoted.items()],
            "measuring": self._capture.measuring,
            **self._cycle.memory(),
            "groups": [len(group["params"]) for group in self.param_groups],
        }

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the hooks: a copy or a pickle of model and optimizer together goes on bit-equal."""
        own = {k: v for k, v in vars(self).items() if k.startswith("_") and k != "_capture" and not k.startswith("_optimizer_")}
        return own | super().__getstate__() | {"captured": self._capture.memory()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Hooks the copy to its own model."""
        captured = state.pop("captured", None)
        super().__setstate__(state)
        if captured is not None:
            self._watch(self._model)
            self._capture.recall(captured)

    def _watch(self, model: nn.Module) -> None:
        recipe = self._recipe
        source = recipe.fisher.source(deliver_to(self._states), self._generator)
        self._capture = Capture(
            model,
            self._plan.layers,
            source,
            self._rate_samples,
            curvature_samples=recipe.curvature_samples,
            mean_over=recipe.mean_over,
        )
        self._capture.attach()

    def _bind_groups(self) -> None:
        owner = {id(p): group for group in self.param_groups for p in group["params"]}
        for state in self._states.values():
            state.groups = [owner[id(p)] for p in state.layer.parameters]

    def _finish_step(self, active: dict[str, LayerState]) -> None:
        self._steps += 1
        self._forget()
        self._capture.measuring = self._cycle.measures_next(self._steps, active)

    def _forget(self) -> None:
        """Drops what was captured since the last step."""
        self._capture.reset()
        self._cycle.forget()

    def _demote_unseen_layers(self) -> None:
        """Layers that have a gradient and can't be measured: a borrowed weight, a head beside the model's output."""
        unmeasured = [n for n, s in self._states.items() if s.has_gradient() and not (s.block.measured or s.pending.samples)]
        for name in unmeasured:
            if reason := self._capture.why_unseen(name):
                self._demote(name, reason)

    def _demote(self, name: str, reason: str) -> None:
        if not self._plan.layers[name].module.training:
            warnings.warn(f"layer '{name}' has no curvature, AdamW trains it: {reason}", stacklevel=5)
        groups = self._states.pop(name).groups
        moved = self._plan.fall_back(name, reason)
        for p, group in zip(moved, groups, strict=True):
            move_to_fallback(self.param_groups, p, group)
        self._demoted[name] = reason
