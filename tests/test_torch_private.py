"""What each private name of torch has to mean."""

import copy
import threading
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch._dynamo.utils import counters
from torch.distributed.algorithms.join import Join
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.checkpoint import checkpoint

from lngd import torch_private
from lngd.torch_private import (
    GLOBAL_FORWARD_HOOKS,
    LEFT_OPERANDS,
    NO_PASS,
    _is_marked,
    active_wrapper,
    all_gather_flat,
    compiled_in_place,
    foreach_add,
    foreach_add_,
    foreach_addcmul_,
    foreach_div,
    foreach_lerp,
    foreach_lerp_,
    foreach_mul,
    foreach_mul_,
    foreach_norm,
    foreach_sqrt,
    forward_hooks,
    graph_is_kept,
    has_been_traced,
    inside_transform,
    is_alias,
    is_batched,
    is_compiled,
    is_distributed,
    is_shard,
    is_sharded_module,
    is_tracing,
    joining,
    leave_compiled_call,
    leave_join,
    left_operand,
    mark,
    marked,
    never_compiled,
    never_compiled_alone,
    records_operations,
    remove_global_hook,
    running_pass,
    saved_indices,
    saved_input,
    saves_elsewhere,
    view_base,
    when_backward_ends,
)

T = TypeVar("T")


def seen_in_a_backward_pass(ask: Callable[[], T], **options: bool) -> list[T]:
    """Answers from a hook on a tensor, one on a node, and from a node itself."""
    found: list[T] = []

    class Asking(torch.autograd.Function):
        @staticmethod
        def forward(_ctx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(_ctx, gradient: Tensor) -> Tensor:
            found.append(ask())
            return gradient

    x = torch.ones(2, requires_grad=True)
    y = Asking.apply(2 * x)
    y.register_hook(lambda _: found.append(ask()))
    y.grad_fn.next_functions[0][0].register_prehook(lambda _: found.append(ask()))
    torch.autograd.grad(y.sum(), x, **options)
    return found


def in_another_thread(act: Callable[[], T]) -> T:
    found: list[T] = []
    thread = threading.Thread(target=lambda: found.append(act()))
    thread.start()
    thread.join()
    return found[0]


def test_every_name_is_tested_here():
    own = {name for name, value in vars(torch_private).items() if callable(value) and not isinstance(value, type)}
    own = {name for name in own if not name.startswith("__")}  # what dynamo put there
    assert own - {"attrgetter", "cast"} <= set(globals())


def test_a_hook_knows_that_it_runs_inside_a_backward_pass():
    assert running_pass() == NO_PASS
    assert seen_in_a_backward_pass(lambda: running_pass() != NO_PASS) == [True] * 3
    assert running_pass() == NO_PASS


def test_a_forward_that_a_checkpoint_runs_again_is_inside_a_backward_pass():
    for reentrant in (True, False):
        found: list[bool] = []

        def part(x: Tensor, found: list[bool] = found) -> Tensor:
            found.append(running_pass() != NO_PASS)
            return x.sin()

        checkpoint(part, torch.ones(2, requires_grad=True), use_reentrant=reentrant).sum().backward()
        assert found == [False, True]


def test_a_hook_knows_whether_the_graph_is_kept():
    assert seen_in_a_backward_pass(graph_is_kept) == [False] * 3
    assert seen_in_a_backward_pass(graph_is_kept, retain_graph=True) == [True] * 3
    assert seen_in_a_backward_pass(graph_is_kept, create_graph=True) == [True] * 3


def test_a_function_knows_that_it_is_transformed():
    found: list[bool] = []

    def asking(x: Tensor) -> Tensor:
        found.append(inside_transform())
        return x.sum()

    asking(torch.ones(2))
    torch.func.vmap(asking)(torch.ones(2, 2))
    torch.func.grad(asking)(torch.ones(2))
    assert found == [False, True, True]


def test_what_make_fx_records_knows_that_it_is_recorded():
    found = []

    def double(x: Tensor) -> Tensor:
        found.append(records_operations() is not None)
        return 2 * x

    double(torch.ones(2))
    make_fx(double)(torch.ones(2))
    double(torch.ones(2))
    assert found == [False, True, False]


def test_a_hook_of_all_modules_that_is_removed_leaves_nothing_that_torch_compile_warns_of():
    ran = []
    handle = register_module_forward_hook(lambda _module, _args, _kwargs, _output: ran.append(True), with_kwargs=True)
    nn.Tanh()(torch.ones(1))
    remove_global_hook(handle.id)
    nn.Tanh()(torch.ones(1))
    assert ran == [True]
    assert not torch.nn.modules.module._has_any_global_hook()


def test_a_gradient_that_stands_for_many_is_known():
    x, found = torch.ones(2, requires_grad=True), []
    y = x.square()
    y.register_hook(lambda g: found.append(is_batched(g)))
    torch.autograd.grad(y, x, torch.eye(2), is_grads_batched=True, retain_graph=True)
    torch.autograd.grad(y, x, torch.ones(2))
    assert found == [True, False]


def test_a_modules_hooks_are_in_the_order_in_which_they_run_behind_those_of_all_modules():
    module, ran = nn.Linear(2, 2), []
    handles = [module.register_forward_hook(lambda *_, key=key: ran.append(key)) for key in (1, 2)]
    handles.append(register_module_forward_hook(lambda *_: ran.append(0)))
    assert (len(forward_hooks(module)), len(GLOBAL_FORWARD_HOOKS)) == (2, 1)
    forward_hooks(module).move_to_end(handles[1].id, last=False)
    module(torch.ones(1, 2))
    assert ran == [0, 2, 1]
    for handle in handles:
        handle.remove()
    assert not forward_hooks(module)
    assert not GLOBAL_FORWARD_HOOKS


def test_is_tracing_knows_what_torch_jit_trace_records():
    found: list[bool] = []

    def asked(x: Tensor) -> Tensor:
        found.append(is_tracing())
        return 2 * x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(asked, torch.ones(2), check_trace=False)
    asked(torch.ones(2))
    assert found == [True, False]


every_question = pytest.mark.parametrize("is_marked", [marked, _is_marked], ids=["this torch's", "an older torch's"])


@every_question
def test_a_mark_is_seen_here_and_in_backward_passes_from_here_until_it_is_taken_off(is_marked):
    def ask() -> bool:
        return is_marked("a test's own")

    assert not ask()
    mark("a test's own", True)
    assert ask()
    assert not is_marked("another")
    assert seen_in_a_backward_pass(ask) == [True] * 3
    mark("a test's own")
    assert not ask()
    assert seen_in_a_backward_pass(ask) == [False] * 3


@every_question
def test_a_mark_is_not_seen_by_other_threads_nor_by_their_backward_passes(is_marked):
    mark("a test's own", True)
    try:
        assert not in_another_thread(lambda: is_marked("a test's own"))
        assert in_another_thread(lambda: seen_in_a_backward_pass(lambda: is_marked("a test's own"))) == [False] * 3
    finally:
        mark("a test's own")


@every_question
def test_a_mark_goes_with_the_backward_pass_and_not_with_the_thread_that_runs_it(is_marked):
    """Each node finds what the pass was started with, as in the thread of a GPU, which has never heard of the mark."""
    found: list[bool] = []

    def ask_and_take_off(_: Tensor) -> None:
        found.append(is_marked("a test's own"))
        mark("a test's own")
        found.append(is_marked("a test's own"))

    x = torch.ones(2, requires_grad=True)
    y = 2 * x
    z = 3 * y
    for t in (y, z):
        t.register_hook(ask_and_take_off)
    mark("a test's own", True)
    try:
        z.sum().backward()
        assert found == [True, False] * 2
    finally:
        mark("a test's own")


def test_a_view_has_a_base_and_nothing_else_does():
    x = torch.ones(2, 3, requires_grad=True)
    y = 2 * x
    assert view_base(x) is view_base(y) is view_base(x.detach().clone()) is None
    assert view_base(y.view(3, 2)) is y
    assert view_base(y[0][1:]) is y
    tokens = nn.Linear(3, 4)(torch.ones(2, 5, 3))
    assert view_base(tokens).shape == (10, 4)
    assert view_base(tokens.relu_()) is not None


def test_a_matrix_product_keeps_its_left_operand():
    a, weight, bias = torch.randn(5, 3), torch.randn(4, 3, requires_grad=True), torch.randn(4, requires_grad=True)
    for product in (F.linear(a, weight), F.linear(a, weight, bias)):
        assert product.grad_fn.name() in LEFT_OPERANDS
        assert torch.equal(left_operand(product.grad_fn), a)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kind", "shape"), [(nn.Linear, (5, 3)), (nn.Linear, (2, 5, 3)), (nn.Conv1d, (2, 3, 5))])
def test_a_layers_node_keeps_its_input_and_torch_guards_it(kind, shape, bias):
    layer, x = (kind(3, 4, bias=bias) if kind is nn.Linear else kind(3, 4, 2, bias=bias)), torch.randn(shape)
    output = layer(x)
    assert is_alias(saved_input(output.grad_fn), x)
    assert not is_alias(saved_input(output.grad_fn), x.clone())
    with torch.autograd.graph.save_on_cpu():
        assert saved_input(layer(x).grad_fn) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert saved_input(layer(x).grad_fn).dtype == torch.bfloat16
    assert saved_input(output.sin().grad_fn) is None
    assert saved_input(None) is None
    if kind is nn.Linear:
        assert saved_input(layer.requires_grad_(False)(x.requires_grad_()).grad_fn) is None
    x.detach().zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_picked_entries_know_their_indices():
    weight, places = torch.randn(4, 3, 2, requires_grad=True), torch.tensor([2, 0, 2])
    assert torch.equal(saved_indices(weight[places].grad_fn), places)
    for other in (weight[1:], weight[:, places[1:]], weight[weight > 0], weight[places, places[:1]], weight[places.unsqueeze(0)]):
        assert saved_indices(other.grad_fn) is None


def test_what_a_backward_pass_needs_is_known_to_be_kept_elsewhere():
    found = []
    x = torch.ones(2, requires_grad=True)

    def ask(t: Tensor) -> Tensor:
        found.append(saves_elsewhere())
        return t.sin()

    ask(x)
    checkpoint(ask, x, use_reentrant=False).sum().backward()
    with torch.autograd.graph.save_on_cpu():
        ask(x)
    assert [one is not None for one in found] == [False, True, True, True]
    assert saves_elsewhere() is None


def test_a_module_knows_that_it_was_compiled_in_place():
    module = nn.Linear(2, 2)
    assert not compiled_in_place(module)
    assert not compiled_in_place(torch.compile(module, backend="eager"))
    module.compile(backend="eager")
    assert compiled_in_place(module)


DTYPES = [torch.float64, torch.float32, torch.bfloat16]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def some(seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Tensors of several shapes, one of them no block of memory, one a number, one empty; all entries in (0.5, 1.5)."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((3, 4), (5,), (2, 1, 3), (), (0, 3))
    first, *others = [(0.5 + torch.rand(shape, generator=generator)).to(dtype) for shape in shapes]
    return [first.T, *others]


def numbers(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """A tensor of no dimension for each of `some`, views of one vector."""
    return torch.rand(5, generator=torch.Generator().manual_seed(seed)).to(dtype).unbind()


NEW: dict[str, tuple[Callable[..., tuple[Tensor, ...]], Callable[..., Tensor], tuple[Any, ...]]] = {
    "mul, tensors": (foreach_mul, lambda x, y: x * y, (some,)),
    "mul, numbers on the device": (foreach_mul, lambda x, y: x * y, (numbers,)),
    "mul, a number of each": (foreach_mul, lambda x, y: x * y, ([0.5, 2.0, 3.0, 4.0, 5.0],)),
    "mul, one number": (foreach_mul, lambda x, y: x * y, (0.25,)),
    "add, one number": (foreach_add, lambda x, y: x + y, (1e-2,)),
    "div, tensors": (foreach_div, lambda x, y: x / y, (some,)),
    "div, numbers on the device": (foreach_div, lambda x, y: x / y, (numbers,)),
    "sqrt": (foreach_sqrt, lambda x: x**0.5, ()),
    "lerp, one number": (foreach_lerp, lambda x, y, weight: x + weight * (y - x), (some, 0.25)),
}
IN_PLACE: dict[str, tuple[Callable[..., None], Callable[..., Tensor], tuple[Any, ...]]] = {
    "mul_, numbers on the device": (foreach_mul_, lambda x, y: x * y, (numbers,)),
    "add_, tensors": (foreach_add_, lambda x, y: x + y, (some,)),
    "lerp_, numbers on the device": (foreach_lerp_, lambda x, y, weight: x + weight * (y - x), (some, numbers)),
    "addcmul_, numbers on the device": (foreach_addcmul_, lambda x, y, factor: x + y * factor, (some, numbers)),
}


def made(arguments: tuple[Any, ...], dtype: torch.dtype) -> list[Any]:
    """With tensors for what makes some."""
    return [each(seed, dtype) if callable(each) else each for seed, each in enumerate(arguments, start=2)]


def loop(one: Callable[..., Tensor], tensors: list[Tensor], arguments: list[Any]) -> list[Tensor]:
    """Tensor by tensor."""
    shared = [argument if isinstance(argument, list | tuple) else [argument] * len(tensors) for argument in arguments]
    return [one(*each) for each in zip(tensors, *shared, strict=True)]


@every_dtype
@pytest.mark.parametrize("case", NEW)
def test_an_operation_on_a_list_gives_what_a_loop_gives_and_changes_nothing(case, dtype):
    operation, one, arguments = NEW[case]
    tensors, given = some(1, dtype), made(arguments, dtype)
    before = copy.deepcopy([tensors, given])
    found = operation(tensors, *given)
    assert [t.dtype for t in found] == [dtype] * len(tensors)
    torch.testing.assert_close([*found], loop(one, tensors, given))
    torch.testing.assert_close([tensors, given], before, rtol=0, atol=0)


@every_dtype
@pytest.mark.parametrize("case", IN_PLACE)
def test_an_operation_in_place_changes_its_first_list_alone_as_a_loop_does(case, dtype):
    operation, one, arguments = IN_PLACE[case]
    tensors, given = some(1, dtype), made(arguments, dtype)
    before, places = copy.deepcopy(given), [t.data_ptr() for t in tensors]
    expected = loop(one, copy.deepcopy(tensors), given)
    operation(tensors, *given)
    torch.testing.assert_close(tensors, expected)
    torch.testing.assert_close(given, before, rtol=0, atol=0)
    assert [t.data_ptr() for t in tensors] == places


@pytest.mark.parametrize("case", IN_PLACE)
def test_an_operation_in_place_changes_parameters_and_what_its_tensors_are_views_of(case):
    operation, one, arguments = IN_PLACE[case]
    base, weight = torch.rand(2, 3), nn.Parameter(torch.rand(2))
    given = [[t.expand(2) if each is some else t for t in numbers(3, torch.float32)[:4]] for each in arguments]
    expected = loop(one, [*base.clone().T, weight.detach().clone()], given)
    with torch.no_grad():
        operation([*base.T, weight], *given)
    torch.testing.assert_close([*base.T, weight.detach()], expected)


def test_numbers_on_the_device_have_no_say_in_the_dtype():
    """Weights in bfloat16 are multiplied with float32's factors, as a number would do it."""
    tensors, factors = some(1, torch.bfloat16), numbers(2, torch.float32)
    expected = [(t.float() * factor).to(torch.bfloat16) for t, factor in zip(tensors, factors, strict=True)]
    foreach_mul_(tensors, factors)
    torch.testing.assert_close(tensors, expected)


@every_dtype
@pytest.mark.parametrize("order", [1, 2.0, float("inf")])
def test_norms_of_a_list_are_those_of_a_loop(order, dtype):
    tensors = [t - 1 for t in some(1, dtype) if t.numel() or order != float("inf")]
    powers = [t.double().abs() for t in tensors]
    expected = [t.max() if order == float("inf") else (t**order).sum() ** (1 / order) for t in powers]
    found = foreach_norm(tensors, ord=order)
    assert [(t.dtype, t.shape) for t in found] == [(dtype, ())] * len(tensors)
    torch.testing.assert_close([*found], [t.to(dtype) for t in expected])
    if order == 2.0:
        assert all(torch.equal(one, two) for one, two in zip(foreach_norm(tensors), found, strict=True))


@pytest.mark.parametrize("order", [1, 2.0, float("inf")])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_norm_is_finite_only_where_every_entry_is(bad, order):
    tensors = [torch.ones(300) for _ in range(3)]
    tensors[1][137] = bad
    assert [bool(norm.isfinite()) for norm in foreach_norm(tensors, ord=order)] == [True, False, True]


def test_what_torch_compile_returned_is_known_from_what_was_written():
    def function(x: Tensor) -> Tensor:
        return 2 * x

    assert not is_compiled(function)
    assert is_compiled(torch.compile(function, backend="eager"))
    module = nn.Linear(2, 2)
    assert not is_compiled(module.forward)
    assert is_compiled(torch.compile(module, backend="eager").forward)
    assert is_compiled(torch.compile(module.forward, backend="eager"))


def test_a_parameter_is_marked_when_a_graph_is_made_with_it():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    compiled = [torch.compile(first, backend="eager"), torch.compile(lambda x: second(x).sum(), backend="eager")]
    parameters = [*first.parameters(), *second.parameters()]
    first(torch.ones(1, 2))
    second(torch.ones(1, 2))
    assert not any(has_been_traced(p) for p in parameters)
    for call in compiled:
        call(torch.ones(1, 2))
    assert all(has_been_traced(p) for p in parameters)


def test_a_compiled_call_that_is_left_runs_as_written_to_its_end_and_no_longer():
    left: list[bool] = []
    leave = torch.compiler.disable(leave_compiled_call, recursive=False)

    def as_written() -> bool:
        return not torch.compiler.is_compiling()

    def inner(x: Tensor) -> tuple[Tensor, bool]:
        left.append(leave(None) is not None)
        return x + 1, as_written()

    @partial(torch.compile, backend="eager")
    def outer(x: Tensor) -> tuple[Tensor, bool, bool]:
        y, inside = inner(x)
        return y, inside, as_written()

    assert outer(torch.ones(2))[1:] == (True, True)
    assert left == [True]
    assert torch.compile(lambda x: (x, as_written()), backend="eager")(torch.ones(2))[1] is False
    assert leave(None) is None


def test_one_is_called_back_when_the_backward_pass_has_ended():
    order: list[str] = []

    def arrived(_gradient: Tensor) -> None:
        order.append("arrived")
        when_backward_ends(lambda: order.append("ended"))

    x = torch.ones(2, requires_grad=True)
    x.register_hook(lambda _: order.append("last"))
    y = 2 * x
    y.register_hook(arrived)
    y.sum().backward()
    assert order == ["arrived", "last", "ended"]


def test_a_function_that_is_never_compiled_alone_is_part_of_a_graph_but_makes_none():
    found: list[bool] = []
    counters.clear()

    @never_compiled_alone
    def double(x: Tensor) -> Tensor:
        found.append(torch.compiler.is_compiling())
        return 2 * x

    @partial(torch.compile, backend="eager")
    def inside(x: Tensor) -> Tensor:
        return double(x) + 1

    @partial(torch.compile, backend="eager")
    def broken(x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return torch.compiler.disable(double, recursive=False)(x)

    assert torch.equal(inside(torch.ones(2)), torch.full((2,), 3.0))
    assert counters["stats"]["unique_graphs"] == 1
    broken(torch.ones(2))
    assert counters["stats"]["unique_graphs"] == 1
    assert found[-1] is False


def test_a_method_that_is_never_compiled_ends_the_graph_of_who_calls_it():
    found: list[bool] = []

    @never_compiled
    def ask() -> None:
        found.append(torch.compiler.is_compiling())

    @partial(torch.compile, backend="eager")
    def caller(x: Tensor) -> Tensor:
        ask()
        return 2 * x

    caller(torch.ones(2))
    ask()
    assert found == [False, False]


def test_a_tensor_and_a_module_know_that_they_are_sharded(tmp_path: Path):
    assert not is_distributed()
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    assert is_distributed()
    model = nn.Sequential(nn.Linear(3, 2))
    assert not is_shard(model[0].weight)
    assert not is_sharded_module(model)
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    assert is_shard(model[0].weight)
    assert is_sharded_module(model)
    assert not is_sharded_module(model[0])
    found = torch.zeros(2)
    all_gather_flat(found, torch.tensor([1.0, 2.0]), group=None)
    assert found.tolist() == [1.0, 2.0]
    distributed.destroy_process_group()


def test_a_wrapper_is_known_inside_its_forward_and_under_join(tmp_path: Path):
    seen = []

    class Inner(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((wrapper := active_wrapper(), wrapper is not None and joining(wrapper) is not None))
            return super().forward(x)

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    model = nn.parallel.DistributedDataParallel(Inner(3, 2))
    model(torch.ones(1, 3))
    with Join([model]):
        model(torch.ones(1, 3))
    first = joining(model)
    Join([model])
    assert joining(model) is not first
    leave_join(model)
    assert joining(model) is None
    distributed.destroy_process_group()
    assert seen == [(model, False), (model, True)]
    assert active_wrapper() is None
