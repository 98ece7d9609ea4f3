"""The optimizer itself: a torch.optim.Optimizer whose step is measure → refresh → average → precondition → size → apply."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.join import Joinable

from lngd.capture import Capture, named_modules
from lngd.curvature import CurvatureBlock
from lngd.layers import Found, Layer
from lngd.optimizer import adamw, checkpoint
from lngd.optimizer.curved_layer import CurvedLayer, Measurement, layout
from lngd.optimizer.guards import (
    GradientScale,
    Guard,
    SkipCounter,
    Structure,
    all_finite,
    lr_of,
    outside_autocast,
    refuse_parts_of_a_model,
    refuse_sparse_gradients,
)
from lngd.optimizer.hyperparameters import Recipe
from lngd.optimizer.layer_step import AGREED, OBSERVE_EVERY, Active, Bucket, buckets
from lngd.optimizer.memory import MemoryReport, memory_report
from lngd.optimizer.parameters import (
    LEFT_OUT,
    Plan,
    Planner,
    Summary,
    complete_group,
    lost_curvature,
    named_parameters,
    refuse_shards,
    refuse_strangers,
    take_replaced,
    unwrapped,
    user_groups,
    warn_of_missing_curvature,
)
from lngd.optimizer.ranks import ProcessGroup, Ranks, packed, unpacked
from lngd.optimizer.shards import here
from lngd.optimizer.sharing import directions, rate_numbers, refresh
from lngd.optimizer.uneven import ANY, StepsAlong, refuse_other_joins, share_gradients, share_options
from lngd.sampling import Calls, Fisher, FisherType
from lngd.step_size import Averages, Steps
from lngd.torch_private import is_shard, joining, leave_join, never_compiled
from lngd.types import Flag
from lngd.version import __version__
from lngd.warned import warn

Loss = TypeVar("Loss")
"""What a closure returns: a tensor, or a number."""
NOT_REACHED = "no forward and backward pass has reached it so far, so it stays as it is"
NOT_USED_YET = "the first forward shows how it is used"
NO_PRODUCT = "no product with it was seen"
OVERFLOWS = 3
"""So many measurements in a row have to overflow before a layer goes to float64: one wild batch is skipped instead."""


class NaturalGradient(torch.optim.Optimizer, Joinable):
    """Natural gradient for the layers that have curvature, AdamW for every other trained parameter.

    Args:
        model: any module; as DistributedDataParallel wraps it, too, before or after.
        params: parameters or torch.optim-style groups; None for all of the model's. A parameter left out is frozen.
        block: makes a layer's curvature.
        recipe: what all layers share.
        fisher: where g comes from.
        defaults: of the parameter groups.
        generator: the randomness of noise and labels.
        process_group: of the processes that share the model.

    Raises:
        TypeError: `model` is no module, or `params` are neither parameters nor groups.
        ValueError: a hyperparameter out of range, nothing to train, `params` that are not the model's, or parameters of which
            a process has a part.
    """

    def __init__(
        self,
        model: nn.Module,
        params: Iterable[Any] | None,
        *,
        block: Callable[[Layer], CurvatureBlock],
        recipe: Recipe,
        fisher: Fisher,
        defaults: dict[str, Any],
        generator: torch.Generator | None,
        process_group: ProcessGroup,
    ) -> None:
        self._model, self._watched = unwrapped(model)
        self._ranks = Ranks(process_group)
        self._recipe, self._fisher, self._block = recipe, fisher, block
        self._planner, self._whole = Planner(block, recipe.factors.max_dim, recipe.batch_dim_of), params is None
        self.t = 0
        """Steps so far."""
        self._layers: dict[str, CurvedLayer] = {}
        self._active: Active | None = None
        self._buckets: list[Bucket] = []
        self._unmeasured: list[CurvedLayer] = []
        self._lacking = self._sharded = False
        self._fallen: dict[str, tuple[nn.Module, str]] = {}
        self._found: dict[str, Found] = {}
        self._portions, self._overflows, self._lost = 0, 0, False
        self._measures_at, self._refreshes_at = 0, 0
        self._skips, self._scale, self._adamw = SkipCounter(), GradientScale(), adamw.AdamW()
        self._structure: Structure | None = None
        refuse_shards(self._model)
        self._data_has_ended = False
        self.joined: object | None = None
        """The Join that the last forward saw, of this optimizer and the model's wrapper."""
        Joinable.__init__(self)
        super().__init__(user_groups(self._model, params), defaults)
        devices = [p.device for p in self.param_groups[0]["params"] if p.device.type != "meta"]  # which draws nothing
        device = devices[0] if devices else torch.device("cpu")
        self._generator = torch.Generator(generator.device if generator else device).manual_seed(torch.initial_seed() % 2**63)
        if generator is not None:  # a copy: draws that were for nothing are drawn again, which nobody else may notice
            self._generator.set_state(generator.get_state())
        self._plan = self._planned()
        self._left_out = {o.name for o in self._plan.outcomes.values() if o.reason == LEFT_OUT}
        self._watch()
        self._take_plan()
        self._store_progress()
        self._warned = False
        if not self._plan.undecided():
            self._warn_of_missing_curvature()

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], Loss]) -> Loss: ...

    @never_compiled
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step (LNGD Algorithm 1). A step with a gradient or a statistic that is not finite is skipped whole and counted.

        Raises:
            RuntimeError: no parameter has a gradient, a parameter is unknown, or a layer's factors have had no inverse for long.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with outside_autocast(self._device_types):
            if (guard := self._check_gradients()) is not None:
                self._take_step(guard)
        return loss

    def _take_step(self, guard: Guard) -> None:
        """LNGD Algorithm 1, step k."""
        self._measure(guard)  # Φ, Ψ ← ϵ·old + (1−ϵ)·new                       lines 3–6, eqs. 3–5 and 14
        self._refresh(guard)  # Φ̂⁻¹, Ψ̂⁻¹                                       lines 7–9
        samples, warmup = self._capture.gather(), 1.0 if self.t >= self._recipe.warmup else self._recipe.share_of_lr(self.t)
        step_size, measured = self._recipe.step_size, self._capture.measuring
        observe = self.t < 2 * AGREED or self.t % OBSERVE_EVERY == 0
        active = [] if guard.refused else self._active_buckets()
        agree = step_size.samples != 0 and (self._ranks.several or self._sharded)
        for bucket, M, d in self._directions(active, guard):
            bucket.aim(d, M, samples, warmup=warmup, measured=measured, guard=guard)
            if not (step_size.joint or agree):
                bucket.size(guard)  # α_l                                        line 12, eqs. 12–13
                bucket.apply(None, guard=guard, observe=observe)  # θ ← θ + m   lines 13–16
        if (step_size.joint or agree) and active:
            if agree:
                summed = self._ranks.sums([rate_numbers(bucket) for bucket in active], "the layers' rates")
                for bucket, numbers in zip(active, summed, strict=True):
                    bucket.step.take(numbers)
            for bucket in active:
                bucket.size(guard)
            common = step_size.common([bucket.step for bucket in active]) if step_size.joint else None
            for bucket in active:
                bucket.apply(common, guard=guard, observe=observe)
        if self._adamw.groups:
            self._adamw.step(self.state, guard, warmup)
        self._finish_step(guard)

    def _directions(self, active: Sequence[Bucket], guard: Guard) -> Iterator[tuple[Bucket, Averages, Steps]]:
        """Of the layers that step: M and d. Where no other process helps, one bucket's directions are held at a time."""
        split = self._ranks.split if self._recipe.spectral else None
        shared = [bucket for bucket in active if bucket.split is not None or split is not None]
        averages = [bucket.average_gradient(guard) for bucket in shared]
        yield from zip(shared, averages, directions(shared, averages, split), strict=True)
        for bucket in active:
            if bucket.split is None and split is None:
                M = bucket.average_gradient(guard)  # M ← βM + (1−β)∇           line 10
                yield bucket, M, bucket.precondition(M)  # d = Ψ̂⁻¹ M Φ̂⁻¹       line 11

    @never_compiled
    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's; what was measured along with gradients that no step has used goes with them."""
        super().zero_grad(set_to_none)
        self._scale.overflowed()
        self._forget_arrived()

    def close(self) -> None:
        """Takes the hooks off the model."""
        self._capture.close()
        self._scale.close()

    def join_hook(self, **_kwargs: Any) -> StepsAlong:
        """For torch's `Join([model, optimizer])`: a process whose data has ended steps along with the others."""
        self.joined = None
        return StepsAlong(self._step_along, self._stepped_along)

    @property
    def join_device(self) -> torch.device:
        """Where `Join` counts the processes."""
        return self.param_groups[0]["params"][0].device

    @property
    def join_process_group(self) -> Any:
        """The processes that share the model."""
        return self._ranks.group

    @property
    def recipe(self) -> Recipe:
        """What all layers share and no group can change: step size, schedule, factors."""
        return self._recipe

    @property
    def fisher(self) -> Fisher:
        """Where g comes from."""
        return self._fisher

    @property
    def blocks(self) -> dict[str, CurvatureBlock]:
        """Every layer's curvature block, by module name."""
        return {name: each.block for name, each in self._layers.items()}

    @property
    def rates(self) -> dict[str, Tensor]:
        """α_l of the last step, by module name; without lr and warm-up."""
        return {name: each.alpha for name, each in self._layers.items() if each.alpha is not None}

    def stats(self) -> dict[str, float]:
        """Plain numbers for any logger: steps, skipped steps, and per layer α_l and what the step size keeps.

        Waits for the device; call it as often as you log, not at every step.
        """
        numbers = {"steps": float(self.t), "skipped": float(self._skips.count())}
        for name, each in self._layers.items():
            numbers[f"rate/{name}"] = 0.0 if each.alpha is None else float(each.alpha)
            numbers |= {f"{key}/{name}": float(each.states[0][key]) for key in (*self._recipe.numbers, "failed")}
        return numbers

    def summary(self) -> Summary:
        """The outcome of every parameter of the model as it is now, and why."""
        plan = self._planned()
        unseen = {name: NOT_REACHED for name, each in self._layers.items() if each.since < self.t and not each.block.measured}
        notes = {**{name: each.note for name, each in self._layers.items()}, **unseen, **self._capture.source.notes}
        outcomes = [replace(o, reason=notes.get(o.layer, "")) if o.kind == "curvature" else o for o in plan.outcomes.values()]
        undecided = plan.undecided()
        outcomes = [
            replace(o, reason=f"{o.reason}; {NO_PRODUCT}" if self._warned else NOT_USED_YET) if o.name in undecided else o
            for o in outcomes
        ]
        return Summary(tuple(outcomes), self.memory_report().curvature)

    def memory_report(self) -> MemoryReport:
        """Bytes of all state, by layer, from shapes: true before the first step, too."""
        return memory_report(self._layers, self._recipe, self.param_groups)

    def state_dict(self) -> dict[str, Any]:
        """torch.optim's own form. `state` holds each layer's statistics, inverses and averages, under its weight.

        What belongs to no parameter, counters and the generator, stands in each group as `progress`.
        """
        self._store_progress()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a checkpoint of the same model; the run goes on bit-equal.

        Raises:
            ValueError: it belongs to another model or optimizer (the first difference is named); nothing is changed.
        """
        numbered = checkpoint.numbered(state_dict)
        loaded: dict[str, Any] = {}

        def last_look(_optimizer: torch.optim.Optimizer, given: dict[str, Any]) -> None:
            plan = self._plan_for(given)
            layouts = {
                p: (name, wanted)
                for name, layer in plan.layers.items()
                for p, wanted in zip(layer.parameters, layout(layer, self._block(layer), self._recipe), strict=True)
            }
            checkpoint.validate(given, self.param_groups, self._progress(), layouts)
            loaded.update(given)

        handle = self.register_load_state_dict_pre_hook(last_look)  # after all of the user's, which may change it
        self._loading = loaded
        try:
            super().load_state_dict(numbered)
        finally:
            handle.remove()
            del self._loading

    def _planned(self) -> Plan:
        """The plan for the model as it is now."""
        return self._planner.plan(self._model, self.param_groups, self._fallen, self._found)

    def _plan_for(self, given: Mapping[str, Any]) -> Plan:
        """The plan with what a checkpoint's run had found in use."""
        if not isinstance(given, Mapping):
            raise ValueError(checkpoint.NO_CHECKPOINT)
        progress = given["param_groups"][0].get("progress") if given["param_groups"] else None
        found = self._found
        if isinstance(progress, Mapping) and isinstance(progress.get("found"), str):
            found = checkpoint.found_in_use(progress, self._plan.parameters)
        return self._planner.plan(self._model, self.param_groups, self._fallen, found)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters of the model, as torch's does; their layers get curvature like all others."""
        if self._structure is None or not isinstance(param_group, dict):
            super().add_param_group(param_group)
            return
        group = dict(param_group)
        known = {id(p): name for name, p in named_parameters(self._model).items()}
        complete_group(group, known, {id(p) for other in self.param_groups for p in other["params"]})
        super().add_param_group({**self.defaults, **group})
        self._follow_model(since=self.t)
        self._store_progress()

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for index, group in enumerate(self.param_groups):
            options = ", ".join(f"{name}={group[name]!r}" for name in self.defaults if name in group)
            lines.append(f"  group {index}: {len(group['params'])} parameters, {options}")
        return "\n".join([*lines, ")"])

    # ---------------------------------------------------------------- the stages of a step

    def _check_gradients(self) -> Guard | None:
        """What has to hold before a step; None for one that changes nothing: without a rate and without a gradient.

        torch.distributed.checkpoint asks for an optimizer's state by such a step.
        """
        choices = [group["curvature"] for group in self.param_groups]
        if self._structure is None or choices != self._choices or not self._structure.still_holds():
            self._follow_model()
        self._ranks.look()
        if joining(self) is not None and self._ranks.several:
            share_gradients(self.param_groups, self.defaults, self._ranks, joined=self._data_has_ended)
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not grads:
            raise RuntimeError(
                "step() without a gradient: call loss.backward() after zero_grad() and before step(), with the model that this "
                "optimizer was given"
            )
        if not isinstance(lr := lr_of(self.param_groups[0]), Tensor) and lr == 0 and self._asks_for_the_state(grads):
            self._scale.forget()
            self._forget_arrived()
            return None
        for grad in grads:
            if grad.is_sparse:
                refuse_sparse_gradients(self._plan.parameters.items())
        self._capture.refuse_hidden_forwards()
        if self._ranks.several:
            self._ranks.meet([grad for grad in grads if not is_shard(grad)], self._generator)
        self._take_what_was_seen()
        guard = Guard(self._everywhere(all_finite([here(grad) for grad in grads])), None)
        if not guard.refused:
            together = (lambda found: self._ranks.sums([found], "the loss's scale")[0]) if self._sharded else None
            guard.squared_scale = self._scale.of_squares(getattr(self, "grad_scale", None), together)
        return guard

    def _step_along(self) -> None:
        """A step of a process without data, with the gradients of one that has some."""
        if not self._ranks.several:
            return
        self._data_has_ended = True
        try:
            self.step()
        finally:
            self._data_has_ended = False
            self.zero_grad()

    def _stepped_along(self, to_the_last: bool) -> None:
        """All data has ended; whose had before takes the groups' options of those that went on."""
        if self._ranks.several:
            share_options(self.param_groups, self.defaults, self._ranks, joined=not to_the_last)
        leave_join(self)
        self.joined = self.joined or ANY

    def _asks_for_the_state(self, grads: list[Tensor]) -> bool:
        """Whether no rate and no gradient differs from zero."""
        rates = [lr_of(group) for group in self.param_groups]
        if any(isinstance(lr, Tensor) or lr for lr in rates):
            return False
        smallest_first = sorted(grads, key=Tensor.numel)  # the first that differs from zero is the last that is read
        return bool(self._everywhere(torch.tensor(not any(here(grad).any() for grad in smallest_first))))

    def _everywhere(self, flag: Flag) -> Flag:
        """Whether it holds for the rows of all processes; with whole gradients each process knows."""
        return self._ranks.sums([(~flag).float()], "whether gradients are finite")[0] == 0 if self._sharded else flag

    def _forget_arrived(self) -> None:
        """Drops what backward passes since the last step have brought beside the gradients."""
        self._capture.forget_arrived()
        for each in self._layers.values():
            each.pending = Measurement()

    def _measure(self, guard: Guard) -> None:
        """Φ, Ψ ← ϵ·old + (1−ϵ)·new (LNGD eq. 14) at a measuring step; else changes nothing and waits for nothing."""
        capture = self._capture
        if not capture.measuring:
            return
        capture.forget_dropped()
        capture.source.finished(None)
        measured = {each: found for each in self._layers.values() if (found := each.at_scale(guard))}
        samples = {each: float(each.pending.samples) for each in measured}
        raw, last = capture.raw, capture.last
        if self._ranks.several and self._layers:
            measured, samples, raw, last = self._shared(measured, samples)
        if not measured:
            refuse_parts_of_a_model(self._fisher.type, capture.waiting and bool(self._layers))
            return
        accept = guard.accept & all_finite([t for found in measured.values() for t in found]).to(guard.accept.device)
        self._lost |= not accept
        if accept:
            self._overflows = 0
            last = last if self._plan.has_nothing_behind_its_layers() else set()
            for each, found in measured.items():
                each.take_measurement(found, raw=each.name in raw, last=each.name in last, samples=samples[each])
            self._lacking = self._lacks_an_inverse(self._layers.values())
        elif guard.accept:
            self._overflowed(measured)
        guard.accept = accept
        capture.warn_of_wrong_loss(scaled=guard.squared_scale is not None)

    def _shared(
        self, measured: Mapping[CurvedLayer, tuple[Tensor, ...]], samples: Mapping[CurvedLayer, float]
    ) -> tuple[dict[CurvedLayer, tuple[Tensor, ...]], dict[CurvedLayer, float], set[str], set[str]]:
        """What all processes have measured, as one mean over their samples; all in one collective.

        Waits for the device, to know which layers anybody has measured.

        Returns:
            The means, the samples of a process on average, and the layers that meet the data with their inputs and outputs.
        """
        layers, capture = list(self._layers.values()), self._capture
        flags = [[samples.get(each, 0.0), each.name in capture.raw, each.name in capture.last] for each in layers]
        counts = torch.tensor(flags, device=layers[0].layer.weight.device)
        own = [
            tuple(t * samples[each] for t in measured[each]) if each in measured else each.block.nothing(each.states[0])
            for each in layers
        ]
        kinds = [(len(each.block.statistics), each.layer.groups) for each in layers]
        sent = [packed(found, *kind) for found, kind in zip(own, kinds, strict=True)]
        totals = iter(self._ranks.sums([*(t for halves in sent for t in halves), counts], "statistics"))
        means = {
            each: unpacked([next(totals) for _ in found], found, *kind)
            for each, found, kind in zip(layers, own, kinds, strict=True)
        }
        (total,) = totals
        seen, raw, last = total.T.tolist()
        return (
            {each: tuple(t / n.to(t.dtype) for t in means[each]) for each, n in zip(layers, total[:, 0], strict=True) if n},
            {each: n / self._ranks.size for each, n in zip(layers, seen, strict=True) if n},
            {each.name for each, n in zip(layers, raw, strict=True) if n},
            {each.name for each, n in zip(layers, last, strict=True) if n},
        )

    def _agreed(
        self, found: Mapping[str, Found], lost: Mapping[CurvedLayer, str]
    ) -> tuple[dict[str, Found], dict[CurvedLayer, str]]:
        """What any process has found in use, and the layers that none can measure."""
        mine = checkpoint.as_lines(found), {each.name: reason for each, reason in lost.items()}
        everybody = self._ranks.gather(mine, "which layers can be measured")
        agreed = dict[str, Found]()
        for lines, _ in reversed(everybody):
            agreed |= checkpoint.found_in_use({"found": lines}, self._plan.parameters)
        reasons = everybody[0][1]
        nobody = set(reasons).intersection(*(theirs for _, theirs in everybody))
        return (
            {name: found.get(name, each) for name, each in agreed.items()},
            {each: reasons[each.name] for each in self._unmeasured if each.name in nobody},
        )

    def _refresh(self, guard: Guard) -> None:
        """Φ̂⁻¹, Ψ̂⁻¹ of the next layers that are due, and of those that lack them.

        All at once would make one step in an interval many times as long as the others, so they are spread over the steps
        that follow, by their cost.
        """
        schedule = self._recipe.schedule
        due = self._portion() if self._portions else []
        if self.t == self._refreshes_at:
            self._refreshes_at = schedule.next_refresh(self.t + 1)
            for each in self._layers.values():
                each.states[0]["owed"] = int(each.block.measured)
            self._portions = schedule.portions(self.t)
            due = self._portion() if self._portions == 1 else []
        if self._lacking:
            due = [each for each in self._layers.values() if each.block.measured and not each.block.ready] + due
        if due and guard.accept:
            refresh([*dict.fromkeys(due)], self._ranks.split)
            for each in due:
                each.states[0]["owed"] = 0
            self._portions = max(0, self._portions - 1)
            self._lacking = self._lacks_an_inverse(due)

    @staticmethod
    def _lacks_an_inverse(layers: Iterable[CurvedLayer]) -> bool:
        """Whether one of them has been measured and stays where it is for want of F̂⁻¹."""
        return any(each.block.measured and not each.block.ready for each in layers)

    def _portion(self) -> list[CurvedLayer]:
        """The first layers whose refresh is owed, until they make up a step's share of the work."""
        owed = [each for each in self._layers.values() if each.states[0]["owed"]]
        if not owed:
            self._portions = 0
            return []
        costs = [each.block.refresh_cost for each in owed]
        share = sum(costs) / self._portions
        return [each for each, done in zip(owed, accumulate(costs, initial=0), strict=False) if done < share]

    def _active_buckets(self) -> list[Bucket]:
        """The layers that have a gradient, in buckets that last until others have one."""
        active: Active = []
        for each in self._layers.values():
            resting: tuple[int, ...] = ()
            for place, p in enumerate(each.parameters):
                if p.grad is None:
                    resting += (place,)
            if len(resting) < len(each.parameters):
                active.append((each, resting))
        if active != self._active:
            self._active, self._buckets = active, buckets(active)
            stepping = {each for each, _ in active}
            for each in self._layers.values():
                if each not in stepping:
                    each.stand_alone()
        return self._buckets

    def _finish_step(self, guard: Guard) -> None:
        """Counts the step, forgets what belonged to it, and says whether the next one measures."""
        self._skips.add(guard.accept)
        self.t += 1
        if self._capture.measuring:
            self._warn_of_missing_curvature()
            for each in self._layers.values():
                each.pending = Measurement()
            self._unmeasured = [each for each in self._layers.values() if not each.block.measured]
        self._scale.forget()
        missing = any(self._waits_for_a_measurement(each) for each in self._unmeasured) if self._unmeasured else False
        measured = self._capture.measuring
        self._capture.reset()
        if measured and self._ranks.several:
            self._ranks.renew(self._generator)
        if self._measures_at < self.t:
            self._measures_at = self._recipe.schedule.next_measurement(self.t)
        self._capture.measuring = missing or self._lost or self.t == self._measures_at
        self._lost = False

    def _waits_for_a_measurement(self, each: CurvedLayer) -> bool:
        """Whether a layer is trained that has none: it saw a backward pass, or could see none before it was watched.

        Several processes need not have seen the same: there it waits for a step at which all of them measure.
        """
        saw = not self._ranks.several and self._capture.has_accumulated(each.name)
        return each.has_gradient() and (each.since == self.t or saw)

    # ---------------------------------------------------------------- the model as it is now

    def _follow_model(self, since: int | None = None) -> None:
        """Plans anew: a parameter was added, replaced, frozen or unfrozen, moved or resized, or a module was.

        Args:
            since: the first step whose forward new layers can see; by default the next one.
        """
        now = named_parameters(self._model)
        refuse_shards(self._model)
        for p in take_replaced(self._plan.parameters, now, self.param_groups):
            self.state.pop(p, None)
        refuse_strangers(now, self.param_groups, self._left_out, whole=self._whole)
        modules, before, undecided = dict(named_modules(self._model)), self._plan.layers, self._plan.undecided()
        self._found = {name: each for name, each in self._found.items() if now.get(name) is each.weight}
        modules |= {name: each.module for name, each in self._found.items()}
        self._fallen = {name: fell for name, fell in self._fallen.items() if modules.get(name) is fell[0]}
        self._plan = self._planned()
        self._take_plan(self.t + 1 if since is None else since)
        self._lost |= not self._plan.undecided() <= undecided  # the next forward measures, and shows how new ones are used
        for name, reason in lost_curvature(before, self._plan):
            warn(f"layer '{name}': AdamW trains it from now on: {reason}")

    def _take_plan(self, since: int = 0) -> None:
        """Gives every parameter its state, watches the layers that have curvature, and leaves the rest to AdamW."""
        groups = {id(p): group for group in self.param_groups for p in group["params"]}
        before = dict(self._layers)
        self._layers.clear()  # the same dictionary for good: what the hooks bring is delivered to it
        for name, layer in self._plan.layers.items():
            known = before.get(name)
            fits = known is not None and known.fits(layer)
            each = known if known is not None and fits else CurvedLayer(name, layer, self._block(layer), self._recipe, since)
            each.bind([self.state[p] for p in each.parameters], [groups[id(p)] for p in each.parameters])
            self._layers[name] = each
        curved = {id(p) for each in self._layers.values() for p in each.parameters}
        rest = [(group, p) for group in self.param_groups for p in group["params"] if id(p) not in curved and p.requires_grad]
        self._adamw.take(rest, chosen=self._plan.chosen())
        for _, p in rest:
            adamw.complete_state(self.state[p], p)
        self._unmeasured = [each for each in self._layers.values() if not each.block.measured]
        self._lacking = self._lacks_an_inverse(self._layers.values())
        self._active, self._buckets = None, []
        self._structure, self._choices = Structure.of(self._model), [group["curvature"] for group in self.param_groups]
        trained = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        self._sharded = any(map(is_shard, trained))
        self._ranks.follow(trained)
        self._device_types = {p.device.type for group in self.param_groups for p in group["params"]}
        self._scale.watch(trained)
        layers = {name: each.layer for name, each in self._layers.items()}
        seen = {id(each.layer.weight) for each in self._layers.values() if each.block.measured}
        parameters = self._plan.parameters
        self._capture.watch(layers, parameters, {name for name in self._plan.candidates if id(parameters[name]) not in seen})
        self._capture.measuring |= bool(self._unmeasured)

    def _watch(self) -> None:
        """Hooks on the model, on no layer yet."""
        layers, step_size = self._layers, self._recipe.step_size

        def deliver(name: str, calls: Calls, batch: int, forward_id: int, fisher: FisherType) -> Callable[[], None]:
            each = layers.get(name)
            add = each and each.measured(calls, batch, forward_id, fisher)
            return lambda: add() if add and layers.get(name) is each else None

        def dropped(name: str) -> None:
            if name in layers:
                layers[name].pending = Measurement()

        self._capture = Capture(
            self._watched,
            {},
            self._fisher.source(deliver, self._generator),
            step_size.sequences() if self._recipe.mean_over == "token" else step_size.samples,
            curvature_samples=self._recipe.schedule.samples,
            mean_over=self._recipe.mean_over,
            of_scale=step_size.of_scale,
            batch_dim=self._recipe.batch_dim_of("", self._model),
            dropped=dropped,
            refuse=partial(refuse_shards, self._model),
            refuse_forward=partial(refuse_other_joins, weakref.ref(self)),
        )
        self._capture.attach()

    def _warn_of_missing_curvature(self) -> None:
        """Once, as soon as a forward has shown which weights are used without their modules."""
        if not self._warned:
            self._warned = True
            warn_of_missing_curvature(self._planner.plan(self._model, self.param_groups, {}, self._found))

    def _take_found(self, found: Mapping[str, Found]) -> None:
        """Weights that were used outside any module have curvature from the next step on; tables are AdamW's at once.

        In this step they are no layers yet, so what comes before them is not the last one.
        """
        if not all(each.form.table for each in found.values()):
            self._capture.last.clear()
        self._found |= found
        self._plan = self._planned()
        self._take_plan(self.t + 1)

    def _take_what_was_seen(self) -> None:
        """Weights that were found in use become layers; layers that can't be measured are AdamW's."""
        found, lost = self._capture.found, self._unseen() if self._unmeasured else {}
        if self._ranks.several:
            asks = self._capture.measuring and (self._unmeasured or self._plan.undecided())
            found, lost = self._agreed(found, lost) if asks else ({}, {})
        if found:
            self._take_found(found)
        for each, reason in lost.items():
            if self._layers.get(each.name) is each:  # and not a layer by its use now
                self._fall_back(each, reason)

    def _unseen(self) -> dict[CurvedLayer, str]:
        """Layers that have a gradient and can't be measured, and why: a borrowed weight, a head beside the model's output."""
        found = {}
        for each in [each for each in self._unmeasured if each.since <= self.t and each.has_gradient()]:
            if each.pending.samples or not (reason := self._capture.why_unseen(each.name)):
                continue
            came = self._capture.has_accumulated(each.name)  # if not, zeros are what zero_grad has left
            if came or any(here(p.grad).any() for p in each.parameters if p.grad is not None):
                found[each] = reason
        return found

    def _fall_back(self, each: CurvedLayer, reason: str) -> None:
        warn(f"layer '{each.name}': AdamW trains it from now on, since it can't be given curvature: {reason}")
        self._fallen[each.name] = (each.layer.module, reason)
        self._plan = self._planned()
        self._take_plan(self.t + 1)

    def _overflowed(self, measured: Mapping[CurvedLayer, tuple[Tensor, ...]]) -> None:
        """Gradients are finite and a statistic, which is a square, is not."""
        self._overflows += 1
        if self._overflows < OVERFLOWS:
            return
        for each, found in measured.items():
            means = [mean for mean in found if mean.is_floating_point()]
            if means and not all_finite(means) and each.layer.dtype != torch.float64 and means[0].device.type != "mps":
                each.promote()
                warn(f"layer '{each.name}': its statistics overflow float32 and are kept in float64 from now on")
        self._active = None

    # ---------------------------------------------------------------- checkpoints and copies

    def _progress(self) -> dict[str, Any]:
        """What belongs to no parameter."""
        draws = self._capture.source.draws
        return {
            "format": checkpoint.FORMAT,
            "version": __version__,
            "method": type(self).__name__,
            "fisher": self._fisher.type.value,
            "mean_over": self._recipe.mean_over,
            "steps": self.t,
            "skipped": self._skips.count(),
            "measuring": int(self._capture.measuring),
            "portions": self._portions,
            "overflows": self._overflows,
            "found": checkpoint.as_lines(self._found),
            "fallen": "\n".join(f"{name}\t{reason}" for name, (_, reason) in self._fallen.items()),
            "generator": self._generator.get_state() if draws is None else draws.state(),
            **self._scale.memory(),
        }

    def _store_progress(self) -> None:
        """Puts it into the groups, where every way of saving an optimizer finds it."""
        progress = self._progress()
        for group in self.param_groups:
            group["progress"] = progress

    def _restore(self, loaded: Mapping[str, Any]) -> None:
        """Takes over a validated checkpoint in full precision: torch's own loading casts all of it to the parameter's dtype."""
        saved = [number for group in loaded["param_groups"] for number in group["params"]]
        own = [p for group in self.param_groups for p in group["params"]]
        self.state.clear()
        for number, p in zip(saved, own, strict=True):
            if number in loaded["state"]:
                entry = loaded["state"][number].items()
                self.state[p] = {name: v.detach().clone() if isinstance(v, Tensor) else v for name, v in entry}
        progress = loaded["param_groups"][0]["progress"]
        found = checkpoint.found_in_use(progress, named_parameters(self._model))
        self._found = {name: self._found.get(name, each) for name, each in found.items()}
        reasons, modules = checkpoint.fallen(progress), dict(named_modules(self._model))
        modules |= {name: each.module for name, each in self._found.items()}
        self._fallen = {name: (modules[name], reason) for name, reason in reasons.items() if name in modules}
        self._plan = self._planned()
        self._layers.clear()
        self._take_plan()
        self.t, self._portions, self._overflows = progress["steps"], progress["portions"], progress["overflows"]
        self._measures_at = self._recipe.schedule.next_measurement(self.t)
        self._refreshes_at = self._recipe.schedule.next_refresh(self.t)
        self._skips, self._lost = SkipCounter(progress["skipped"]), False
        self._scale.forget()
        self._scale.recall(progress)
        self._capture.source.discard()
        self._capture.reset()
        self._generator.set_state(progress["generator"].cpu())
        self._ranks.look()
        if self._ranks.several:
            self._ranks.resume(self._generator)
        self._capture.measuring = bool(progress["measuring"])
        self._store_progress()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the hooks: a copy or a pickle of model and optimizer together goes on bit-equal."""
        mine = {name: value for name, value in vars(self).items() if name in COPIED}
        return mine | super().__getstate__() | {"captured": self._capture.memory(), "scaled": self._scale.memory()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Hooks a copy to its own model; puts a checkpoint in place."""
        captured, scaled = state.pop("captured", None), state.pop("scaled", None)
        super().__setstate__(state)
        if captured is None:
            self._restore(self._loading)
            return
        self._buckets, self._scale, self._adamw = [], GradientScale(), adamw.AdamW()
        self._watch()
        self._take_plan()
        self._capture.recall(captured)
        self._scale.recall(scaled)


COPIED = (
    "t",
    "_model",
    "_watched",
    "_recipe",
    "_fisher",
    "_block",
    "_planner",
    "_plan",
    "_whole",
    "_layers",
    "_fallen",
    "_found",
    "_left_out",
    "_warned",
    "_portions",
    "_measures_at",
    "_refreshes_at",
    "_overflows",
    "_lost",
    "_skips",
    "_generator",
    "_ranks",
    "_join_config",
    "_data_has_ended",
    "joined",
)
"""What a copy takes along; the rest is made from it."""
