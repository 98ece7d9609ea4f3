"""Every trainable parameter has exactly one outcome, and moves."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lngd import EKFAC, LNGD
from lngd.layers import LAYERS
from reference import curved

FEW = pytest.mark.filterwarnings("ignore:only .* of the entries of the model's matrices get curvature")


class Tied(nn.Module):
    """Embedding and head share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self.embed(tokens)).tanh())


class Shared(nn.Module):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.two, self.scale = self.one, nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).tanh()) * self.scale


class Own(nn.Linear):
    """A linear layer with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


def sequence() -> Tensor:
    return torch.randn(8, 5, 4)


Case = tuple[Callable[[], nn.Module], Callable[[], Tensor], dict[str, int]]
CASES: dict[str, Case] = {
    "linear": (lambda: nn.Linear(4, 3), sequence, {"curvature": 2}),
    "conv": (
        lambda: nn.Sequential(nn.Conv1d(5, 6, 3), nn.BatchNorm1d(6), nn.PReLU(), nn.Conv1d(6, 6, 1, groups=3)),
        sequence,
        {"curvature": 4, "fallback": 3},
    ),
    "encoder": (
        lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.1),
        sequence,
        {"curvature": 8, "fallback": 4},
    ),
    "tied": (Tied, lambda: torch.randint(0, 7, (8, 5)), {"curvature": 2, "fallback": 1}),
    "shared": (Shared, sequence, {"curvature": 2, "fallback": 1}),
    "own forward": (lambda: nn.Sequential(Own(4, 4), nn.Linear(4, 2)), sequence, {"curvature": 4}),
    "recurrent": (lambda: nn.LSTM(4, 3, batch_first=True), sequence, {"curvature": 4}),
    "wide": (lambda: nn.Sequential(nn.Linear(4, 9000), nn.Linear(9000, 2)), sequence, {"curvature": 4}),
}


def output(model: nn.Module, x: Tensor) -> Tensor:
    found = model(x)
    return found[0] if isinstance(found, tuple) else found


def loss_of(found: Tensor) -> Tensor:
    return F.mse_loss(found, torch.linspace(-1, 1, found.numel()).reshape(found.shape))


@FEW
@pytest.mark.parametrize("kind", CASES)
def test_every_trainable_parameter_moves_and_appears_once_with_its_reason(kind):
    build, inputs, counts = CASES[kind]
    model, x = build(), inputs()
    optimizer = LNGD(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(output(model, x)).backward()
        optimizer.step()
    outcomes = list(optimizer.summary())
    assert [o.name for o in outcomes] == [name for name, _ in model.named_parameters()]
    assert all(o.reason for o in outcomes if o.kind != "curvature")
    kinds = [o.kind for o in outcomes]
    assert {k: kinds.count(k) for k in dict.fromkeys(kinds)} == counts
    still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert still == []


@FEW
@pytest.mark.parametrize("kind", CASES)
def test_every_parameter_is_in_exactly_one_group_and_its_state_is_of_its_kind(kind):
    build, inputs, _ = CASES[kind]
    model = build()
    optimizer = LNGD(model)
    loss_of(output(model, inputs())).backward()
    optimizer.step()
    home = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert home == [id(p) for p in model.parameters()]
    trained_by = {name: "fallback" if "exp_avg" in optimizer.state[p] else "curvature" for name, p in model.named_parameters()}
    assert {o.name: o.kind for o in optimizer.summary()} == trained_by


@FEW
def test_reasons_say_what_to_do():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), Own(4, 4), nn.Linear(4, 3))
    model[3].bias.requires_grad_(False)
    optimizer = EKFAC(model, [p for n, p in model.named_parameters() if n != "2.bias"], factors=4)
    reasons = {o.name: (o.kind, o.reason) for o in optimizer.summary()}
    assert reasons["0.weight"] == ("fallback", "5 inputs are more than factors.max_dim=4")
    assert reasons["1.weight"][1] == "no curvature for LayerNorm"
    assert reasons["2.weight"] == ("fallback", "the first forward shows how it is used")
    assert reasons["2.bias"] == ("frozen", "left out of params")
    assert reasons["3.weight"] == ("curvature", "")
    assert reasons["3.bias"] == ("frozen", "requires_grad=False")


@FEW
def test_an_embedding_that_is_no_linear_layer_falls_back_and_says_why():
    options = {"max_norm": 1.0, "scale_grad_by_freq": True, "sparse": True}
    model = nn.ModuleDict({name: nn.Embedding(4, 2, **{name: value}) for name, value in options.items()})
    reasons = {o.name: (o.kind, o.reason) for o in LNGD(model, curved(model)).summary()}
    assert reasons == {
        "max_norm.weight": ("fallback", "max_norm changes its weight in the forward pass"),
        "scale_grad_by_freq.weight": ("fallback", "scale_grad_by_freq scales its gradient"),
        "sparse.weight": ("fallback", "its gradient is sparse"),
    }


@FEW
def test_the_vocabulary_is_no_dense_factor_and_channels_are_counted_in_the_layers_own_layout():
    model = nn.ModuleDict({"embed": nn.Embedding(50, 2), "up": nn.ConvTranspose1d(6, 9, 2, groups=3)})  # 3 outputs of 5 inputs
    for optimizer in (LNGD(model, curved(model), factors=5), EKFAC(model, curved(model), factors=5)):
        assert {o.kind for o in optimizer.summary()} == {"curvature"}
    reasons = {o.name: o.reason for o in EKFAC(model, curved(model), factors=1).summary()}
    assert reasons["embed.weight"] == "2 outputs are more than factors.max_dim=1"
    assert reasons["up.weight"] == "5 inputs are more than factors.max_dim=1"


def test_both_projections_of_attention_are_measured_and_the_summary_says_so():
    model = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    optimizer = LNGD(model)
    loss_of(model(sequence())).backward()
    optimizer.step()
    assert {name for name, block in optimizer.blocks.items() if block.ready} == {
        "self_attn",
        "self_attn.out_proj",
        "linear1",
        "linear2",
    }
    assert [o.name for o in optimizer.summary() if o.kind == "curvature"] == [
        "self_attn.in_proj_weight",
        "self_attn.in_proj_bias",
        "self_attn.out_proj.weight",
        "self_attn.out_proj.bias",
        "linear1.weight",
        "linear1.bias",
        "linear2.weight",
        "linear2.bias",
    ]


class Borrowed(nn.Module):
    """Uses a layer's weight without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.borrowed = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.called(x).tanh(), self.borrowed.weight, self.borrowed.bias)


def test_a_layer_whose_weight_is_used_without_calling_it_keeps_its_curvature_under_the_weights_name():
    model = Borrowed()
    optimizer = LNGD(model)
    assert set(optimizer.blocks) == {"called", "borrowed"}
    loss_of(model(sequence())).backward()
    optimizer.step()
    assert set(optimizer.blocks) == {"called", "borrowed.weight"}


def test_a_layer_whose_weight_is_used_in_no_known_product_is_demoted_and_the_summary_says_so():
    model = Borrowed()
    model.forward = lambda x: (model.called(x).unsqueeze(-2) * model.borrowed.weight).sum(-1)
    optimizer = LNGD(model)
    loss_of(model(sequence())).backward()
    with pytest.warns(UserWarning, match="layer 'borrowed': AdamW trains it from now on.*without calling the module"):
        optimizer.step()
    text = str(optimizer.summary())
    assert "without calling the module" in next(line for line in text.splitlines() if "borrowed.weight" in line)
    assert set(optimizer.blocks) == {"called"}


def test_a_head_that_is_tied_to_an_embedding_has_curvature_on_request():
    """It is the head's, whose calls are measured; the parameter's name is the embedding's."""
    for options, kind, blocks in (({}, "fallback", {"body"}), ({"curvature": True}, "curvature", {"body", "head"})):
        model = Tied()
        optimizer = LNGD(model, [{"params": model.parameters(), **options}])
        for _ in range(2):
            optimizer.zero_grad()
            loss_of(model(torch.randint(0, 7, (8, 5)))).backward()
            optimizer.step()
        assert {o.name: o.kind for o in optimizer.summary()}["embed.weight"] == kind
        assert {name for name, block in optimizer.blocks.items() if block.measured} == blocks


def test_a_model_that_is_trained_in_evaluation_mode_has_curvature_as_any():
    """Averages of BatchNorm are often frozen so, from the start or later."""
    runs = []
    for first, later in ((True, True), (False, False), (True, False)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
        optimizer = LNGD(model, generator=torch.Generator().manual_seed(0), schedule=2)
        for training in (first, first, later, later):
            model.train(training)
            optimizer.zero_grad()
            loss_of(model(sequence())).backward()
            optimizer.step()
        assert {o.kind for o in optimizer.summary()} == {"curvature"}
        runs.append([p.clone() for p in model.parameters()])
    for run in runs[1:]:
        assert all(torch.equal(*pair) for pair in zip(run, runs[0], strict=True))


def test_data_parallel_is_refused():
    with pytest.raises(ValueError, match="DataParallel is not supported"):
        LNGD(nn.DataParallel(nn.Linear(3, 2)))


def test_the_printed_summary_counts_numbers_and_bytes():
    model = nn.Sequential(nn.Linear(9, 10), nn.LayerNorm(10), nn.Linear(10, 2, bias=False))
    model[2].requires_grad_(False)
    summary = LNGD(model).summary()
    lines = str(summary).splitlines()
    assert len(lines) == 1 + 5 + 1
    assert "10×9" in lines[1]
    assert lines[-1].startswith("100 curvature, 20 fallback, 20 frozen")
    assert summary.state_bytes == 2 * (10 * 10 + 10) * 4
    assert [summary.count(kind) for kind in ("curvature", "fallback", "frozen")] == [100, 20, 20]


def test_every_layer_type_has_curvature():
    for kind in LAYERS:
        module = kind(4, 2) if kind in (nn.Linear, nn.Embedding, nn.MultiheadAttention) else kind(4, 2, 1)
        assert {o.kind for o in LNGD(module, curved(module)).summary()} == {"curvature"}
