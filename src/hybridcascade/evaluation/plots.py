"""Plots of the report, each a function from numbers to an SVG string (see `figures` for their look)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from hybridcascade.errors import DataError
from hybridcascade.evaluation.figures import GRID, INK, MUTED, PAPER, SERIES, TRUTH, figure, styled, to_svg
from hybridcascade.evaluation.protocol import MethodSummary

if TYPE_CHECKING:
    from hybridcascade.evaluation.metrics import Reliability

__all__ = [
    "TrainingCurve",
    "accuracy_bars",
    "distribution_bars",
    "nga_weights",
    "reliability_diagram",
    "stage_weights",
    "training_curves",
]

_HATCHES = ("", "////", "----", "\\\\", "||||", "xxxx")  # lines only: dots make a file ten times as large
_MOST_POINTS = 300


@dataclass(frozen=True)
class TrainingCurve:
    """What one phase of training logged.

    Attributes:
        step: optimiser steps or epochs, ascending, `n` of them.
        loss: training loss at each, `n` of them.
        lr: learning rate at each, `n` of them, or empty.
        unit: name of the horizontal axis.
    """

    step: Sequence[float]
    loss: Sequence[float]
    lr: Sequence[float] = ()
    unit: str = "step"

    def __post_init__(self) -> None:
        if len(self.step) != len(self.loss) or len(self.lr) not in (0, len(self.step)):
            raise DataError(
                f"a curve needs as many losses and rates as steps, got {len(self.step)} steps, "
                f"{len(self.loss)} losses, {len(self.lr)} rates"
            )


def distribution_bars(
    classes: Sequence[str],
    truth: Sequence[float] | None,
    predictions: Mapping[str, Sequence[float]],
    limit: float | None = None,
) -> str:
    """Draw predicted beside true distributions of one picture, a group of bars a class.

    Args:
        classes: K names.
        truth: K probabilities, or None where unknown.
        predictions: K probabilities by method; three methods at most stay readable.
        limit: end of the axis, in (0, 1], so that plots of several pictures compare; None fits this one.
    """
    series = ({} if truth is None else {"true": truth}) | dict(predictions)
    for name, values in series.items():
        if len(values) != len(classes):
            raise DataError(f"distribution {name!r} has {len(values)} values for {len(classes)} classes")
    thickness = 0.8 / max(len(series), 1)
    with styled():
        canvas, (axes,) = figure(3.9, 0.75 + 0.16 * len(classes) * max(len(series), 2))
        for i, (name, values) in enumerate(series.items()):
            is_truth = truth is not None and i == 0
            number = i - (truth is not None)
            offsets = [row + (i - (len(series) - 1) / 2) * thickness for row in range(len(classes))]
            color = TRUTH if is_truth else SERIES[number % len(SERIES)]
            axes.barh(offsets, values, thickness * 0.88, color=color, label=name, hatch=_hatch(number), edgecolor=PAPER)
        axes.set_yticks(range(len(classes)), classes)
        axes.invert_yaxis()
        axes.set_xlim(0, limit or max(max(v) for v in series.values()))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        canvas.legend(loc="outside upper left", ncols=3, handlelength=1.2, columnspacing=1.2)
        return to_svg(canvas, _describe_distributions(classes, series))


def _hatch(number: int) -> str:
    return _HATCHES[max(number, 0) % len(_HATCHES)]


def _describe_distributions(classes: Sequence[str], series: Mapping[str, Sequence[float]]) -> str:
    tops = (
        f"{name}: {classes[max(range(len(classes)), key=values.__getitem__)]} {max(values):.0%}"
        for name, values in series.items()
    )
    return f"Bar chart of distributions over {len(classes)} classes; highest by series: {', '.join(tops)}"


def nga_weights(
    weights: Sequence[Sequence[float]], blocks: Sequence[Sequence[int]] | None = None, title: str = ""
) -> str:
    """Draw how much each block counts inside its stage.

    Args:
        weights: one sequence a stage, shallow to deep; in a stage they sum to 1.
        blocks: block numbers (from 1) behind the weights; without them blocks are numbered in their stage.
        title: above the plot.
    """
    if blocks is not None and [len(b) for b in blocks] != [len(w) for w in weights]:
        raise DataError(f"blocks {list(map(list, blocks))} do not fit weights of lengths {[len(w) for w in weights]}")
    with styled():
        canvas, (axes,) = figure(3.9, 2.7)
        position, ticks, labels = 0.0, [], []
        for stage, values in enumerate(weights):
            places = [position + i for i in range(len(values))]
            color = SERIES[stage % len(SERIES)]
            bars = axes.bar(
                places, values, 0.8, color=color, hatch=_hatch(stage), edgecolor=PAPER, label=f"stage {stage + 1}"
            )
            axes.bar_label(bars, [f"{v:.2f}" for v in values], fontsize=8.5, color=INK, padding=1)
            ticks += places
            labels += [str(b) for b in (blocks[stage] if blocks is not None else range(1, len(values) + 1))]
            position += len(values) + 0.7
        axes.set_xticks(ticks, labels)
        axes.set_xlabel("block" if blocks is not None else "block of its stage")
        axes.set_ylabel("weight in the stage")
        axes.set_ylim(0, 1.12 * max((max(w) for w in weights), default=1.0))
        axes.grid(visible=False, axis="x")
        axes.set_title(title)
        canvas.legend(loc="outside lower center", ncols=len(weights), handlelength=1.2)
        stages = "; ".join(
            f"stage {i}: {', '.join(f'{v:.2f}' for v in values)}" for i, values in enumerate(weights, start=1)
        )
        return to_svg(canvas, f"Weight of each block inside its stage, {title}. {stages}")


def stage_weights(weights: Sequence[float], title: str = "", names: Sequence[str] | None = None) -> str:
    """Draw how much each stage counts in the fused prediction.

    Args:
        weights: one a stage, shallow to deep.
        title: above the plot.
        names: of the stages; None numbers them.
    """
    if names is None:
        names = [f"stage {i}" for i in range(1, len(weights) + 1)]
    elif len(names) != len(weights):
        raise DataError(f"{len(names)} names for {len(weights)} stage weights")
    with styled():
        canvas, (axes,) = figure(3.9, 0.9 + 0.36 * len(weights))
        bars = axes.barh(list(names), weights, 0.7, color=[SERIES[i % len(SERIES)] for i in range(len(weights))])
        for i, bar in enumerate(bars):
            bar.set(hatch=_hatch(i), edgecolor=PAPER)
        axes.bar_label(bars, [f"{w:.3f}" for w in weights], color=INK, padding=4)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.18 * max(weights, default=1.0))
        axes.set_xlabel("weight in the prediction")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_title(title)
        spoken = ", ".join(f"{n} {w:.3f}" for n, w in zip(names, weights, strict=True))
        return to_svg(canvas, f"Weight of each stage in the prediction, {title}: {spoken}")


def training_curves(curve: TrainingCurve, title: str = "") -> str:
    """Draw loss above learning rate over training; more than 300 points become means of equal runs of steps."""
    step, loss, lr = (_thinned(values) for values in (curve.step, curve.loss, curve.lr))
    with styled():
        canvas, axes = figure(3.9, 3.0, rows=2, ratios=(2.4, 1)) if lr else figure(4.5, 2.4)
        marker = "o" if len(step) <= 30 else None
        axes[0].plot(step, loss, color=SERIES[0], marker=marker, markersize=3.5)
        axes[0].set_ylabel("loss")
        axes[0].set_title(title)
        if lr:
            axes[1].plot(step, lr, color=SERIES[1], linestyle="--", marker=marker, markersize=3)
            axes[1].set_ylabel("rate")
            axes[1].set_ylim(0, 1.15 * max([*lr, 1e-12]))
            axes[1].ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        axes[-1].set_xlabel(curve.unit)
        axes[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ends = f" from {loss[0]:.3g} to {loss[-1]:.3g}" if loss else ""
        return to_svg(canvas, f"Training curve, {title}: loss{ends} over {len(curve.step)} {curve.unit}s")


def _thinned(values: Sequence[float]) -> list[float]:
    if len(values) <= _MOST_POINTS:
        return list(values)
    edges = [round(i * len(values) / _MOST_POINTS) for i in range(_MOST_POINTS + 1)]
    return [math.fsum(values[a:b]) / (b - a) for a, b in pairwise(edges)]


def accuracy_bars(
    methods: Sequence[MethodSummary], ceiling: float | None = None, metric: str = "accuracy", highlight: str = ""
) -> str:
    """Draw a share (accuracy, macro F1) of every method, with intervals over seeds and the ceiling as a line.

    Args:
        methods: from `protocol.summarize_rows`.
        ceiling: best possible value, in [0, 1], or None where unknown.
        metric: which metric, a share in [0, 1].
        highlight: the method in colour; those trained on labels are hatched, the others plain.
    """
    with styled():
        canvas, (axes,) = figure(5.4, 0.9 + 0.36 * len(methods))
        largest = max([m.metrics[metric].mean + (m.metrics[metric].half_width or 0) for m in methods] + [ceiling or 0])
        for row, method in enumerate(methods):
            summary = method.metrics[metric]
            color = SERIES[0] if method.method == highlight else TRUTH
            hatch = "////" if method.uses_labels else ""
            error = None if summary.half_width is None else [[summary.half_width], [summary.half_width]]
            axes.barh(
                row, summary.mean, 0.68, color=color, hatch=hatch, edgecolor=PAPER, xerr=error, ecolor=INK, capsize=3
            )
            inside = summary.mean > 0.15 * largest  # at the foot of the bar, clear of interval and ceiling
            axes.annotate(
                f"{100 * summary.mean:.1f}", (0 if inside else summary.mean, row), (6, 0), textcoords="offset points",
                va="center", color=PAPER if inside else INK, fontweight="bold", bbox=_label_box(color, inside),
            )  # fmt: skip
        names = [f"{m.method} (labels)" if m.uses_labels else m.method for m in methods]
        axes.set_yticks(range(len(methods)), names)
        axes.invert_yaxis()
        _ceiling_line(axes, ceiling)
        axes.set_xlim(0, min(1.0, 1.12 * largest) if largest > 0 else 1.0)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=None))
        axes.set_xlabel(f"{metric.replace('_', ' ')} in %")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        spoken = ", ".join(f"{n} {m.metrics[metric].mean:.1%}" for n, m in zip(names, methods, strict=True))
        limit = "" if ceiling is None else f"; ceiling {ceiling:.1%}"
        return to_svg(canvas, f"Bar chart of {metric} by method: {spoken}{limit}")


def _label_box(color: str, inside: bool) -> dict[str, Any] | None:
    """A plain ground for a figure on a hatched bar."""
    return {"facecolor": color, "edgecolor": "none", "pad": 1.5} if inside else None


def _ceiling_line(axes: Axes, ceiling: float | None) -> None:
    if ceiling is None:
        return
    axes.axvline(ceiling, color=INK, linestyle=(0, (4, 2)), linewidth=1.3)
    axes.annotate(
        f"ceiling {100 * ceiling:.1f}", (ceiling, 1.0), (-3, 4), xycoords=("data", "axes fraction"),
        textcoords="offset points", ha="right", va="bottom", color=MUTED, fontsize=9,
    )  # fmt: skip


def reliability_diagram(bins: Reliability, title: str = "") -> str:
    """Draw accuracy against confidence; on the diagonal, a confidence means what it says.

    The area of each point is the share of pictures in its bin; the bar from the diagonal is the gap that ECE sums.
    """
    filled = [(c, a, n) for c, a, n in zip(bins.confidence, bins.accuracy, bins.count, strict=True) if n]
    total = max(sum(bins.count), 1)
    with styled():
        canvas, (axes,) = figure(3.4, 3.3)
        axes.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1.1)
        for confidence, accuracy, _ in filled:
            axes.plot([confidence, confidence], [confidence, accuracy], color=SERIES[1], linewidth=2.2, alpha=0.8)
        axes.plot([c for c, _, _ in filled], [a for _, a, _ in filled], color=SERIES[0], linewidth=1.0)
        sizes = [12 + 240 * n / total for _, _, n in filled]
        axes.scatter([c for c, _, _ in filled], [a for _, a, _ in filled], s=sizes, color=SERIES[0], zorder=3)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence", ylabel="accuracy")
        axes.grid(color=GRID)
        axes.set_title(f"{title} (ECE {100 * bins.ece:.1f}%)".strip())
        return to_svg(canvas, f"Reliability diagram, {title}: expected calibration error {bins.ece:.1%}")
