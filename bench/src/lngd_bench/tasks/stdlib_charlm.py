"""Characters of the standard library, a small GPT: embeddings, LayerNorm, attention, a loss over tokens."""

from functools import partial

from lngd_bench.tasks.datasets.python_source import CONTEXT, VOCABULARY, load_python_source
from lngd_bench.tasks.models.gpt import GPT
from lngd_bench.tasks.task import Task

TASK = Task(
    name="stdlib-charlm",
    title="GPT with 3 layers on Python source, characters",
    metric="loss",
    epochs=2,
    batch_size=16,
    samples=31249,
    model=partial(GPT, VOCABULARY, CONTEXT),
    data=load_python_source,
    step_seconds=0.13,
    epoch_steps=200,
    mean_over="token",
    # lngd tune stdlib-charlm --optimizers sgd,adamw,muon --trials 3 --steps 200 --threads 1
    rates={"sgd": 0.05, "adamw": 0.002, "muon": 0.014},
    note="an epoch is 200 steps; loss in nats a character",
)
