"""What the paper prints: its tables number by number, and what it says of them in words.

Nothing here is ours. None stands where the paper prints a dash or nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lngd_bench.report.summary import Figure
from lngd_bench.tasks.metric import MetricName


@dataclass(frozen=True)
class PaperRow:
    """One method; the paper's Adam stands beside our AdamW.

    Attributes:
        epochs, total, each: to the target, in the table's units.
        saves: per cent, 1 − LNGD's total / this one's.
        best: per cent, or BLEU.
    """

    optimizer: str
    epochs: float | None = None
    total: float | None = None
    each: float | None = None
    saves: float | None = None
    best: float | None = None


@dataclass(frozen=True)
class PaperTable:
    """One table.

    Attributes:
        figure: the number of the figure with the same runs.
        count, total_unit: what its columns count.
    """

    number: int
    figure: int
    task: str
    title: str
    rows: tuple[PaperRow, ...]
    count: str = "epochs"
    total_unit: str = "h"
    metric: MetricName = "accuracy"


_CIFAR = (
    PaperRow("sgd", 79, 268.67, 3.40, 29, 91.88),
    PaperRow("adamw", 72, 248.83, 3.77, 23, 92.62),
    PaperRow("kfac", 45, 241.86, 5.87, 21, 93.34),
    PaperRow("ekfac", 41, 247.64, 6.04, 23),
    PaperRow("tkfac", 39, 239.20, 5.98, 20),
    PaperRow("ngplus", 40, 204.45, 5.11, 7),
    PaperRow("lngd", 36, 189.69, 5.08, None, 93.61),
)
_IMAGENET = (
    PaperRow("sgd", 78, 11.28, 520.55, 43, 76.47),
    PaperRow("adamw", best=74.05),
    PaperRow("kfac", 39, 8.02, 739.93, 19, 76.58),
    PaperRow("lngd", 36, 6.46, 646.44, None, 76.73),
)
_WMT = (
    PaperRow("sgd", best=31.87),
    PaperRow("adamw", 25, 3.39, 488.16, 16, 33.05),
    PaperRow("kfac", 22, 3.75, 613.63, 24, 33.45),
    PaperRow("lngd", 19, 2.85, 540, None, 33.55),
)
_ABLATION = (
    PaperRow("lngd-lr", 35, 7.43, 764.39, 13, 76.50),
    PaperRow("lngd-sample", 41, 7.06, 619.86, 9, 76.57),
    PaperRow("lngd", 36, 6.46, 646.44, None, 76.73),
)
_IN_TABLE_1 = tuple(row for row in _CIFAR if row.optimizer in ("sgd", "adamw", "kfac", "lngd"))

_TITLES = ("ResNet-18, CIFAR-10, top-1 91 %", "ResNet-50, ImageNet-1k, top-1 75.9 %", "Ablation, ImageNet-1k, top-1 75.9 %")
TABLES: Mapping[int, PaperTable] = {
    1: PaperTable(1, 2, "cifar10-resnet18", _TITLES[0], _IN_TABLE_1, total_unit="s"),
    2: PaperTable(2, 3, "imagenet-resnet50", _TITLES[1], _IMAGENET),
    3: PaperTable(3, 4, "wmt-transformer-big", "Transformer-Big, WMT En–De, BLEU 32", _WMT, "1k steps", metric="bleu"),
    5: PaperTable(5, 7, "imagenet-resnet50", _TITLES[2], _ABLATION),
    6: PaperTable(6, 2, "cifar10-resnet18", _TITLES[0], _CIFAR, total_unit="s"),
}
"""Table 4 has formulas and no numbers."""

FIRST_ORDER = ("sgd", "adamw")


@dataclass(frozen=True)
class Claim:
    """`ours` has the better figure than each of `others`.

    Attributes:
        text: in the paper's sense.
        source: where it stands.
    """

    text: str
    source: str
    ours: str
    others: tuple[str, ...]
    figure: Figure


_COMPARED = ("sgd", "adamw", "kfac")
_FAMILY = (*_COMPARED, "ekfac", "tkfac", "ngplus")
CLAIMS: Mapping[int, tuple[Claim, ...]] = {
    1: (
        Claim("LNGD needs the least time to the target", "Table 1", "lngd", _COMPARED, "seconds"),
        Claim("LNGD needs the fewest epochs to the target", "Table 1", "lngd", _COMPARED, "epochs"),
        Claim("LNGD has the best accuracy", "Table 1", "lngd", _COMPARED, "best"),
        Claim("An epoch of LNGD is cheaper than one of K-FAC", "Table 1", "lngd", ("kfac",), "epoch_seconds"),
        Claim("K-FAC ends with a lower training loss than first-order methods", "sec. 4.1", "kfac", FIRST_ORDER, "train_loss"),
        Claim("LNGD ends with a lower training loss than first-order methods", "sec. 4.1", "lngd", FIRST_ORDER, "train_loss"),
        Claim("LNGD's training loss falls fastest at first", "sec. 4.1", "lngd", _COMPARED, "first_loss"),
    ),
    2: (
        Claim("LNGD needs the least time to the target", "Table 2", "lngd", _COMPARED, "seconds"),
        Claim("LNGD needs the fewest epochs to the target", "Table 2", "lngd", _COMPARED, "epochs"),
        Claim("LNGD has the best accuracy", "Table 2", "lngd", _COMPARED, "best"),
        Claim("An epoch of LNGD is cheaper than one of K-FAC", "Table 2", "lngd", ("kfac",), "epoch_seconds"),
    ),
    3: (
        Claim("LNGD needs the least time to the target", "Table 3", "lngd", _COMPARED, "seconds"),
        Claim("LNGD needs the fewest steps to the target", "Table 3", "lngd", _COMPARED, "epochs"),
        Claim("LNGD has the best BLEU", "Table 3", "lngd", _COMPARED, "best"),
        Claim("A step of LNGD is cheaper than one of K-FAC", "Table 3", "lngd", ("kfac",), "epoch_seconds"),
        Claim("Adam has a better BLEU than SGD", "Table 3", "adamw", ("sgd",), "best"),
        Claim("K-FAC has a better BLEU than first-order methods", "Table 3", "kfac", FIRST_ORDER, "best"),
    ),
    5: (
        Claim("Both parts together need the least time", "Table 5", "lngd", ("lngd-lr", "lngd-sample"), "seconds"),
        Claim("LNGD-lr needs the fewest epochs", "Table 5", "lngd-lr", ("lngd", "lngd-sample"), "epochs"),
        Claim("LNGD has the best accuracy", "Table 5", "lngd", ("lngd-lr", "lngd-sample"), "best"),
        Claim("An epoch of LNGD-sample is cheaper than one of LNGD", "Table 5", "lngd-sample", ("lngd",), "epoch_seconds"),
        Claim("An epoch of LNGD is cheaper than one of LNGD-lr", "Table 5", "lngd", ("lngd-lr",), "epoch_seconds"),
        Claim("LNGD-lr's training loss falls fastest at first", "app. E.3", "lngd-lr", ("lngd", "lngd-sample"), "first_loss"),
        Claim("LNGD-sample's training loss falls slowest at first", "app. E.3", "lngd", ("lngd-sample",), "first_loss"),
        Claim("LNGD-sample needs less time than LNGD-lr", "app. E.3", "lngd-sample", ("lngd-lr",), "seconds"),
    ),
    6: (
        Claim("LNGD needs the least time of all", "app. E.4", "lngd", _FAMILY, "seconds"),
        Claim("LNGD needs the fewest epochs of all", "app. E.4", "lngd", _FAMILY, "epochs"),
        Claim(
            "An epoch of LNGD is the cheapest of the natural-gradient methods", "Table 6", "lngd", _FAMILY[2:], "epoch_seconds"
        ),
        Claim("An epoch of NG+ is cheaper than one of EKFAC or TKFAC", "app. E.4", "ngplus", ("ekfac", "tkfac"), "epoch_seconds"),
    ),
}
