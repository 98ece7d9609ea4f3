"""A colour for each optimizer, the same in every figure and page; those of the page are fitted to its light or dark paper."""

from collections.abc import Mapping

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
    "ekfac": "#7F7F7F",
    "tkfac": "#117733",
    "ngplus": "#AA4499",
    "thor": "#661100",
    "lngd-spectral": "#F0027F",
    "soap": "#332288",
    "shampoo": "#44AA99",
    "heavyball": "#A6761D",
    "singd": "#E377C2",
    "muon-fp32": "#6B8E00",
}
IN_THE_DARK: Mapping[str, str] = {
    "lngd": "#FF7A1A",
    "adamw": "#2E8FD6",
    "lngd-lr": "#E6B400",
    "kfac": "#F0F0F0",
    "ekfac": "#8F8F8F",
    "tkfac": "#2FA84F",
    "ngplus": "#C257B0",
    "thor": "#F4A090",
    "soap": "#8C7BEB",
    "singd": "#F7A8E0",
    "muon-fp32": "#A6D52A",
}
"""Where the colour itself would drown in dark paper, or be taken for another there."""
OTHERS = ("#4D4D4D", "#A65628")
LIGHT_PAPER, DARK_PAPER = "#ffffff", "#16181c"  # as in page_files/style.css
CONTRAST = 3.0  # of a line to its paper (WCAG 2.1, criterion 1.4.11)
SHADES = 100


def colour_of(optimizer: str, index: int) -> str:
    """Of optimizers that have none, by their row."""
    return COLOURS.get(optimizer, OTHERS[index % len(OTHERS)])


def on_light(optimizer: str, index: int) -> str:
    return readable(colour_of(optimizer, index), LIGHT_PAPER)


def on_dark(optimizer: str, index: int) -> str:
    return readable(IN_THE_DARK.get(optimizer, colour_of(optimizer, index)), DARK_PAPER)


def readable(colour: str, paper: str) -> str:
    """The colour, moved as little towards black or white as the contrast to its paper demands."""
    pole = "#000000" if luminance(paper) > 0.5 else "#ffffff"
    shades = (_mixed(colour, pole, shade / SHADES) for shade in range(SHADES + 1))
    return next(shade for shade in shades if contrast(shade, paper) >= CONTRAST)


def contrast(one: str, other: str) -> float:
    """From 1 to 21 (WCAG 2.1)."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """Relative, from 0 to 1 (WCAG 2.1)."""
    return sum(weight * _linear(part) for weight, part in zip((0.2126, 0.7152, 0.0722), _parts(colour), strict=True))


def _linear(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4


def _parts(colour: str) -> list[float]:
    return [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]


def _mixed(one: str, other: str, share: float) -> str:
    parts = zip(_parts(one), _parts(other), strict=True)
    return "#" + "".join(f"{round(255 * ((1 - share) * a + share * b)):02x}" for a, b in parts)
