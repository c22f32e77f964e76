"""Plot of curves over seeds: how training converges, and how much the seeds differ."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from matplotlib.ticker import MaxNLocator

from hybridcascade.errors import DataError
from hybridcascade.evaluation.figures import SERIES, figure, styled, to_svg

__all__ = ["seed_curves"]

_STYLES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D")


def seed_curves(
    curves: Mapping[str, Sequence[Sequence[float]]], label: str, title: str = "", marks: Sequence[int] = ()
) -> str:
    """Draw the mean over seeds of each series, from the lowest to the highest seed shaded.

    Args:
        curves: by series; for each seed one value an epoch, as many for every seed.
        label: of the vertical axis.
        title: above the plot.
        marks: epochs (from 1) to mark by a line, such as those in which more begins to train.

    Returns:
        One `<svg>` element.

    Raises:
        DataError: a series without a seed or an epoch, or seeds of different length.
    """
    for name, rows in curves.items():
        if not rows or not rows[0] or len({len(row) for row in rows}) != 1:
            raise DataError(f"curve {name!r} needs seeds of the same length, got lengths {[len(row) for row in rows]}")
    with styled():
        canvas, (axes,) = figure(4.8, 2.9)
        spoken = []
        for number, (name, rows) in enumerate(curves.items()):
            epochs = range(1, len(rows[0]) + 1)
            columns = list(zip(*rows, strict=True))
            mean = [statistics.fmean(column) for column in columns]
            color, style = SERIES[number % len(SERIES)], _STYLES[number % len(_STYLES)]
            marker = _MARKERS[number % len(_MARKERS)]
            axes.fill_between(epochs, [min(c) for c in columns], [max(c) for c in columns], color=color, alpha=0.18)
            axes.plot(epochs, mean, color=color, linestyle=style, marker=marker, markersize=3.5, label=name)
            spoken.append(f"{name} from {mean[0]:.3g} to {mean[-1]:.3g} ({len(rows)} seeds)")
        for mark in marks:
            axes.axvline(mark, linestyle=(0, (2, 2)), linewidth=0.9, color=SERIES[0], alpha=0.5)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.set_title(title)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        canvas.legend(loc="outside lower center", ncols=2, handlelength=2.4)
        return to_svg(canvas, f"{label} by epoch, {title}: {'; '.join(spoken)}")
