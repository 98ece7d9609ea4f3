"""The eighteen tasks, by name."""

from collections.abc import Mapping

from lngd_bench.studies.beyond import adapters, cart_pole, codes, graphs, physics, pictures, sequences, tables
from lngd_bench.studies.beyond.task import Task

TASKS: Mapping[str, Task] = {
    "pinn-poisson": physics.POISSON,
    "pinn-burgers": physics.BURGERS,
    "coordinates": pictures.PHOTOGRAPH,
    "vae": codes.VARIATIONAL,
    "autoencoder": codes.AUTOENCODER,
    "gcn": graphs.COMMUNITIES,
    "gin": graphs.TRIANGLES,
    "fno": physics.OPERATOR,
    "rnn": sequences.ADDING,
    "lstm": sequences.LSTM_FORECAST,
    "transformer": sequences.TRANSFORMER_FORECAST,
    "ft-transformer": tables.TUMOURS,
    "mlp": tables.MILES,
    "contrastive": codes.CONTRASTIVE,
    "unet": pictures.DENOISING,
    "convnext": pictures.CONVNEXT,
    "dqn": cart_pole.CART_POLE,
    "lora": adapters.ADAPTERS,
}
