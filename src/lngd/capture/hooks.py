"""The hooks: they stream `x` and `g` of every layer to whoever asks, and change nothing the user computes.

Two streams. *Fisher samples*, at measuring steps: x and g as a way of sampling finds them (`lngd.sampling`). *Rate samples*, at
every step: inputs and back-propagated gradients of a few samples, for the learning rate (LNGD eqs. 12–13).

Conventions. A sample counts if and only if its backward pass has accumulated into the layer's `.grad`, and that gradient is still
there at the step. So what a backward pass brings is a guess until the weight's own hook says, in the same pass, that it has
accumulated; `torch.autograd.grad` never says so. What came before a gradient was dropped, is dropped with it.
A pre-activation is held as an edge of the autograd graph, not as a
tensor, so that an in-place activation after it changes nothing. All forwards between two steps belong to one measurement;
`forward_id` tells the calls of one forward (the same samples) from micro-batches (new samples).
"""

import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lngd.capture.attachment import Attachment, Hook, come_first
from lngd.capture.attention import (
    Product,
    attention_inputs,
    open_input_projection,
    open_output_projection,
    products_with,
)
from lngd.capture.borders import BorderHooks
from lngd.capture.buffers import UntouchedBuffers
from lngd.capture.compiled import (
    UNCHECKED_GUARDS,
    Uncompiled,
    forget_graphs_without_hooks,
    has_compiled_parts,
    outside_graphs,
    traced_for_another_purpose,
)
from lngd.capture.compiled_rates import CompiledRates
from lngd.capture.graph import (
    WHOLE,
    Arrival,
    Guess,
    OpenActivation,
    RateSample,
    borrowed,
    folded,
    joined_samples,
    layer_input,
    pre_activation,
    shaped,
    spread,
)
from lngd.capture.ledger import PASSES, Ledger
from lngd.capture.loss_form import LossForm
from lngd.capture.products import Part
from lngd.capture.products import Product as UsedProduct
from lngd.capture.uses import Uses, WatchedFunctions, batch_of, folding, opened_use, rows_of
from lngd.layers import AttentionInput, ExpertsLayer, Found, Layer
from lngd.linalg import HOST
from lngd.sampling import Call, MeanOver, Source, alone, pulling
from lngd.torch_private import (
    GLOBAL_FORWARD_HOOKS,
    NO_PASS,
    forward_hooks,
    inside_transform,
    is_batched,
    is_distributed,
    is_shard,
    is_sharded_module,
    is_tracing,
    leave_compiled_call,
    left_operand,
    records_operations,
    running_pass,
    when_backward_ends,
)

LEAST_ROWS = 2048
"""Rows, samples times positions, from which a sub-batch measures the curvature: pixels and tokens make many rows of a sample."""
NOT_IN_THE_OUTPUT = "the model's output, from which labels are drawn, does not depend on it"
EMPTY: Mapping[str, nn.Parameter] = {}
WITHOUT_FORWARD = "its gradient came without a forward of the model that could be seen: by torch.func, or set by hand"
NOT_THROUGH_ITS_CALLS = "no gradient came to its calls: the loss uses its weight without them, or gradients were set by hand"


@dataclass
class Capture:
    """Hooks on a model and its layers, attention's among them.

    Args:
        model: its forward marks where a forward begins and ends; what torch.compile made of a model counts as the model.
        layers: by name.
        source: where the Fisher samples come from and go to.
        rate_samples: how many samples of a batch are kept for the rate; None for all, 0 for none.
        curvature_samples: how many measure the curvature, more if they make less than `least_rows` rows; None for all.
        mean_over: what the loss is said to average over, which its first gradient may contradict.
        of_scale: whether it matters if the loss is a sum where a mean was said.
        batch_dim: of the samples in what the model is called with.
        refuse: raises if the model has become one of which nothing can be measured.
        refuse_forward: raises if a process would wait in the step that follows a forward.
    """

    model: nn.Module
    layers: dict[str, Layer]
    source: Source
    rate_samples: int | None
    _: KW_ONLY
    curvature_samples: int | None = None
    least_rows: int = LEAST_ROWS
    mean_over: MeanOver = "batch"
    of_scale: bool = True
    batch_dim: int = 0
    dropped: Callable[[str], None] = lambda _name: None
    """Told a layer whose gradient was dropped after what belongs to it had been handed on."""
    refuse: Callable[[], None] = lambda: None
    refuse_forward: Callable[[], None] = lambda: None
    measuring: bool = True
    called: set[str] = field(default_factory=set)
    rates: dict[str, list[RateSample]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """Layers that were called in a way that has no curvature, with the reason."""
    raw: set[str] = field(default_factory=set)
    """Layers whose last sample of the curvature came of rows of data, `[n, i]`, which nothing that is trained has made."""
    last: set[str] = field(default_factory=set)
    """Layers to whose outputs, rows `[n, o]`, the backward pass of their last sample came before any other's: the loss reads
    them. Of several such layers it is the one that was called last."""
    forward_id: int = 0

    def __post_init__(self) -> None:
        self._on_model, self._on_layers = Attachment(self, self.model), dict[tuple[str, str, int], Attachment]()
        self._on_weights: dict[str, tuple[nn.Parameter, Attachment]] = {}
        self._ledger = Ledger(self.layers)
        self._buffers = UntouchedBuffers()
        self._compiled, self._uncompiled = CompiledRates(self.rate_samples), Uncompiled()
        self._begin_outside_graphs = outside_graphs(Capture._begin)
        self._leave_call = outside_graphs(leave_compiled_call, recursive=False)
        self._loss = LossForm(self.source, self.mean_over, of_scale=self.of_scale)
        self._uses = Uses()
        self._functions = WatchedFunctions(self.sees_use, self._uses.sees_sum)
        owner = weakref.ref(self)
        self._borders = BorderHooks(self.source, self._uses, lambda: bool((own := owner()) and own.measuring))
        self._samples: int | None = None
        """Of the running forward's batch, as far as its arguments show."""
        self._watched: dict[str, tuple[nn.Module, int]] = {}
        """The module of each layer, and how many inputs it had."""
        self._choosy = set[str]()
        self._called_now, self._called_outside_backward = Counter[str](), set[str]()
        self._sub_batches: dict[tuple[str, int], slice] = {}
        self._rate_slices: dict[int, slice] = {}
        self._awaited, self._reached = set[str](), set[str]()
        self._begun, self._newest_pass = set[int](), NO_PASS
        """Forwards that a backward pass has come to, and the last such pass."""
        self._backward_ran = self._forward_counts = self._model_runs_again = False

    def attach(self) -> None:
        """Puts the hooks on the model and its layers."""
        forget_graphs_without_hooks(self.model)
        if isinstance(self.model, torch.jit.ScriptModule):  # it takes no hooks, and no layer of it has curvature
            return
        self._on_model.before("begin_forward", with_kwargs=True)
        self._on_model.after("end_forward", prepend=is_sharded_module(self.model))  # torch's own puts hooks on the output
        self._on_model.after("leave_forward", always_call=True)
        self.watch(self.layers)

    def watch(
        self, layers: dict[str, Layer], parameters: Mapping[str, nn.Parameter] = EMPTY, candidates: Collection[str] = ()
    ) -> None:
        """Watches these layers from now on. What was captured of a layer is kept as long as its module is the same.

        Args:
            layers: by name.
            parameters: the model's, by name.
            candidates: those of which a use outside a module is worth knowing; see `found`.
        """
        self._uses.watch(layers, parameters, candidates)
        gone = [
            name for name, (module, inputs) in self._watched.items() if not self._is_as_before(layers.get(name), module, inputs)
        ]
        self.source.forget_layers(gone)
        for name in gone:
            self.called.discard(name)
            self.rates.pop(name, None)
            self.refused.pop(name, None)
        self.layers = self._ledger.layers = layers
        self._watched = {name: (layer.module, layer.inputs) for name, layer in layers.items()}
        self._watch_weights()
        self._choosy = {name for name, layer in layers.items() if type(layer).refuses_call is not Layer.refuses_call}
        self._buffers.attach(self.model)
        self._compiled.watch(layers)
        called = {name: layer for name, layer in layers.items() if not (isinstance(layer, AttentionInput) or layer.found)}
        modules = {
            ("layer", name, place): module
            for name, layer in called.items()
            for place, module in enumerate((layer.module, *layer.also))
        }
        known = {layer.module: name for name, layer in layers.items()}
        for module in self.model.modules():  # what is wrapped around the model gives them other names
            if isinstance(module, nn.MultiheadAttention) and not known.keys().isdisjoint((module, module.out_proj)):
                name = known[module] if module in known else known[module.out_proj].removesuffix("out_proj").removesuffix(".")
                modules["attention", name, 0] = module
        for key in [key for key, hooks in self._on_layers.items() if modules.get(key) is not hooks.module]:
            self._on_layers.pop(key).remove()
        for (kind, name, place), module in modules.items():
            if (kind, name, place) not in self._on_layers:
                self._on_layers[kind, name, place] = hooks = Attachment(self, module)
                hooks.before("before_layer")
                hooks.first_after(f"after_{kind}", name)
        self._borders.attach(self.model)

    @staticmethod
    def _is_as_before(layer: Layer | None, module: nn.Module, inputs: int) -> bool:
        """Whether what was captured of a layer is still of use: attention's samples hold the constant of a trained bias."""
        return layer is not None and layer.module is module and (layer.inputs == inputs or not isinstance(layer, AttentionInput))

    def _watch_weights(self) -> None:
        """Whose `.grad` says that a backward pass counts."""
        weights = {name: layer.weight for name, layer in self.layers.items()}
        for name in [name for name, (weight, _) in self._on_weights.items() if weights.get(name) is not weight]:
            self._on_weights.pop(name)[1].remove()
            self._ledger.forget(name)
        self._ledger.sharded = {name for name, weight in weights.items() if is_shard(weight)}
        for name, weight in weights.items():
            if name not in self._on_weights:
                self._on_weights[name] = weight, (hooks := Attachment(self, self.layers[name].module))
                hooks.accumulated(weight, "accumulated", name)

    def close(self) -> None:
        """Removes the hooks; so does the end of the object's life."""
        for hooks in (self._on_model, *self._on_layers.values(), *(hooks for _, hooks in self._on_weights.values())):
            hooks.remove()
        self._buffers.remove()
        self._borders.remove()
        self._uncompiled.leave()
        self.reset()

    def reset(self) -> None:
        """A step has ended: forgets what was captured since the last one. A call that has seen no gradient till now has none."""
        self.rates.clear()
        self._called_now.clear()
        self._called_outside_backward.clear()
        self._awaited.clear()
        self._reached.clear()
        self._begun.clear()
        for kept in self._ledger.kept:
            kept.clear()
        self._backward_ran = False
        if self.measuring:
            self.source.discard()
            if self._uses.searching:
                self._uses.settle(self.layers[name] for name in self.called if name in self.layers)
        if self._compiled.found or self._compiled.begun:
            self._compiled.discard()

    def forget_arrived(self) -> None:
        """Forgets what backward passes have brought since the last step, for their gradients are dropped.

        A forward that still waits for its backward pass goes on waiting. What was handed on is for the receiver to forget.
        """
        self.rates.clear()
        self._reached.clear()
        for kept in self._ledger.kept:
            kept.clear()
        if self.measuring:
            self.source.forget_arrived()
        if self._compiled.found:
            self._compiled.forget_arrived()

    def memory(self) -> dict[str, Any]:
        """What a copy has to know of the past."""
        return {
            "measuring": self.measuring,
            "called": set(self.called),
            "refused": dict(self.refused),
            "loss_is_known": self.loss_is_known,
        }

    def recall(self, memory: dict[str, Any]) -> None:
        """Takes what `memory` gave."""
        for name, value in memory.items():
            setattr(self, name, value)

    @property
    def loss_is_known(self) -> bool:
        """Whether the form of the loss was looked at, which is done once."""
        return self._loss.known

    @loss_is_known.setter
    def loss_is_known(self, known: bool) -> None:
        self._loss.known = known

    @property
    def found(self) -> dict[str, Found]:
        """Candidates whose use was seen since `watch`, by name, and that no module's call stands for."""
        called = {id(layer.weight) for name, layer in self.layers.items() if name in self.called}
        return {name: found for name, found in self._uses.found.items() if id(found.weight) not in called}

    @property
    def waiting(self) -> bool:
        """Whether a gradient has arrived, since the last step, at a call of a measuring step that had no g."""
        return self.source.waiting

    def gather(self) -> dict[str, list[RateSample]]:
        """All samples of the rate since the last step, those of a compiled forward among them."""
        if self._compiled.found:
            for name, samples in self._compiled.collect().items():
                self.rates.setdefault(name, []).extend(samples)
        return self.rates

    def refuse_hidden_forwards(self) -> None:
        """Raises RuntimeError if a measuring forward ran where the hooks could not keep it uncompiled."""
        if self.measuring and not self._awaited:
            self._compiled.refuse_hidden_forwards()

    def warn_of_wrong_loss(self, *, scaled: bool = False) -> None:
        """Warns once if the loss is another than the arguments say; for the first measured step. `scaled`: by a GradScaler."""
        self._loss.warn(scaled=scaled)

    def has_accumulated(self, name: str) -> bool:
        """Whether a backward pass has accumulated into the layer's weight since the last step."""
        return name in self._ledger

    def why_unseen(self, name: str) -> str | None:
        """Why a layer that has a gradient can't be measured, if nothing was seen of it."""
        if name in self.refused:
            return self.refused[name]
        if name in self.source.unreached:
            return NOT_IN_THE_OUTPUT
        if name in self._awaited - self._reached:
            return NOT_THROUGH_ITS_CALLS
        if name in self.called or (self.layers[name].found and not self.measuring):  # a recurrent network is closed there
            return None
        if not self.called and not self.forward_id:
            return WITHOUT_FORWARD
        return "its weight is used without calling the module"

    def begin_forward(self, _module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """A new forward of the model. A measuring one leaves compiled code, and so does the first that comes upon any."""
        trains, traced = torch.is_grad_enabled(), torch.compiler.is_compiling()
        if not (traced or is_tracing()):
            first = args[0] if args else None  # the usual case without a call, since every step pays for it
            if isinstance(first, Tensor) and first.dim() > 1 and not self.batch_dim:
                self._samples = len(first)
            else:
                self._samples = batch_of((args, kwargs), self.batch_dim)
        if traced and (not trains or traced_for_another_purpose()):
            return
        left = trains and (self.measuring or (traced and not self._compiled.present)) and self._leave_call(None) is not None
        self._begin_outside_graphs(self, trains, left, self.measuring)

    def _begin(self, trains: bool, left: bool, measuring: bool) -> None:
        """What an interrupted forward left open will never be closed.

        Inside a backward pass it is activation checkpointing that calls the model as a whole. Reentrant checkpointing ran it
        without gradients before, so this is its forward; the other kind computes once more what was seen.
        """
        if pulling() or inside_transform() or is_tracing() or records_operations():
            return
        again, compiled = running_pass() != NO_PASS, self._compiled
        if trains and (measuring is not self.measuring or (left and compiled.present and not measuring)):
            raise RuntimeError(UNCHECKED_GUARDS)
        self._forward_counts = torch.is_grad_enabled() and not (again and (self._called_outside_backward or compiled.begun))
        if trains and (left or self.measuring or compiled.present is None):
            parts = has_compiled_parts(self.model, itself=not left)
            compiled.found = compiled.found or parts or left
            if parts or not left:
                self._uncompiled.enter()
        if self._forward_counts:
            self._look_at_processes()
            if self.measuring:
                self.forget_dropped()
                self.source.begins(self.forward_id + 1)
            self._next_forward()
            self._model_runs_again = again
        if compiled.found:
            compiled.count_calls_anew()
        if self._forward_counts and trains and (compiled.found or compiled.present is None):
            compiled.begin(self.forward_id)
            compiled.begun |= not again
        uses = self._uses
        rated = uses.any and self.rate_samples != 0 and not compiled.found
        if self._forward_counts and (rated or (self.measuring and (uses.any or uses.searching))):
            self._functions.enter()
            self._functions.opens_recurrent = self.measuring

    def _look_at_processes(self) -> None:
        """The model may have been sharded since the last step."""
        if is_distributed():
            self.refuse_forward()
            if self.measuring:
                self.refuse()
                self._borders.attach(self.model)

    def end_forward(self, _module: nn.Module, _args: tuple, output: Any) -> None:
        """The model's forward has ended."""
        if torch.compiler.is_compiling():
            return
        if self._compiled.found:
            self._compiled.count_calls_anew()
        if not self._forward_counts or pulling():
            return
        self._forward_counts = self._model_runs_again = False
        if self.measuring:
            self.source.finished(output)
            self.source.drawn()
            self._loss.look_at(output)
        if self._compiled.present and self._uncompiled.entered:
            self._uncompiled.enter_for_the_backward_pass_of(output)

    def leave_forward(self, _module: nn.Module, _args: tuple, _output: Any) -> None:
        """The model's forward has ended or failed."""
        if torch.compiler.is_compiling() or pulling():
            return
        self._forward_counts = False
        if self._functions.entered:
            self._functions.leave()
        if self._uncompiled.entered:
            self._uncompiled.leave()

    def before_layer(self, module: nn.Module, _args: tuple) -> None:
        """A layer is called: at a measuring step as written, and what other hooks make of its output comes behind our own."""
        if torch.compiler.is_compiling() or self.measuring:
            self._leave_graphs()
        if torch.compiler.is_compiling():
            return
        self._uses.running = module
        if GLOBAL_FORWARD_HOOKS or type(next(iter(forward_hooks(module).values()))) is not Hook:
            come_first(module)

    def after_layer(self, name: str, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> Tensor:
        """Opens this layer's pre-activation and waits for its gradient. Returns the output, or a clone that stands for it."""
        if torch.compiler.is_compiling():
            return self._trace_layer(name, module, layer_input(args, kwargs), output)
        self._uses.running = None
        if not (output.requires_grad and self._watches(name, module)):
            return output
        layer, x = self.layers[name], layer_input(args, kwargs)
        if x.is_nested:
            self.refused[name] = "it was called with a nested tensor"
            return output
        if self.measuring:
            self._arriving([x])  # not before the layer's forward: other hooks may change its input
        if name in self._choosy and (reason := layer.refuses_call(args, kwargs)):
            self.refused[name] = reason
            return output
        alone, moved = x.dim() < layer.batched_dims, 0 < layer.batch_dim < x.dim() - 1
        x = x.unsqueeze(0) if alone else x
        if self._wanted(name, x.shape[layer.batch_dim] if moved else len(x)):
            output, edge = pre_activation(output)
            raw = self.measuring and self._is_data(x)
            shape, (x, lent) = output.shape, borrowed(edge, x, module)
            as_output = partial(shaped, torch.Size((1, *shape)) if alone else shape)
            if moved or (layer.folds and not alone and len(x) != self._samples):
                n, batch_dim = self._rows_of(x, layer.batch_dim)
                fold = folding(x.dim(), n, batch_dim)
                x, as_output = fold(x), partial(folded, fold, shape)
            made = OpenActivation(name, layer.module, x, edge, as_output, shape=shape, dtype=output.dtype, raw=raw, lent=lent)
            self._open(made)
        return output

    def _rows_of(self, x: Tensor, batch_dim: int) -> tuple[int | None, int]:
        """What `folding` is to make of an input, as far as the model's batch tells.

        Rows that are a multiple of it are positions of its samples: windows, or tokens in one dimension. If they are none,
        and the second dimension is the batch, positions come first.
        """
        n, rows = self._samples, len(x)
        if x.dim() < 2 or 0 < batch_dim < x.dim() - 1 or n is None or n in (0, 1, rows):
            return None, batch_dim
        if rows > n and rows % n == 0:
            return n, batch_dim
        return None, int(x.dim() > 2 and x.shape[1] == n) or batch_dim

    def sees_use(self, product: UsedProduct) -> Callable[[Tensor], Tensor] | None:
        """Torch is about to compute a product; see `lngd.capture.uses`."""
        if pulling() or inside_transform() or is_tracing() or records_operations():
            return None
        use = self._uses.layer_of(product)
        if use is None or not self._watches(use[0], use[1].module):
            return None
        if self.measuring:
            self._arriving([product.x])
        return partial(self._open_use, *use, product)

    def _open_use(self, name: str, layer: Layer, part: Part, product: UsedProduct, output: Tensor) -> Tensor:
        """A product outside a module, as a layer's call."""
        if self._wanted(name, rows_of(product)):
            n, batch_dim = (None, 0) if product.by_sample else self._rows_of(product.x, layer.batch_dim)
            n = self._samples if isinstance(layer, ExpertsLayer) else n
            output, made = opened_use(output, name=name, layer=layer, part=part, product=product, n=n, batch_dim=batch_dim)
            made.raw = self.measuring and made.x.dim() == 2 and not product.by_sample and self._is_data(product.x)
            self._open(made)
        return output

    def after_attention(
        self, name: str, module: nn.MultiheadAttention, args: tuple, kwargs: dict[str, Any], output: tuple
    ) -> None:
        """Opens what the two projections put out."""
        projection = output_projection(name)
        if torch.compiler.is_compiling() or not output[0].requires_grad:
            return
        if not (self._watches(name, module) or self._watches(projection, module)):
            return
        inputs, given = attention_inputs(args, kwargs), (*args, *kwargs.values())
        if self.measuring:
            self._arriving({id(x): x for x in inputs}.values())
        if inputs[0].dim() != 3:
            self.refused |= dict.fromkeys((name, projection), "attention was called without a batch dimension")
            return
        if not inputs[0].numel():
            return
        query, key, value = (x if module.batch_first else x.transpose(0, 1) for x in inputs)
        if isinstance(layer := self.layers.get(name), AttentionInput):
            self._open_input_projection(name, layer, products_with(now(layer), output[0], given), (query, key, value))
        if (out := self.layers.get(projection)) is not None:
            self._open_output_projection(projection, out, products_with(now(out), output[0], given), len(query))

    @staticmethod
    def arrived(owner: "weakref.ref[Capture]", arrival: Arrival, gradients: tuple[Tensor | None, ...]) -> None:
        """A backward pass has brought the gradient of a call; one of our own is none. A hook on the graph: it holds no one."""
        gradient, capture = gradients[arrival.output_nr], owner()
        if gradient is None or capture is None or pulling() or is_batched(gradient):
            return
        capture._backward_ran = True
        name, number = arrival.name, running_pass()
        if capture._compiled.found:
            capture._compiled.backward_came(arrival.forward_id)
        layer = capture.layers.get(name)
        if layer is None or layer.module is not arrival.module():
            return
        ledger = capture._ledger
        if number != ledger.last_pass:
            ledger.last_pass = number
            if ledger.owners and (gone := ledger.take_dropped({} if capture.measuring else capture.rates)):
                capture._forget(gone)
        gradient = gradient.detach() if gradient.requires_grad else gradient
        sample = None
        x, call = arrival.take()
        if x is not None:
            g = arrival.as_output(gradient)[arrival.chosen].clone()
            sample = RateSample(x, g, arrival.batch, arrival.forward_id)
        guess = Guess(sample, call, None if call is None else capture.source.kept(call, gradient))
        if call is not None:
            guess.last = capture._comes_first(call, number) and call.shape.numel() == call.batch * layer.outputs * layer.groups
        passes = ledger.guessed.setdefault(name, {})
        if number not in passes and len(passes) == PASSES and name not in ledger.sharded:
            del passes[min(passes)]
        passes.setdefault(number, []).append(guess)

    def accumulated(self, name: str, weight: nn.Parameter) -> None:
        """A backward pass has accumulated into a layer's weight: what it has brought counts."""
        number, passes = running_pass(), self._ledger.guessed.pop(name, {})
        if weight.grad is None or weight.grad.is_sparse or pulling():
            return
        self._ledger.owners[name] = weakref.ref(weight.grad), weight.grad._version
        sharded = name in self._ledger.sharded  # there one hook stands for all passes that were not synchronised
        counted = [guess for inner, guesses in passes.items() if sharded or inner >= number for guess in guesses]
        if self.measuring and counted:
            (self.last.add if any(guess.last for guess in counted) else self.last.discard)(name)
        for guess in counted:
            self._reached.add(name)
            if guess.sample is not None:
                self.rates.setdefault(name, []).append(guess.sample)
            if guess.call is not None:
                (self.raw.add if guess.call.raw else self.raw.discard)(name)
                self.source.arrived(guess.call, guess.gradient)
        if name in self.rates and isinstance(self.layers.get(name), ExpertsLayer):
            self.rates[name] = joined_samples(self.rates[name])
        if self.measuring and weight.grad.device.type in HOST and not sharded and not weight.grad.any():
            when_backward_ends(partial(self._ledger.note_zero, name))  # the bias may come later

    def _comes_first(self, call: Call, number: int) -> bool:
        """Whether this is the first call that the backward pass of that number comes to.

        Checkpointing runs a part again in a pass of its own, inside the one that has come to the forward, with a higher number.
        """
        first = call.forward_id not in self._begun if call.rerun else number > self._newest_pass
        self._begun.add(call.forward_id)
        self._newest_pass = max(self._newest_pass, number)
        return first

    def forget_dropped(self) -> None:
        """What belongs to gradients that were dropped since, by whomever and however, is forgotten."""
        if gone := self._ledger.take_dropped({} if self.measuring else self.rates):
            self._forget(gone)

    def _forget(self, gone: Iterable[str]) -> None:
        """Of these layers nothing belongs to a gradient any more."""
        for name in gone:
            self.rates.pop(name, None)
            self._reached.discard(name)
            self.source.forget_arrived_of(name)
            self.dropped(name)
        if not self._ledger.owners:
            self.source.forget_arrived()

    def _open_input_projection(
        self, name: str, layer: AttentionInput, products: list[Product], inputs: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        """`inputs` are batch first."""
        for product in products:
            if self._wanted(name, len(inputs[0])):
                self._open(open_input_projection(name, layer, product, inputs))

    def _open_output_projection(self, name: str, layer: Layer, products: list[Product], batch: int) -> None:
        for product in products:
            if self._wanted(name, batch):
                with alone():
                    x = left_operand(product.node)
                if self.measuring:
                    self._arriving([x])
                self._open(open_output_projection(name, layer.module, product, x, batch))

    def _leave_graphs(self) -> None:
        """No graph holds a layer's call at a measuring step: one that is being traced ends here."""
        if not torch.is_grad_enabled() or (torch.compiler.is_compiling() and traced_for_another_purpose()):
            return
        if self.measuring or not self._compiled.present:
            self._compiled.found |= self._leave_call(None) is not None

    def _watches(self, name: str, module: nn.Module) -> bool:
        """Not where activation checkpointing runs a forward again, for a backward pass of our own or of the user."""
        if name not in self.layers or pulling() or inside_transform() or is_tracing() or records_operations():
            return False
        return not (name in self._called_outside_backward and running_pass() != NO_PASS)

    def _wanted(self, name: str, batch: int) -> bool:
        """Whether anybody wants the gradient of a call, which is counted."""
        if running_pass() == NO_PASS:
            if self._backward_ran:  # parts of a model are called, not the model
                self._next_forward()
            self._called_now[name] += 1
            self._called_outside_backward.add(name)
        self.called.add(name)
        return batch > 0 and (self.measuring or self.rate_samples != 0)

    def _arriving(self, inputs: Iterable[Tensor]) -> None:
        """At a measuring step, the inputs of a layer are there."""
        if self._backward_ran and running_pass() == NO_PASS:  # parts of a model are called, not the model: a new micro-batch
            self._next_forward()
            self.source.part_finished()
        for x in inputs:
            self.source.arriving(x)

    def _next_forward(self) -> None:
        self.forward_id += 1
        self._backward_ran = False
        self._called_now.clear()
        self._sub_batches.clear()

    def _open(self, made: OpenActivation) -> None:
        """Waits for the gradient of a call."""
        batch, rated = len(made.x), self.rate_samples != 0
        chosen = self._rate_slices.get(batch) or self._rate_slices.setdefault(batch, spread(batch, self.rate_samples))
        arrival = Arrival(
            made.name,
            weakref.ref(made.module),
            made.edge.output_nr,
            made.as_output,
            batch=batch,
            forward_id=self.forward_id,
            chosen=chosen,
            x=made.samples(chosen) if rated else None,
            lent=made.lent,
        )
        if rated and self._compiled.found:
            output, call = made.as_output(made.x.new_zeros(()).expand(made.shape)), max(0, self._called_now[made.name] - 1)
            self._compiled.prepare(made.name, output, call)
        if self.measuring:
            self._awaited.add(made.name)
            arrival.call = self._call(made, batch)
            self.source.opened(arrival.call, made.edge)
        made.edge.node.register_prehook(partial(Capture.arrived, weakref.ref(self), arrival))

    def _call(self, made: OpenActivation, batch: int) -> Call:
        """What the curvature wants of a call."""
        chosen = self._sub_batch(made, batch)
        return Call(
            made.name,
            self.forward_id,
            made.batch or batch,
            made.samples(chosen),
            chosen,
            as_output=made.as_output,
            shape=made.shape,
            dtype=made.dtype,
            raw=made.raw,
            lent=made.lent,
            rerun=self._part_runs_again(),
        )

    def _part_runs_again(self) -> bool:
        """Whether reentrant checkpointing runs a part of the model inside a backward pass."""
        return running_pass() != NO_PASS and not self._model_runs_again

    def _is_data(self, x: Tensor) -> bool:
        """Whether an input is rows of data, which nothing that is trained has made. Checkpointing gives a part leaves, too."""
        leaf = x.grad_fn is None and not (x.requires_grad and self._part_runs_again())
        return leaf and x.dim() == 2 and x.is_floating_point()

    def _sub_batch(self, made: OpenActivation, batch: int) -> slice:
        """Which samples measure the curvature; the same in all calls of a layer on as many samples, which add up."""
        if self.curvature_samples is None or made.batch is not None:
            return WHOLE
        key = made.name, batch
        if key not in self._sub_batches:
            layer = self.layers[made.name]
            positions = made.positions or made.shape.numel() // max(1, batch * layer.outputs * layer.groups)
            self._sub_batches[key] = spread(batch, max(self.curvature_samples, -(-self.least_rows // max(1, positions))))
        return self._sub_batches[key]

    def _trace_layer(self, name: str, module: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """Inside a graph that torch.compile makes."""
        if self.rate_samples == 0 or name not in self.layers or traced_for_another_purpose():
            return output
        if not (torch.is_grad_enabled() and output.requires_grad):
            return output
        layer = self.layers[name]
        return layer.batch_first(self._compiled.trace(name, layer.batch_first(x), layer.batch_first(output)))


def now(layer: Layer) -> nn.Parameter:
    """A layer's weight as its module has it: a sharded one is another in the forward."""
    return layer.module.get_parameter(layer.weight_name)


def output_projection(attention: str) -> str:
    """The name of the out-projection of an nn.MultiheadAttention."""
    return f"{attention}.out_proj" if attention else "out_proj"
