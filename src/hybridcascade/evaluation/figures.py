"""The common look of all plots, and their way into a page: matplotlib figure to a themeable SVG string.

Figures are built on `matplotlib.figure.Figure` directly, without pyplot: no global state, no display, safe in
threads and notebooks. Colours are roles, not values: each becomes a CSS variable with the light colour as its
fallback, so the same SVG follows a page's dark mode and still stands alone as a file. The series colours keep
a contrast of at least 3:1 with the page in both modes and stay apart under the common colour-vision
deficiencies (after Okabe and Ito, darkened for white paper); shapes and hatches repeat what colour says.
"""

from __future__ import annotations

import html
import io
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

__all__ = ["DARK", "GRID", "INK", "LIGHT", "MUTED", "PAPER", "SERIES", "TRUTH", "figure", "styled", "to_svg"]

INK, MUTED, GRID, TRUTH, PAPER = "#1f2a37", "#5b6876", "#d8dee5", "#687482", "#fefefe"
SERIES = ("#0072b2", "#c75000", "#007a5a", "#a4447d", "#8a5d00", "#4b5cc4")

_ROLES = {INK: "ink", MUTED: "muted", GRID: "grid", TRUTH: "truth", PAPER: "paper"} | {
    c: f"s{i}" for i, c in enumerate(SERIES, 1)
}

LIGHT = {f"--plot-{role}": color for color, role in _ROLES.items()}
"""CSS variables of the light theme."""

DARK = dict(
    zip(
        LIGHT,
        (
            "#e6eaef",
            "#a3afbb",
            "#35404c",
            "#8a96a3",
            "#161b22",
            "#56b4e9",
            "#ff9a57",
            "#35c79b",
            "#e79ac6",
            "#e3b53e",
            "#9aa8ff",
        ),
        strict=True,
    )
)
"""CSS variables of the dark theme."""

_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.prop_cycle": cycler(color=SERIES),
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.facecolor": "none",
    "font.size": 9.5,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.8,
    "legend.edgecolor": "none",
    "legend.facecolor": "none",
    "legend.fontsize": 9.0,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",  # text stays text: selectable, searchable, in the reader's own font
    "text.color": INK,
    "text.parse_math": False,  # a class called "a$b" is a name, not a formula
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}

_rc_lock = threading.Lock()  # rc_context changes a global dictionary


@contextmanager
def styled() -> Iterator[None]:
    """Draw inside this context to get the common style; matplotlib's own settings return afterwards."""
    # not the backend: naming one would switch the caller's
    defaults: dict[Any, Any] = {k: v for k, v in matplotlib.rcParamsDefault.items() if k != "backend"}
    with _rc_lock, matplotlib.rc_context(defaults | _STYLE):
        yield


def figure(width: float, height: float, rows: int = 1, ratios: tuple[float, ...] = (1,)) -> tuple[Figure, list[Axes]]:
    """Return an empty figure and its axes, one below the other, sharing x.

    Args:
        width: inches; about 4.5 fills a phone, two of them a column of the report.
        height: inches.
        rows: number of axes.
        ratios: relative heights of the axes, `rows` of them.
    """
    canvas = Figure(figsize=(width, height), layout="constrained")
    axes = canvas.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=ratios)
    return canvas, [axes[i, 0] for i in range(rows)]


def to_svg(canvas: Figure, alt: str) -> str:
    """Write a figure as one `<svg>` element for a page or a file.

    Ids are made unique by the content, the width is left to the container, and no date is written: the same
    figure gives the same string.

    Args:
        canvas: drawn inside `styled()`; call this inside it too.
        alt: what the plot shows, for those who cannot see it.
    """
    salt = f"f{zlib.crc32(alt.encode()):08x}"
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)  # it would style the page
    text = text.replace("xlink:href", "href").replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    text = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--plot-font, sans-serif)", text)
    text = re.sub(r"(font: [\d. a-z]*px) [^;\"]*", r"\1 var(--plot-font, sans-serif)", text)
    unique = f"{salt}{zlib.crc32(text.encode()):08x}-"
    text = re.sub(r'(\bid="|url\(#|href="#)', lambda m: f"{m[1]}{unique}", text)
    for color, role in _ROLES.items():
        value = f"var(--plot-{role}, {color})"
        text = re.sub(rf"\b(fill|stroke): {color}", rf"\1: {value}", text)
        text = re.sub(rf'\b(fill|stroke)="{color}"', rf'style="\1: {value}"', text)  # an attribute cannot hold var()
    size = re.search(r'<svg width="([\d.]+)pt" height="[\d.]+pt"', text)
    width = float(size[1]) * 4 / 3 if size else 480.0
    label = html.escape(alt, quote=True)
    opening = (
        f'<svg class="plot" role="img" aria-label="{label}" style="width:100%;max-width:{width:.0f}px;height:auto"'
    )
    return re.sub(r'<svg width="[\d.]+pt" height="[\d.]+pt"', lambda _: opening, text, count=1)
