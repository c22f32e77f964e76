"""Heat maps: what each label stands for under a prior, and what was taken for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hybridcascade.errors import DataError
from hybridcascade.evaluation.figures import INK, MUTED, PAPER, SERIES, styled, to_svg

__all__ = ["confusion_map", "prior_maps"]

_CELL = 0.36  # inches


def prior_maps(classes: Sequence[str], priors: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Draw priors side by side: row = the label, column = the share that each class gets, in percent.

    Args:
        classes: K names.
        priors: `[K][K]` by title, rows sum to 1.

    Raises:
        DataError: no prior, or one that is not `[K][K]`.
    """
    if not priors:
        raise DataError("a plot of priors needs at least one")
    columns = min(2, len(priors))
    rows = -(-len(priors) // columns)
    side = _CELL * len(classes)
    with styled():
        canvas = Figure(figsize=(columns * (side + 0.3) + 1.2, rows * (side + 0.35) + 0.9), layout="constrained")
        grid = canvas.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, (title, matrix) in zip(grid, priors.items(), strict=False):
            _check(matrix, classes, title)
            texts = [["" if v < 0.005 else f"{100 * v:.0f}" for v in row] for row in matrix]
            _cells(axes, matrix, texts, 0.6)
            _names(axes, classes, title)
        for axes in grid[len(priors) :]:
            axes.set_axis_off()
        peaks = (
            f"{title}: the label keeps {min(row[k] for k, row in enumerate(m)):.0%} to "
            f"{max(row[k] for k, row in enumerate(m)):.0%}"
            for title, m in priors.items()
        )
        return to_svg(
            canvas, f"Heat maps of the distribution of each label over {len(classes)} classes. {'; '.join(peaks)}"
        )


def confusion_map(classes: Sequence[str], counts: Sequence[Sequence[int]], title: str = "") -> str:
    """Draw a confusion matrix: row = true class, column = predicted class; shade = share of the row.

    Args:
        classes: K names.
        counts: pictures, `[K][K]`.
        title: above the plot.

    Raises:
        DataError: `counts` is not `[K][K]`.
    """
    _check(counts, classes, title or "confusion")
    shares = [[n / max(sum(row), 1) for n in row] for row in counts]
    side = _CELL * len(classes)
    with styled():
        canvas = Figure(figsize=(side + 1.6, side + 1.4), layout="constrained")
        axes = canvas.subplots()
        _cells(axes, shares, [[str(n) if n else "" for n in row] for row in counts], 1.0)
        _names(axes, classes, title)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        right = sum(row[k] for k, row in enumerate(counts))
        total = sum(map(sum, counts))
        return to_svg(canvas, f"Confusion matrix, {title}: {right} of {total} right")


def _cells(axes: Axes, values: Sequence[Sequence[float]], texts: Sequence[Sequence[str]], darkest: float) -> None:
    """One square a cell; its opacity is the value over `darkest`, so that a theme can change the colour."""
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            depth = min(1.0, value / darkest)
            if depth > 0:
                axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=SERIES[0], linewidth=0, alpha=depth))
            if texts[y][x]:
                color = PAPER if depth > 0.55 else INK
                axes.annotate(texts[y][x], (x, y), ha="center", va="center", fontsize=8, color=color)


def _names(axes: Axes, classes: Sequence[str], title: str) -> None:
    places = range(len(classes))
    axes.set(xlim=(-0.5, len(classes) - 0.5), ylim=(len(classes) - 0.5, -0.5), aspect="equal")
    axes.set_xticks(places, classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, classes)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.set_title(title)
    for side in axes.spines.values():
        side.set(visible=True, color=MUTED, linewidth=0.7)


def _check(matrix: Sequence[Sequence[float]], classes: Sequence[str], title: str) -> None:
    lengths = [len(row) for row in matrix]
    if lengths != [len(classes)] * len(classes):
        raise DataError(f"{title}: expected {len(classes)} rows of {len(classes)} numbers, got rows of {lengths}")
