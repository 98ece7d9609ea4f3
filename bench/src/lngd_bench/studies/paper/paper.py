"""What the paper prints: its tables number by number, and what it says of them in words.

Nothing here is ours. None stands where the paper prints a dash or nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

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
    epochs: float | None
    total: float | None
    each: float | None
    saves: float | None
    best: float | None


@dataclass(frozen=True)
class PaperTable:
    """One table.

    Attributes:
        figure: the number of the figure with the same runs.
        count, total_unit, each_unit: what its columns count.
    """

    number: int
    figure: int
    task: str
    title: str
    count: str
    total_unit: str
    each_unit: str
    rows: tuple[PaperRow, ...]
    metric: MetricName = "accuracy"


_CIFAR = (
    PaperRow("sgd", 79, 268.67, 3.40, 29, 91.88),
    PaperRow("adamw", 72, 248.83, 3.77, 23, 92.62),
    PaperRow("kfac", 45, 241.86, 5.87, 21, 93.34),
    PaperRow("ekfac", 41, 247.64, 6.04, 23, None),
    PaperRow("tkfac", 39, 239.20, 5.98, 20, None),
    PaperRow("ngplus", 40, 204.45, 5.11, 7, None),
    PaperRow("lngd", 36, 189.69, 5.08, None, 93.61),
)
_IMAGENET = (
    PaperRow("sgd", 78, 11.28, 520.55, 43, 76.47),
    PaperRow("adamw", None, None, None, None, 74.05),
    PaperRow("kfac", 39, 8.02, 739.93, 19, 76.58),
    PaperRow("lngd", 36, 6.46, 646.44, None, 76.73),
)
_WMT = (
    PaperRow("sgd", None, None, None, None, 31.87),
    PaperRow("adamw", 25, 3.39, 488.16, 16, 33.05),
    PaperRow("kfac", 22, 3.75, 613.63, 24, 33.45),
    PaperRow("lngd", 19, 2.85, 540, None, 33.55),
)
_ABLATION = (
    PaperRow("lngd-lr", 35, 7.43, 764.39, 13, 76.50),
    PaperRow("lngd-sample", 41, 7.06, 619.86, 9, 76.57),
    PaperRow("lngd", 36, 6.46, 646.44, None, 76.73),
)
IN_TABLE_1 = ("sgd", "adamw", "kfac", "lngd")

TABLES: Mapping[int, PaperTable] = {
    table.number: table
    for table in (
        PaperTable(
            1,
            2,
            "cifar10-resnet18",
            "ResNet-18, CIFAR-10, top-1 91 %",
            "epochs",
            "s",
            "s/epoch",
            tuple(row for row in _CIFAR if row.optimizer in IN_TABLE_1),
        ),
        PaperTable(2, 3, "imagenet-resnet50", "ResNet-50, ImageNet-1k, top-1 75.9 %", "epochs", "h", "s/epoch", _IMAGENET),
        PaperTable(
            3, 4, "wmt-transformer-big", "Transformer-Big, WMT En–De, BLEU 32", "1k steps", "h", "s/1k steps", _WMT, "bleu"
        ),
        PaperTable(5, 7, "imagenet-resnet50", "Ablation, ImageNet-1k, top-1 75.9 %", "epochs", "h", "s/epoch", _ABLATION),
        PaperTable(6, 2, "cifar10-resnet18", "ResNet-18, CIFAR-10, top-1 91 %", "epochs", "s", "s/epoch", _CIFAR),
    )
}
"""Table 4 has formulas and no numbers."""

FIRST_ORDER = ("sgd", "adamw")


@dataclass(frozen=True)
class Claim:
    """`ours` has the better figure than each of `others`.

    Attributes:
        text: in the paper's sense.
        source: where it stands.
        figure: a name in FIGURES of `paper_claims`.
    """

    text: str
    source: str
    ours: str
    others: tuple[str, ...]
    figure: str


_COMPARED = ("sgd", "adamw", "kfac")
_FAMILY = (*_COMPARED, "ekfac", "tkfac", "ngplus")
CLAIMS: Mapping[int, tuple[Claim, ...]] = {
    1: (
        Claim("LNGD needs the least time to the target", "Table 1", "lngd", _COMPARED, "seconds"),
        Claim("LNGD needs the fewest epochs to the target", "Table 1", "lngd", _COMPARED, "epochs"),
        Claim("LNGD has the best accuracy", "Table 1", "lngd", _COMPARED, "best"),
        Claim("An epoch of LNGD is cheaper than one of K-FAC", "Table 1", "lngd", ("kfac",), "each"),
        Claim("K-FAC ends with a lower training loss than first-order methods", "sec. 4.1", "kfac", FIRST_ORDER, "loss"),
        Claim("LNGD ends with a lower training loss than first-order methods", "sec. 4.1", "lngd", FIRST_ORDER, "loss"),
        Claim("LNGD's training loss falls fastest at first", "sec. 4.1", "lngd", _COMPARED, "first loss"),
    ),
    2: (
        Claim("LNGD needs the least time to the target", "Table 2", "lngd", _COMPARED, "seconds"),
        Claim("LNGD needs the fewest epochs to the target", "Table 2", "lngd", _COMPARED, "epochs"),
        Claim("LNGD has the best accuracy", "Table 2", "lngd", _COMPARED, "best"),
        Claim("An epoch of LNGD is cheaper than one of K-FAC", "Table 2", "lngd", ("kfac",), "each"),
    ),
    3: (
        Claim("LNGD needs the least time to the target", "Table 3", "lngd", _COMPARED, "seconds"),
        Claim("LNGD needs the fewest steps to the target", "Table 3", "lngd", _COMPARED, "epochs"),
        Claim("LNGD has the best BLEU", "Table 3", "lngd", _COMPARED, "best"),
        Claim("A step of LNGD is cheaper than one of K-FAC", "Table 3", "lngd", ("kfac",), "each"),
        Claim("Adam has a better BLEU than SGD", "Table 3", "adamw", ("sgd",), "best"),
        Claim("K-FAC has a better BLEU than first-order methods", "Table 3", "kfac", FIRST_ORDER, "best"),
    ),
    5: (
        Claim("Both parts together need the least time", "Table 5", "lngd", ("lngd-lr", "lngd-sample"), "seconds"),
        Claim("LNGD-lr needs the fewest epochs", "Table 5", "lngd-lr", ("lngd", "lngd-sample"), "epochs"),
        Claim("LNGD has the best accuracy", "Table 5", "lngd", ("lngd-lr", "lngd-sample"), "best"),
        Claim("An epoch of LNGD-sample is cheaper than one of LNGD", "Table 5", "lngd-sample", ("lngd",), "each"),
        Claim("An epoch of LNGD is cheaper than one of LNGD-lr", "Table 5", "lngd", ("lngd-lr",), "each"),
        Claim("LNGD-lr's training loss falls fastest at first", "app. E.3", "lngd-lr", ("lngd", "lngd-sample"), "first loss"),
        Claim("LNGD-sample's training loss falls slowest at first", "app. E.3", "lngd", ("lngd-sample",), "first loss"),
        Claim("LNGD-sample needs less time than LNGD-lr", "app. E.3", "lngd-sample", ("lngd-lr",), "seconds"),
    ),
    6: (
        Claim("LNGD needs the least time of all", "app. E.4", "lngd", _FAMILY, "seconds"),
        Claim("LNGD needs the fewest epochs of all", "app. E.4", "lngd", _FAMILY, "epochs"),
        Claim("An epoch of LNGD is the cheapest of the natural-gradient methods", "Table 6", "lngd", _FAMILY[2:], "each"),
        Claim("An epoch of NG+ is cheaper than one of EKFAC or TKFAC", "app. E.4", "ngplus", ("ekfac", "tkfac"), "each"),
    ),
}
