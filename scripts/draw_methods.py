"""Draw the figures of docs/methods.md: the data flow of each method, as SVG.

    python scripts/draw_methods.py [--png FOLDER]

A figure is a list of boxes on a grid (column, row) and of arrows between them. Colours say what trains.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch

FOLDER = Path(__file__).parents[1] / "docs" / "figures"

COLOURS = {
    "data": ("#ffffff", "what goes in"),
    "frozen": ("#dbe6f2", "frozen"),
    "trained": ("#ffd9a8", "trains"),
    "fixed": ("#ececec", "computed"),
    "label": ("#f6d5e5", "labels"),
    "result": ("#d3ecd0", "prediction"),
}
COLUMN, ROW = 2.15, 0.98
WIDE, HIGH = 1.72, 0.68


@dataclass(frozen=True)
class Box:
    """A box of a figure.

    Attributes:
        key: what arrows call it.
        at: column and row of its centre, from the top left.
        text: what it says; lines are broken by hand.
        kind: a key of `COLOURS`.
        high: height in rows, for boxes that span several.
    """

    key: str
    at: tuple[float, float]
    text: str
    kind: str
    high: float = 1.0


@dataclass(frozen=True)
class Drawing:
    """A figure: boxes, arrows between their keys, and a note.

    Arrows are written `a>b` (data), `a~b` (dashed: labels and targets), `a:b` (dotted: a start value) and
    `a)b` (data, by a bend).
    """

    boxes: Sequence[Box]
    arrows: str
    note: str = ""


def _stages(blocks: Sequence[str], column: float, kind: str = "fixed", words: str = "CLS after\nblocks ") -> list[Box]:
    return [Box(f"s{n}", (column, n), f"{words}{name}", kind) for n, name in enumerate(blocks)]


DRAWINGS: dict[str, Drawing] = {
    "zero_shot": Drawing(
        [
            Box("x", (0, 0), "picture", "data"),
            Box("v", (1, 0), "vision tower", "frozen"),
            Box("f", (2, 0), "image feature f", "fixed"),
            Box("t", (0, 1), "texts of class k", "data"),
            Box("w", (1, 1), "text tower", "frozen"),
            Box("m", (2, 1), "mean text $t_k$", "fixed"),
            Box("c", (3, 0.5), "cosine ×\nlogit scale", "fixed"),
            Box("p", (4, 0.5), "softmax:\nprediction", "result"),
        ],
        "x>v v>f t>w w>m f>c m>c c>p",
    ),
    "text_only": Drawing(
        [
            Box("t", (0, 0), "texts of class k", "data"),
            Box("w", (1, 0), "text tower", "frozen"),
            Box("n", (2, 0), "text feature\n+ noise", "fixed"),
            Box("h", (3, 0.5), "linear head", "trained"),
            Box("l", (4, 0), "cross-entropy\nto class k", "label"),
            Box("x", (0, 1), "picture", "data"),
            Box("v", (1, 1), "vision tower", "frozen"),
            Box("f", (2, 1), "image feature f\n(length 1)", "fixed"),
            Box("p", (4, 1), "softmax:\nprediction", "result"),
        ],
        "t>w w>n n>h h~l x>v v>f f>h h>p",
        "The head never sees a picture in training: it stands in for one because CLIP puts both in one space.",
    ),
    "lafter": Drawing(
        [
            Box("a", (0, 0), "picture,\nplain view", "data"),
            Box("v", (1.5, 0), "same tower,\nno prompts", "frozen"),
            Box("k", (3, 0), "text head\nas it was", "frozen"),
            Box("y", (4, 0), "hard label\n(argmax)", "label"),
            Box("b", (0, 1), "picture,\nstrong view", "data"),
            Box("q", (0, 2), "50 prompts", "trained"),
            Box("s", (1.5, 1), "vision tower,\nLayerNorms train", "trained"),
            Box("h", (3, 1), "linear head", "trained"),
            Box("p", (4, 1), "softmax:\nprediction", "result"),
            Box("n", (3, 2), "text stage first\n(text_only)", "fixed"),
        ],
        "a>v v>k k>y b>s q>s s>h h>p y~p n:h",
        "Dashed: the label that the prediction learns. The teacher's LayerNorms are those that train, so it drifts.",
    ),
    "hybrid_cascade_seed": Drawing(
        [
            Box("q", (0, 0), "50 prompts", "trained"),
            Box("b", (0, 1), "picture,\nstrong view", "data"),
            Box("v", (1, 1), "vision tower,\nLayerNorms train", "trained"),
            *_stages(["5-7", "8-9", "10-12"], 2),
            *[Box(f"z{n}", (3, n), "$LN_s$, NGA, $W_s$", "trained") for n in range(3)],
            Box("h", (4, 1), "one head\nfor all", "trained", 3),
            Box("u", (5, 1), "stage weights", "trained"),
            Box("p", (6, 1), "softmax:\nprediction", "result"),
            Box("y", (6, 0), "LaFTer's hard\nlabel, or target", "label"),
        ],
        "q>v b>v v>s0 v>s1 v>s2 s0>z0 s1>z1 s2>z2 z0>h z1>h z2>h h>u u>p y~p",
        "Beside the labels, a consistency loss lets each deeper stage teach the ones before it.",
    ),
    "multilayer": Drawing(
        [
            Box("b", (0, 0), "picture,\nstrong view", "data"),
            *[
                Box(f"q{n}", (1, n), f"{name}\n+ 16 prompts", "trained")
                for n, name in enumerate(["blocks 1-4", "blocks 5-8", "blocks 9-11", "block 12"])
            ],
            *[Box(f"s{n}", (2, n), "CLS tokens", "fixed") for n in range(4)],
            *[Box(f"z{n}", (3, n), "$LN_s$, NGA, $W_s$", "trained") for n in range(4)],
            Box("h", (4, 1.5), "one cosine\nhead", "trained", 4),
            Box("u", (5, 1.5), "segment\nweights", "trained"),
            Box("p", (6, 1.5), "softmax:\nprediction", "result"),
            Box("y", (6, 0.5), "balanced soft\nlabel, or target", "label"),
        ],
        "b>q0 q0>q1 q1>q2 q2>q3 q0>s0 q1>s1 q2>s2 q3>s3 s0>z0 s1>z1 s2>z2 s3>z3 z0>h z1>h z2>h z3>h h>u u>p y~p",
        "A segment's prompts take the place of those before. Segments begin to train one by one, from deep to shallow.",
    ),
    "cascade_clip": Drawing(
        [
            Box("b", (0, 1), "picture,\nstrong view", "data"),
            Box("v", (1, 1), "vision tower", "frozen"),
            *_stages(["blocks 6-8", "blocks 9-11", "block 12"], 2, words="patches after\n"),
            *[Box(f"z{n}", (3, n), "$LN_s$, NGA, $W_s$", "trained") for n in range(3)],
            *[Box(f"d{n}", (4, n), f"decoder {n + 1}", "trained") for n in range(3)],
            Box("f", (2, 3), "image feature f", "fixed"),
            Box("t", (2, 4), "mean text $t_k$", "data"),
            Box("g", (3, 3), "queries of\n$[t_k \\odot f,\\ t_k]$", "fixed"),
            Box("c", (3, 4), "zero-shot cosine\n+ class bias", "trained"),
            Box("p", (5.2, 2), "sum, softmax:\nprediction", "result"),
            Box("y", (5.2, 1), "balanced soft\nlabel, or target", "label"),
        ],
        "b>v v>s0 v>s1 v>s2 v>f s0>z0 s1>z1 s2>z2 z0>d0 z1>d1 z2>d2 d0>p d1>p d2>p f>g t>g g>d2 f>c t>c c>p y~p",
        "All three decoders get the queries. A decoder's attention over the patches is the map of its stage.",
    ),
    "hybrid_cascade": Drawing(
        [
            Box("a", (0, 0), "all pictures,\nplain views", "data"),
            Box("w", (1, 0), "frozen teacher:\nmean texts", "frozen"),
            Box("k", (2, 0), "Sinkhorn over\nall pictures", "fixed"),
            Box("y", (5.2, 0), "balanced soft\nlabel, or target", "label"),
            Box("b", (0, 2), "picture,\nstrong view", "data"),
            Box("v", (1, 2), "vision tower,\nLayerNorms train", "trained"),
            *[
                Box(f"s{n}", (2, n + 1), f"CLS and patches\nafter {name}", "fixed")
                for n, name in enumerate(["5-7", "8-9", "10-11"])
            ],
            Box("f", (2, 4), "CLIP's own\nfeature f", "fixed"),
            *[Box(f"z{n}", (3, n + 1), "$LN_s$, NGA, $W_s$", "trained") for n in range(3)],
            *[Box(f"h{n}", (4, n + 1), f"cosine head {n + 1}\n+ class bias", "trained") for n in range(4)],
            Box("u", (5.2, 2.5), "stage weights", "trained"),
            Box("p", (5.2, 1.25), "softmax:\nprediction", "result"),
        ],
        "a>w w>k k>y b>v v>s0 v>s1 v>s2 v>f s0>z0 s1>z1 s2>z2 z0>h0 z1>h1 z2>h2 f>h3 h0>u h1>u h2>u h3>u u>p y~p",
        "Colours are aligned before the tower; the labels are made once, before training.",
    ),
    "linear_probe": Drawing(
        [
            Box("x", (0, 0), "picture", "data"),
            Box("v", (1, 0), "vision tower", "frozen"),
            Box("f", (2, 0), "stored feature,\nstandardised", "fixed"),
            Box("h", (3, 0), "linear head,\nby L-BFGS", "trained"),
            Box("p", (4, 0), "softmax:\nprediction", "result"),
            Box("y", (4, 1), "target\n(class or votes)", "label"),
            Box("r", (3, 1), "penalty, chosen on\nheld-out pictures", "fixed"),
        ],
        "x>v v>f f>h h>p y~p r:h",
        "Supervised: the reference that label-free methods are measured against.",
    ),
}


def draw(drawing: Drawing) -> Figure:
    """Draw one figure."""
    columns = max(box.at[0] for box in drawing.boxes)
    rows = max(box.at[1] + (box.high - 1) / 2 for box in drawing.boxes)
    width, height = columns * COLUMN + WIDE + 0.3, rows * ROW + HIGH + 0.3
    foot = 0.85 if drawing.note else 0.55
    figure = Figure(figsize=(width, height + foot), facecolor="white")
    axes = figure.add_axes((0, foot / (height + foot), 1, height / (height + foot)))
    axes.set_xlim(-WIDE / 2 - 0.15, columns * COLUMN + WIDE / 2 + 0.15)
    axes.set_ylim(rows * ROW + HIGH / 2 + 0.15, -HIGH / 2 - 0.15)
    axes.axis("off")
    boxes = {box.key: box for box in drawing.boxes}
    for arrow in drawing.arrows.split():
        start, how, end = re.split(r"([>~:)])", arrow)
        _arrow(axes, boxes[start], boxes[end], how)
    for box in drawing.boxes:
        _box(axes, box)
    if drawing.note:
        figure.text(0.15 / width, 0.52 / (height + foot), drawing.note, fontsize=9.5, color="#444444", va="bottom")
    used = [kind for kind in COLOURS if any(box.kind == kind for box in drawing.boxes)]
    legend = [Patch(facecolor=COLOURS[kind][0], edgecolor="#555555", label=COLOURS[kind][1]) for kind in used]
    place = (0.05 / width, 0.02)
    figure.legend(handles=legend, loc="lower left", bbox_to_anchor=place, ncols=len(legend), frameon=False, fontsize=9)
    return figure


def _centre(box: Box) -> tuple[float, float]:
    return box.at[0] * COLUMN, box.at[1] * ROW


def _half_height(box: Box) -> float:
    return (HIGH + (box.high - 1) * ROW) / 2


def _box(axes: Axes, box: Box) -> None:
    x, y = _centre(box)
    high = _half_height(box)
    style = "round,pad=0,rounding_size=0.09"
    shape = FancyBboxPatch((x - WIDE / 2, y - high), WIDE, 2 * high, boxstyle=style)
    shape.set(linewidth=1.1, zorder=2, facecolor=COLOURS[box.kind][0], edgecolor="#555555")
    axes.add_patch(shape)
    axes.text(x, y, box.text, ha="center", va="center", fontsize=10, linespacing=1.25, zorder=3)


def _arrow(axes: Axes, start: Box, end: Box, how: str) -> None:
    (x0, y0), (x1, y1) = _centre(start), _centre(end)
    if abs(x1 - x0) < 1e-6:  # one above the other
        turn = 1 if y1 > y0 else -1
        ends = (x0, y0 + turn * _half_height(start)), (x1, y1 - turn * _half_height(end))
    else:
        # A tall box is met at the height the arrow comes from.
        reach = _half_height(end) - 0.1
        y_in = min(max(y0, y1 - reach), y1 + reach) if end.high > 1 else y1
        ends = (x0 + WIDE / 2, y0), (x1 - WIDE / 2, y_in)
    lines = {"~": ("--", "#b0407a"), ":": (":", "#444444")}
    dashes, colour = lines.get(how, ("-", "#444444"))
    bend = "arc3,rad=0.28" if how == ")" else "arc3"
    head = FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=11, connectionstyle=bend, shrinkA=0, shrinkB=0)
    head.set(linewidth=1.2, linestyle=dashes, color=colour, zorder=1)
    axes.add_patch(head)


def main() -> None:
    """Write all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--png", type=Path, help="write pictures into this folder too, to look at")
    given = parser.parse_args()
    # Letters as outlines look alike in every viewer; a fixed salt and no date make the files repeat exactly.
    matplotlib.rcParams.update({"svg.fonttype": "path", "svg.hashsalt": "hybridcascade", "font.family": "DejaVu Sans"})
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, drawing in DRAWINGS.items():
        figure = draw(drawing)
        figure.savefig(FOLDER / f"method_{name}.svg", metadata={"Date": None, "Creator": None})
        if given.png:
            given.png.mkdir(parents=True, exist_ok=True)
            figure.savefig(given.png / f"{name}.png", dpi=80)


if __name__ == "__main__":
    main()
