"""Adapters of one's own: the table, what register_layer refuses, and that such a layer trains like any other."""

import copy
import inspect
import re
import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lngd
from lngd import LNGD, Layer, check_layer, register_layer
from lngd.layers import LAYERS, LinearLayer, adapter_of, why_unsupported

DOCS = Path(__file__).parents[1] / "docs" / "layers.md"


@pytest.fixture(autouse=True)
def _table():
    """As it was."""
    before = dict(LAYERS)
    yield
    LAYERS.clear()
    LAYERS.update(before)


class Own(nn.Linear):
    """Writes its parent's product itself."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


class Grouped(nn.Module):
    """Each group of channels has a matrix of its own; its parameters have names of their own."""

    def __init__(self, groups: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.matrices, self.shift = nn.Parameter(torch.randn(groups, inputs, outputs)), nn.Parameter(torch.zeros(groups, outputs))

    def forward(self, x: Tensor) -> Tensor:
        groups = x.unflatten(-1, self.matrices.shape[:2]).unsqueeze(-2)
        return (groups @ self.matrices).squeeze(-2).add(self.shift).flatten(-2)


class GroupedLayer(Layer):
    weight_name = "matrices"
    bias_name = "shift"

    def __init__(self, module: nn.Module, *, with_bias: bool) -> None:
        super().__init__(module, with_bias=with_bias)
        self.groups = len(self.weight)

    @property
    def outputs(self) -> int:
        return self.weight.shape[-1]

    def activations(self, x: Tensor) -> Tensor:
        return self.with_ones(self._rows(x))

    def gradients(self, grad: Tensor) -> Tensor:
        return self._rows(grad)

    def output(self, x: Tensor, matrix: Tensor) -> Tensor:
        weight, *bias = self.split(matrix)
        rows = torch.einsum("...gi,gio->...go", x.to(self.dtype).unflatten(-1, (self.groups, -1)), weight)
        return sum(bias, rows).flatten(-2)

    def weight_as_matrix(self, weight: Tensor) -> Tensor:
        return weight.mT.reshape(*self.group_shape, self.outputs, -1)

    def matrix_as_weight(self, matrix: Tensor) -> Tensor:
        return matrix.mT.reshape(self.weight.shape)

    def _rows(self, t: Tensor) -> Tensor:
        rows = t.to(self.dtype).reshape(len(t), -1, self.groups, t.shape[-1] // self.groups).permute(2, 0, 1, 3)
        return rows if self.groups > 1 else rows[0]


class Other(LinearLayer):
    """Another adapter."""


def test_a_registered_class_has_curvature_in_every_optimizer_made_from_then_on():
    model = nn.Sequential(Own(4, 8), nn.Tanh(), Own(8, 3))
    assert why_unsupported(model[0]) == "no curvature for Own"
    assert {o.kind for o in LNGD(copy.deepcopy(model)).summary()} == {"fallback"}
    register_layer(Own, LinearLayer)
    check_layer(model[0], torch.randn(5, 4))
    assert why_unsupported(model[0]) is None
    assert {o.kind for o in LNGD(model).summary()} == {"curvature"}


def test_a_call_may_name_the_input_as_the_module_does():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = Own(4, 3)

        def forward(self, z: Tensor) -> Tensor:
            return self.own(x=z)

    register_layer(Own, LinearLayer)
    runs = []
    for model in (nn.Sequential(Own(4, 3)), Named()):
        torch.manual_seed(0)
        for p in model.parameters():
            nn.init.normal_(p)
        optimizer = LNGD(model, generator=torch.Generator().manual_seed(0))
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.randn(8, 4)), torch.arange(8) % 3).backward()
            optimizer.step()
        assert next(iter(optimizer.blocks.values())).updates == 3
        runs.append([p.clone() for p in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))


def test_a_registered_class_wins_over_its_parents_and_the_parents_stay():
    class Plain(nn.Linear):
        pass

    class Child(Plain):
        pass

    assert adapter_of(Child(2, 2)) is LinearLayer
    register_layer(Plain, Other)
    assert adapter_of(Plain(2, 2)) is adapter_of(Child(2, 2)) is Other
    assert adapter_of(nn.Linear(2, 2)) is LinearLayer


def test_a_subclass_of_a_registered_class_counts_as_it_unless_it_has_a_forward_of_its_own():
    class Child(Own):
        pass

    class Changed(Own):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    class Restored(Own):
        forward = nn.Linear.forward

    register_layer(Own, Other)
    assert adapter_of(Child(2, 2)) is Other
    assert adapter_of(Changed(2, 2)) is None
    assert adapter_of(Restored(2, 2)) is LinearLayer


def test_registering_twice_replaces():
    register_layer(Own, LinearLayer)
    register_layer(Own, Other)
    assert adapter_of(Own(2, 2)) is Other


def test_a_class_of_the_table_may_be_replaced():
    register_layer(nn.Linear, Other)
    assert adapter_of(nn.Linear(2, 2)) is Other


def test_a_registered_class_wins_over_what_it_looks_like():
    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nf, self.weight, self.bias = 3, nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight + self.bias

    assert adapter_of(Conv1D()) is not None
    register_layer(Conv1D, Other)
    assert adapter_of(Conv1D()) is Other


class Unfinished(Layer):
    def activations(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LinearLayer, nn.Linear), r"^register_layer got .*LinearLayer.* as the module's class: give a subclass of nn\.Module$"),
        ((nn.Linear(2, 2), LinearLayer), r"^register_layer got Linear\(.* as the module's class"),
        (("Linear", LinearLayer), "^register_layer got 'Linear' as the module's class"),
        ((nn.Linear, nn.Conv1d), r"Conv1d.* is no adapter: give a subclass of lngd\.Layer"),
        ((nn.Linear, LinearLayer(nn.Linear(2, 2), with_bias=True)), "is no adapter: .* not an instance"),
        ((nn.Linear, Unfinished), r"^the adapter Unfinished lacks methods of lngd\.Layer: write gradients, output$"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_sentence_and_changes_nothing(arguments, message):
    """`unwrap`: in the tests beartype would answer first."""
    before = dict(LAYERS)
    with pytest.raises(TypeError, match=message):
        inspect.unwrap(register_layer)(*arguments)
    assert before == LAYERS


@pytest.mark.parametrize("groups", [1, 2])
def test_an_adapter_with_groups_and_names_of_its_own_holds(groups):
    for shape in [(5,), (5, 3), (5, 3, 2)]:
        check_layer(Grouped(groups, 4, 3), torch.randn(*shape, 4 * groups), adapter=GroupedLayer)


@pytest.mark.parametrize("method", [lngd.LNGD, lngd.KFAC, lngd.EKFAC, lngd.SpectralLNGD])
def test_a_model_of_registered_layers_learns(method):
    register_layer(Grouped, GroupedLayer)
    model = nn.Sequential(Grouped(2, 4, 8), nn.Tanh(), nn.Linear(16, 3))
    optimizer, x, losses = method(model), torch.randn(64, 8), []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), x[:, :3].argmax(1))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert {o.kind for o in optimizer.summary()} == {"curvature"}
    assert losses[-1] < 0.8 * losses[0]


def test_the_example_of_the_docs_runs(tmp_path, capsys):
    section = re.search(r"^## Adding a layer\n(.*?)^## ", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    (example,) = re.findall(r"```python\n(.*?)```", section[1], re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(example)
    ran = runpy.run_path(str(script))
    assert {o.kind for o in ran["optimizer"].summary()} == {"curvature"}
    assert "curvature" in capsys.readouterr().out
