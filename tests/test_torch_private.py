"""What each private name of torch has to mean."""

import threading
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lngd import torch_private
from lngd.torch_private import (
    LEFT_OPERANDS,
    NO_PASS,
    compiled_in_place,
    graph_is_kept,
    inside_transform,
    left_operand,
    mark,
    marked,
    running_pass,
    view_base,
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
    assert own - {"attrgetter"} <= set(globals())


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


def test_a_mark_is_seen_here_and_in_backward_passes_from_here_until_it_is_taken_off():
    def ask() -> bool:
        return marked("a test's own")

    assert not ask()
    mark("a test's own", True)
    assert ask()
    assert not marked("another")
    assert seen_in_a_backward_pass(ask) == [True] * 3
    mark("a test's own")
    assert not ask()
    assert seen_in_a_backward_pass(ask) == [False] * 3


def test_a_mark_is_not_seen_by_other_threads_nor_by_their_backward_passes():
    mark("a test's own", True)
    try:
        assert not in_another_thread(lambda: marked("a test's own"))
        assert in_another_thread(lambda: seen_in_a_backward_pass(lambda: marked("a test's own"))) == [False] * 3
    finally:
        mark("a test's own")


def test_a_mark_goes_with_the_backward_pass_and_not_with_the_thread_that_runs_it():
    """Each node finds what the pass was started with, as in the thread of a GPU, which has never heard of the mark."""
    found: list[bool] = []

    def ask_and_take_off(_: Tensor) -> None:
        found.append(marked("a test's own"))
        mark("a test's own")
        found.append(marked("a test's own"))

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


def test_a_module_knows_that_it_was_compiled_in_place():
    module = nn.Linear(2, 2)
    assert not compiled_in_place(module)
    assert not compiled_in_place(torch.compile(module, backend="eager"))
    module.compile(backend="eager")
    assert compiled_in_place(module)
