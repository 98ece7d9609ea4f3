"""How every picture looks: a colour for each optimizer, the same in every picture and page, and tidy axes."""

import io
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

DOTS_PER_INCH, FEW_COLOURS = 120, 128

# Okabe and Ito's colours first, told apart by every kind of colour vision, then Tol's; LNGD has the strongest.
COLOURS: Mapping[str, str] = {
    "lngd": "#D55E00",
    "sgd": "#56B4E9",
    "adamw": "#0072B2",
    "muon": "#009E73",
    "lngd-sample": "#CC79A7",
    "lngd-paper": "#999933",
    "lngd-lr": "#E69F00",
    "kfac": "#000000",
    "kfac-scheduled": "#8B6D3F",
    "ekfac": "#7F7F7F",
    "tkfac": "#117733",
    "ngplus": "#AA4499",
    "thor": "#661100",
    "lngd-spectral": "#F0027F",
    "soap": "#332288",
    "shampoo": "#44AA99",
    "muon-fp32": "#6B8E00",
}
OTHERS = ("#4D4D4D", "#A65628")


def colour_of(optimizer: str, index: int) -> str:
    """Of optimizers that have none, by their row."""
    return COLOURS.get(optimizer, OTHERS[index % len(OTHERS)])


def tidy(axes: Axes, *, grid: bool = True) -> None:
    """No frame above and on the right; a light grid behind what is drawn."""
    if grid:
        axes.grid(color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def label(axes: Axes, title: str, x: str, y: str) -> None:
    """Small words, for many panels."""
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=8)
    tidy(axes)


def png(figure: Figure) -> bytes:
    """A figure as a PNG: lines on white need few colours, and so a third of the bytes."""
    drawn, few = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DOTS_PER_INCH, facecolor="white")
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(FEW_COLOURS, dither=Image.Dither.NONE).save(few, format="png", optimize=True)
    return few.getvalue()
