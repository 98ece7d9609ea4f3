"""How the axes of every picture look."""

from matplotlib.axes import Axes


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
