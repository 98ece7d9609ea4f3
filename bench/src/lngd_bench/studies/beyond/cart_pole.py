"""Q-learning on a cart with a pole: a replay memory, a target network, many carts side by side."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from lngd_bench.studies.beyond.networks import layers
from lngd_bench.studies.beyond.task import Task

CARTS, BATCH, MEMORY = 32, 128, 8192
"""At work at once, transitions in a batch and in the memory."""
DISCOUNT, RENEWED_EVERY = 0.95, 10
LONGEST = 500
"""Steps of an episode of the evaluation."""


def start(n: int, draw: Generator) -> Tensor:
    """Place, speed, angle and its speed, `[n, 4]`."""
    return 0.1 * torch.rand(n, 4, generator=draw) - 0.05


def moved(state: Tensor, right: Tensor) -> Tensor:
    """The equations of Barto, Sutton and Anderson (1983) by an Euler step of 0.02 s."""
    _, speed, angle, turning = state.unbind(1)
    push = (20.0 * right - 10 + 0.05 * turning.square() * angle.sin()) / 1.1
    turn = (9.8 * angle.sin() - angle.cos() * push) / (0.5 * (4 / 3 - 0.1 * angle.cos().square() / 1.1))
    drive = push - 0.05 * turn * angle.cos() / 1.1
    return state + 0.02 * torch.stack([speed, drive, turning, turn], 1)


def fallen(state: Tensor) -> Tensor:
    return (state[:, 0].abs() > 2.4) | (state[:, 2].abs() > 0.2095)


class Agent(nn.Module):
    """The values of both actions. What it remembers is no part of its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.net = layers(4, 64, 64, 2, activation=nn.ReLU)
        self.target: list[Tensor] = []
        self.memory = torch.empty(0, 10)
        self.state = torch.full((CARTS, 4), torch.inf)  # fallen: each cart begins at the first step
        self.steps = 0

    def forward(self, state: Tensor) -> Tensor:
        return self.net(state * torch.tensor([1.0, 1.0, 5.0, 1.0]))

    @torch.no_grad()
    def act(self, draw: Generator) -> None:
        """One step of every cart: at random at first, later mostly what the values say."""
        random = torch.rand(CARTS, generator=draw) < max(0.1, 1 - self.steps / 100)
        self.state = torch.where(fallen(self.state)[:, None], start(CARTS, draw), self.state)
        right = torch.where(random, torch.randint(2, (CARTS,), generator=draw), self(self.state).argmax(1)).float()
        after = moved(self.state, right)
        seen = torch.cat([self.state, right[:, None], fallen(after)[:, None], after], 1)
        self.memory, self.state = torch.cat([self.memory, seen])[-MEMORY:], after
        if self.steps % RENEWED_EVERY == 0:
            self.target = [p.clone() for p in self.parameters()]
        self.steps += 1

    @torch.no_grad()
    def target_values(self, state: Tensor) -> Tensor:
        names = [name for name, _ in self.named_parameters()]
        return torch.func.functional_call(self, dict(zip(names, self.target, strict=True)), state)


def q_loss(model: nn.Module, draw: Generator) -> Tensor:
    """Double Q-learning, minus one for a fall, with Huber's loss; what is played depends on what was learnt."""
    assert isinstance(model, Agent)
    model.act(draw)
    batch = model.memory[torch.randint(len(model.memory), (BATCH,), generator=draw)]
    state, right, over, after = batch.split([4, 1, 1, 4], 1)
    with torch.no_grad():
        best = model(after).argmax(1, keepdim=True)
    goal = DISCOUNT * (1 - over) * model.target_values(after).gather(1, best) - over
    return F.smooth_l1_loss(model(state).gather(1, right.long()), goal)


def minus_return(model: nn.Module) -> float:
    """Of 64 greedy episodes from the same starts, the mean number of steps."""
    state = start(64, Generator().manual_seed(2**20))
    standing, lasted = torch.ones(64, dtype=torch.bool), torch.zeros(64)
    for _ in range(LONGEST):
        state = moved(state, model(state).argmax(1).float())
        standing &= ~fallen(state)
        lasted += standing
    return -lasted.mean().item()


CART_POLE = Task(
    title="DQN, cart-pole",
    model=Agent,
    loss=q_loss,
    held_out=minus_return,
    measure="−steps of an episode, at best −500",
    steps=400,
    fisher="empirical",
)
