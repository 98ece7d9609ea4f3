"""Embeddings have curvature only where a group asks for it."""

import re

import pytest
import torch
from torch import Tensor, nn

from lngd import KFAC, LNGD
from reference import train_step


class Words(nn.Module):
    """An embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens).tanh().mean(1))


def tokens() -> tuple[Tensor, Tensor]:
    x = torch.randint(0, 7, (8, 5), generator=torch.Generator().manual_seed(0))
    return x, x[:, 0] % 3


def groups_saying(model: Words, curvature: bool | None) -> list[dict]:
    return [{"params": model.embed.parameters(), "curvature": curvature}, {"params": model.head.parameters()}]


ANSWERS = {True: ("curvature", r"^$"), False: ("fallback", r"^its group says curvature=False$"), None: ("fallback", "AdamW")}


@pytest.mark.parametrize("method", [LNGD, KFAC])
@pytest.mark.parametrize("answer", ANSWERS)
def test_an_embedding_has_curvature_if_its_group_asks_for_it(answer, method):
    model = Words()
    optimizer = method(model, groups_saying(model, answer))
    kind, reason = ANSWERS[answer]
    outcome = next(o for o in optimizer.summary() if o.name == "embed.weight")
    assert outcome.kind == kind
    assert re.search(reason, outcome.reason)
    train_step(model, optimizer, *tokens())
    assert {name for name, block in optimizer.blocks.items() if block.ready} == {"head"} | ({"embed"} if answer else set())


@pytest.mark.parametrize("groups", [lambda _: None, lambda model: groups_saying(model, None)])
def test_unasked_an_embedding_falls_back_and_the_summary_says_how_to_ask(groups):
    model = Words()
    optimizer = LNGD(model, groups(model))
    line = next(line for line in str(optimizer.summary()).splitlines() if line.startswith("embed.weight"))
    assert "fallback" in line
    assert "AdamW trains embeddings better" in line
    assert "curvature=True" in line


def test_unasked_an_embedding_is_trained_by_torchs_adamw():
    model, plain = Words(), Words()
    groups = [{"params": model.embed.parameters()}, {"params": model.head.parameters(), "lr": 0.0}]
    optimizer = LNGD(model, groups, lr=0.5, adamw_lr_ratio=0.02, warmup=0)
    adamw = torch.optim.AdamW(plain.embed.parameters(), lr=0.01, weight_decay=0.0)
    for each, trained in ((optimizer, model), (adamw, plain)) * 3:
        train_step(trained, each, *tokens())
    torch.testing.assert_close(model.embed.weight, plain.embed.weight)
