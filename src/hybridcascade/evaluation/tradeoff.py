"""The plot of a comparison: accuracy against training time, as SVG and as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from hybridcascade.evaluation.figures import INK, MUTED, PAPER, SERIES, figure, styled, to_svg
from hybridcascade.evaluation.protocol import MethodSummary

__all__ = ["accuracy_against_time"]

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")  # with six colours: thirty rows stay apart
_FASTEST = 0.05  # seconds; below it a method trains nothing, whatever the clock says
_DPI = 160


def accuracy_against_time(
    methods: Sequence[MethodSummary], ceiling: float | None = None, title: str = ""
) -> tuple[str, bytes]:
    """Draw the accuracy of each method, with its interval over seeds, against its wall time of training.

    Methods that train nothing have no place on a logarithmic axis: they are lines across.

    Args:
        methods: from `protocol.summarize_rows`, with `accuracy` and `seconds`.
        ceiling: best possible accuracy, in [0, 1], or None where unknown.
        title: above the plot.

    Returns:
        The plot as an SVG element and as PNG bytes on white ground.
    """
    with styled():
        rows = -(-(len(methods) + (ceiling is not None)) // 3)
        canvas, (axes,) = figure(6.2, 3.4 + 0.19 * rows)
        trained = [m for m in methods if m.trained_parameters != 0 and (m.seconds or 0) >= _FASTEST]
        for i, method in enumerate(methods):
            color, marker = SERIES[i % len(SERIES)], _MARKERS[i % len(_MARKERS)]
            summary = method.metrics["accuracy"]
            name = f"{method.method} (labels)" if method.uses_labels else method.method
            if method in trained:
                axes.errorbar(
                    [method.seconds or 0], [summary.mean], None if summary.half_width is None else [summary.half_width],
                    color=color, marker=marker, markersize=7.5, linestyle="none", elinewidth=1.3, capsize=3, label=name,
                    markerfacecolor=PAPER if method.uses_labels else color, markeredgewidth=1.5,
                )  # fmt: skip
            else:
                axes.axhline(summary.mean, color=color, linestyle="--", linewidth=1.4, label=f"{name} (trains nothing)")
        if ceiling is not None:
            axes.axhline(ceiling, color=INK, linestyle=(0, (1, 2)), linewidth=1.3, label="ceiling (best possible)")
        _axes(axes, [m.seconds or 0 for m in trained], title)
        canvas.legend(loc="outside lower center", ncols=3, handlelength=1.8, columnspacing=1.4)
        spoken = ", ".join(f"{m.method} {m.metrics['accuracy'].mean:.1%} in {m.seconds or 0:.1f} s" for m in methods)
        svg = to_svg(canvas, f"Accuracy against training time, {title}: {spoken}")
        buffer = io.BytesIO()
        canvas.savefig(buffer, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    return svg, buffer.getvalue()


def _axes(axes: Axes, seconds: Sequence[float], title: str) -> None:
    axes.set_ylabel("accuracy in %")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=None))
    axes.margins(y=0.12)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.0), min(high, 1.0))  # an interval of two seeds can be wider than all accuracies
    axes.set_title(title)
    if not seconds:
        axes.set_xticks([])
        return
    axes.set_xscale("log")
    axes.set_xlim(min(seconds) / 2, max(seconds) * 2)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("training time in seconds, logarithmic (filled: label-free, open: trained on labels)", color=MUTED)
