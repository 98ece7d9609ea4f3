"""A loss that contradicts the arguments is warned of, once; one that does not never is."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lngd import KFAC, LNGD, Empirical, FisherType, Layerwise, Sampled, Schedule, SpectralLNGD
from lngd.sampling import Fisher
from recorded import Recorded
from reference import batch, mlp, train_step

N, CLASSES = 64, 5
Loss = Callable[[Tensor, Tensor], Tensor]
SAMPLED, LAYERWISE, EMPIRICAL = Sampled(), Layerwise(), Empirical()
every_way = pytest.mark.parametrize("fisher", [SAMPLED, LAYERWISE, EMPIRICAL], ids=lambda fisher: fisher.type.value)
AS_CLASSES, AS_A_SUM = "labels are drawn as classes", "looks like a sum"


class Output(nn.Module):
    """Its output is its parameters: the first loss of a run, at any outputs."""

    def __init__(self, *shape: int, spread: float = 1.0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        generator = torch.Generator().manual_seed(1)
        self.z = nn.Parameter((spread * torch.randn(shape, generator=generator)).to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.z + 0 * self.layer(x).sum()


def labels(shape: tuple[int, ...], classes: int = CLASSES) -> Tensor:
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(2))


def said(fisher: Fisher, model: nn.Module, loss: Loss, *, mean_over: str = "batch", scaled: bool = False) -> list[str]:
    """The warnings of a first step."""
    recorded = Recorded(model, fisher, mean_over=mean_over)
    output = model(torch.ones(2, 3))
    loss(output, output).backward()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        recorded.capture.warn_of_wrong_loss(scaled=scaled)
    recorded.step()
    return [str(warning.message) for warning in caught]


def cross_entropy(y: Tensor, **options) -> Loss:
    return lambda z, _: F.cross_entropy(z, y, **options)


y = labels((N,))
RARE = torch.zeros(N, dtype=torch.int64).index_fill(0, torch.tensor([3]), 1)
WEIGHTS = torch.tensor([1.0, 1e4, 1.0, 1.0, 1.0])
FIRST_ONLY = torch.full((N,), -100).index_fill(0, torch.tensor([0]), 2)


def focal(z: Tensor, _: Tensor) -> Tensor:
    log_p = z.log_softmax(-1).gather(-1, y.unsqueeze(-1))
    return -((1 - log_p.exp()).square() * log_p).mean()


def distilled(z: Tensor, _: Tensor) -> Tensor:
    teacher = torch.randn(N, CLASSES, generator=torch.Generator().manual_seed(3)).softmax(-1)
    return F.kl_div((z / 2).log_softmax(-1), teacher, reduction="batchmean")


GOOD: dict[str, Loss] = {
    "a mean": cross_entropy(y),
    "class weights": cross_entropy(y, weight=WEIGHTS),
    "class weights that leave one sample": cross_entropy(RARE, weight=WEIGHTS),
    "label smoothing": cross_entropy(y, label_smoothing=0.3),
    "soft targets": cross_entropy(torch.rand(N, CLASSES, generator=torch.Generator().manual_seed(4)).softmax(-1)),
    "one label that is not ignored": cross_entropy(FIRST_ONLY),
    "a scaled loss": lambda z, _: 2.0**16 * F.cross_entropy(z, y),
    "a loss eight times as large": lambda z, _: 8 * F.cross_entropy(z, y),
    "a part of a sum of losses": lambda z, _: 0.1 * F.cross_entropy(z, y, reduction="sum"),
    "a micro-batch's share": lambda z, _: F.cross_entropy(z, y, reduction="sum") / (4 * N),
    "focal": focal,
    "distilled": distilled,
    "margin": lambda z, _: F.multi_margin_loss(z, y),
    "smoothed and a regulariser of the logits' sum": lambda z, _: F.cross_entropy(z, y) + 1e-4 * z.logsumexp(-1).square().mean(),
}


@pytest.mark.parametrize("sure", [8, 14, 18, 25, 40])
@every_way
def test_a_model_that_is_sure_of_every_sample_is_not_warned_of(fisher, sure):
    """Its gradients are what rounding leaves of p − 1."""
    model = Output(N, CLASSES, spread=0.1)
    with torch.no_grad():
        model.z += sure * F.one_hot(y, CLASSES)
    assert said(fisher, model, cross_entropy(y)) == []


@pytest.mark.parametrize("spread", [0.0, 0.1, 3.0])
@pytest.mark.parametrize("kind", GOOD)
@every_way
def test_a_cross_entropy_that_is_no_sum_is_not_warned_of(fisher, kind, spread):
    assert said(fisher, Output(N, CLASSES, spread=spread), GOOD[kind]) == []


SHAPES: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "classes": ((N, CLASSES), lambda z: z),
    "tokens": ((8, 6, CLASSES), lambda z: z.flatten(0, 1)),
    "pixels": ((4, CLASSES, 3, 2), lambda z: z.movedim(1, -1).reshape(-1, CLASSES)),
    "two samples": ((2, CLASSES), lambda z: z),
}
every_shape = pytest.mark.parametrize("shape", SHAPES)


@every_shape
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@every_way
def test_a_mean_is_recognised_in_every_shape_and_dtype(fisher, dtype, shape):
    of, rows = SHAPES[shape]
    model = Output(*of, dtype=dtype)

    def loss(z: Tensor, _: Tensor) -> Tensor:
        z = rows(z).float()
        return F.cross_entropy(z, labels((len(z),)), reduction="sum") / of[0]

    assert said(fisher, model, loss) == []
    assert said(fisher, model, lambda z, _: F.cross_entropy(rows(z).float(), labels((len(rows(z)),)))) == []


@every_shape
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@every_way
def test_a_sum_is_recognised_in_every_shape_and_dtype(fisher, dtype, shape):
    of, rows = SHAPES[shape]

    def loss(z: Tensor, _: Tensor) -> Tensor:
        z = rows(z).float()
        return F.cross_entropy(z, labels((len(z),)), reduction="sum")

    (message,) = said(fisher, Output(*of, dtype=dtype), loss)
    assert AS_A_SUM in message
    assert f"the {of[0]} samples" in message
    assert "mean_over='none'" in message


@every_way
def test_a_sum_is_no_surprise_where_it_was_promised_and_one_is_where_a_mean_over_tokens_was(fisher):
    assert said(fisher, Output(N, CLASSES), cross_entropy(y, reduction="sum"), mean_over="none") == []
    (message,) = said(fisher, Output(N, CLASSES), cross_entropy(y, reduction="sum"), mean_over="token")
    assert AS_A_SUM in message


@every_shape
@pytest.mark.parametrize("over", ["samples", "all rows"])
@every_way
def test_a_mean_where_a_sum_was_promised_is_recognised_in_every_shape(fisher, over, shape):
    of, rows = SHAPES[shape]

    def loss(z: Tensor, _: Tensor) -> Tensor:
        z = rows(z)
        return F.cross_entropy(z, labels((len(z),)), reduction="sum") / (of[0] if over == "samples" else len(z))

    (message,) = said(fisher, Output(*of), loss, mean_over="none")
    assert "looks like a mean" in message
    assert "mean_over='batch'" in message


@pytest.mark.parametrize("part", [0.1, 8.0, 1 / (4 * N)])
@every_way
def test_a_part_of_a_sum_is_no_mean(fisher, part):
    assert said(fisher, Output(N, CLASSES), lambda z, _: part * F.cross_entropy(z, y, reduction="sum"), mean_over="none") == []


@every_way
def test_under_a_grad_scaler_nothing_is_said_of_a_sum(fisher):
    """Its factor may well be the number of samples."""
    assert said(fisher, Output(N, CLASSES), lambda z, _: N * F.cross_entropy(z, y), scaled=True) == []


@every_way
def test_one_sample_has_no_sum_that_is_no_mean(fisher):
    assert said(fisher, Output(1, CLASSES), cross_entropy(y[:1], reduction="sum")) == []
    assert said(fisher, Output(1, 6, CLASSES), lambda z, _: F.cross_entropy(z[0], y[:6], reduction="sum")) == []


@every_way
def test_an_empty_batch_says_nothing(fisher):
    assert said(fisher, Output(0, CLASSES), cross_entropy(y[:0], reduction="sum")) == []


@every_way
def test_log_probabilities_and_their_loss_are_a_cross_entropy(fisher):
    class LogOutput(Output):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).log_softmax(-1)

    assert said(fisher, LogOutput(N, CLASSES), lambda z, _: F.nll_loss(z, y)) == []


TARGETS = torch.rand(N, CLASSES, generator=torch.Generator().manual_seed(5))
OTHERS: dict[str, Loss] = {
    "squares": lambda z, _: F.mse_loss(z, TARGETS),
    "absolute errors": lambda z, _: F.l1_loss(z, TARGETS),
    "yes or no": lambda z, _: F.binary_cross_entropy_with_logits(z, TARGETS.round()),
    "probabilities": lambda z, _: F.nll_loss(z.sigmoid().log(), y),
    "classes in another dimension": lambda z, _: F.cross_entropy(z.T, labels((CLASSES,), N)),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_labels_drawn_as_classes_for_another_loss_are_warned_of(kind):
    (message,) = said(SAMPLED, Output(N, CLASSES), OTHERS[kind])
    assert AS_CLASSES in message
    assert "fisher=Sampled('gaussian') for regression" in message


@pytest.mark.parametrize("outputs", [2, 10, 64, 300])
def test_a_regression_is_recognised_whatever_the_number_of_outputs(outputs):
    (message,) = said(SAMPLED, Output(N, outputs), lambda z, _: z.square().mean())
    assert AS_CLASSES in message


def test_classes_in_the_second_of_three_dimensions_are_warned_of():
    """Labels are drawn over the last."""
    model = Output(8, CLASSES, 7)
    (message,) = said(SAMPLED, model, lambda z, _: F.cross_entropy(z, labels((8, 7))))
    assert "last dimension" in message


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("fisher", [Sampled("gaussian"), Sampled("bernoulli"), LAYERWISE, EMPIRICAL], ids=str)
def test_another_loss_is_no_surprise_where_no_classes_are_drawn(fisher, kind):
    assert said(fisher, Output(N, CLASSES), OTHERS[kind]) == []


class Odd(NamedTuple):
    """An output without logits."""

    loss: Tensor


WITHOUT_LOGITS: dict[str, Callable[[Tensor], object]] = {
    "nothing": lambda _: None,
    "a dictionary": lambda z: {"scores": z},
    "a named tuple of a loss": lambda z: Odd(z.sum()),
    "one number a sample": lambda z: z[:, 0],
    "a nested list": lambda z: [[z]],
}


@pytest.mark.parametrize("wrap", WITHOUT_LOGITS.values(), ids=WITHOUT_LOGITS)
@pytest.mark.parametrize("fisher", [LAYERWISE, EMPIRICAL], ids=str)
def test_an_output_that_holds_no_logits_is_let_alone(fisher, wrap):
    class Wrapping(Output):
        def forward(self, x: Tensor) -> object:
            self.logits = super().forward(x)
            return wrap(self.logits)

    model = Wrapping(N, CLASSES)
    assert said(fisher, model, lambda *_: model.logits.square().sum()) == []


@every_way
def test_a_step_without_a_gradient_leaves_the_question_open(fisher):
    model = Output(N, CLASSES)
    recorded = Recorded(model, fisher)
    for factor, known in ((0.0, False), (torch.nan, False), (1.0, True)):
        (factor * F.cross_entropy(model(torch.ones(2, 3)), y)).backward()
        recorded.capture.warn_of_wrong_loss()
        recorded.step()
        assert recorded.capture.loss_is_known == known


def test_only_the_first_loss_is_looked_at():
    model, recorded = Output(N, CLASSES), None
    recorded = Recorded(model, SAMPLED)
    for loss in (F.cross_entropy(model(torch.ones(2, 3)), y), model(torch.ones(2, 3)).square().sum()):
        loss.backward()
        recorded.capture.warn_of_wrong_loss()
        recorded.step()
    assert recorded.capture.loss_is_known
    output = model(torch.ones(2, 3))
    before = recorded.capture.memory()
    output.square().sum().backward()
    assert recorded.capture.memory() == before


def test_a_copy_does_not_ask_again():
    one, other = (Recorded(Output(N, CLASSES), SAMPLED).capture for _ in range(2))
    one.loss_is_known = True
    other.recall(one.memory())
    assert other.loss_is_known


@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
def test_a_regression_with_the_usual_labels_is_warned_of_in_training_once(likelihood):
    model, (x, _) = mlp(4, 5, 3), batch(8, 4)
    optimizer = KFAC(model, fisher=Sampled(likelihood), schedule=Schedule(curvature_every=1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(4):
            optimizer.zero_grad()
            F.mse_loss(model(x), x[:, :3]).backward()
            optimizer.step()
    messages = [str(warning.message) for warning in caught]
    assert [AS_CLASSES in message for message in messages] == ([True] if likelihood == "categorical" else [])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("fisher", FisherType)
def test_a_sum_where_a_mean_was_promised_is_warned_of_in_training_once(fisher, reduction):
    model, (x, labels_) = mlp(4, 5, 3), batch(8, 4)
    optimizer = LNGD(model, fisher=fisher, lr=1e-2, step_size="layerwise")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(4):
            optimizer.zero_grad()
            F.cross_entropy(model(x), labels_, reduction=reduction).backward()
            optimizer.step()
    assert [AS_A_SUM in str(warning.message) for warning in caught] == ([True] if reduction == "sum" else [])


@pytest.mark.parametrize("method", [LNGD, SpectralLNGD])
def test_a_sum_trains_as_its_mean_does_at_the_defaults_and_nothing_is_said(method):
    runs = []
    for reduction in ("sum", "mean"):
        model, (x, labels_) = mlp(4, 5, 3), batch(8, 4)
        optimizer = method(model, generator=torch.Generator().manual_seed(0))
        for _ in range(6):
            optimizer.zero_grad()
            F.cross_entropy(model(x), labels_, reduction=reduction).backward()
            optimizer.step()
        runs.append([p.detach() for p in model.parameters()])
    torch.testing.assert_close(*runs)


def test_a_grad_scaler_with_a_factor_of_the_number_of_samples_is_not_taken_for_a_sum():
    model, (x, labels_) = mlp(4, 5, 3, dtype=torch.float32), batch(8, 4, dtype=torch.float32)
    optimizer, scaler = LNGD(model), torch.amp.GradScaler("cpu", init_scale=8.0)
    for _ in range(3):
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(x), labels_)).backward()
        scaler.step(optimizer)
        scaler.update()
    train_step(model, LNGD(model), x, labels_)
