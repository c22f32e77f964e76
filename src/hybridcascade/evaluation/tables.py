"""Results as a table: one `Table` of strings, written as Markdown, as plain text, or for a rich console.

The ceiling is a row of its own, and the caption says what the figures were made from: a table that travels
without its page still says its data, model and command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hybridcascade.evaluation.protocol import MethodSummary, ResultRow, Summary, summarize_rows

if TYPE_CHECKING:
    import rich.table

__all__ = [
    "LOWER_IS_BETTER",
    "METRICS",
    "Table",
    "format_metric",
    "format_summary",
    "metric_title",
    "results_table",
    "to_markdown",
    "to_plain",
    "to_rich",
]

_TITLES = {
    "accuracy": "accuracy", "macro_f1": "macro F1", "ece": "ECE", "kl": "KL", "nll": "NLL", "brier": "Brier",
    "chebyshev": "Chebyshev", "clark": "Clark", "clark_norm": "Clark / √K", "canberra": "Canberra",
    "canberra_norm": "Canberra / K", "cosine": "cosine", "intersection": "intersection",
    "argmax_accuracy": "argmax accuracy",
}  # fmt: skip
_PERCENT = frozenset({"accuracy", "macro_f1", "ece", "argmax_accuracy"})
LOWER_IS_BETTER = frozenset(
    {"ece", "kl", "nll", "brier", "chebyshev", "clark", "clark_norm", "canberra", "canberra_norm"}
)
"""Metrics whose best value is the smallest."""

METRICS = tuple(_TITLES)
"""Names of all metrics, in the order of full tables."""

DEFAULT_METRICS = ("accuracy", "macro_f1", "ece", "kl")
"""Columns of a results table unless others are asked for."""


@dataclass(frozen=True)
class Table:
    """A table of strings.

    Attributes:
        header: column titles.
        rows: cells, each row as long as the header.
        numeric: whether each column is right-aligned.
        caption: what the figures were made from.
        best: (row, column) of the cells to set in bold.
        footer: index of the first reference row (the ceiling), or None.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    caption: str = ""
    best: frozenset[tuple[int, int]] = frozenset()
    footer: int | None = None


def results_table(
    rows: Sequence[ResultRow],
    ceiling: Mapping[str, float] | None = None,
    caption: str = "",
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> Table:
    """Lay out results: one row a method (mean over seeds, 95% interval), the ceiling last.

    The best label-free value of each metric is marked bold; a method trained on labels is marked `(labels)`
    and does not compete.

    Args:
        rows: one a method and seed; methods keep their order of first appearance.
        ceiling: metrics of the best possible predictor, where known; it may lack some.
        caption: data, model and command behind the figures.
        metrics: columns, keys of the rows' metrics.
    """
    summaries = summarize_rows(rows)
    columns = ("method", *(metric_title(m) for m in metrics), "trained parameters", "seconds")
    body = [_row(s, metrics) for s in summaries]
    if ceiling is not None:
        cells = [format_metric(m, ceiling[m]) if m in ceiling else "–" for m in metrics]
        body.append(("ceiling (best possible)", *cells, "–", "–"))
    return Table(
        header=columns,
        rows=tuple(body),
        numeric=(False, *(True for _ in columns[1:])),
        caption=caption,
        best=_best_cells(summaries, metrics),
        footer=len(summaries) if ceiling is not None else None,
    )


def _row(summary: MethodSummary, metrics: Sequence[str]) -> tuple[str, ...]:
    name = f"{summary.method} (labels)" if summary.uses_labels else summary.method
    cells = (format_summary(m, summary.metrics[m]) if m in summary.metrics else "–" for m in metrics)
    count = "–" if summary.trained_parameters is None else f"{summary.trained_parameters:,}"
    seconds = "–" if summary.seconds is None else f"{summary.seconds:.1f}"
    return (name, *cells, count, seconds)


def _best_cells(summaries: Sequence[MethodSummary], metrics: Sequence[str]) -> frozenset[tuple[int, int]]:
    """Cells whose shown text equals that of the best: equal figures on the page are equally bold."""
    best: set[tuple[int, int]] = set()
    for column, metric in enumerate(metrics, start=1):
        values = {
            i: s.metrics[metric].mean for i, s in enumerate(summaries) if not s.uses_labels and metric in s.metrics
        }
        if len(values) < 2:
            continue
        top = min(values.values()) if metric in LOWER_IS_BETTER else max(values.values())
        shown = format_metric(metric, top)
        best |= {(i, column) for i, value in values.items() if format_metric(metric, value) == shown}
    return frozenset(best)


def metric_title(name: str) -> str:
    """Return a metric's title with its unit and the direction that is better: `accuracy % ↑`."""
    return f"{_TITLES.get(name, name)}{_unit(name)}"


def _unit(metric: str) -> str:
    arrow = "↓" if metric in LOWER_IS_BETTER else "↑"
    return f" % {arrow}" if metric in _PERCENT else f" {arrow}"


def format_metric(name: str, value: float) -> str:
    """Format one metric: percent with one decimal for shares, three decimals for the others."""
    return f"{100 * value:.1f}" if name in _PERCENT else f"{value:.3f}"


def format_summary(name: str, summary: Summary) -> str:
    """Format a mean with its interval: `46.2 ± 1.1`; without an interval for one seed."""
    text = format_metric(name, summary.mean)
    return text if summary.half_width is None else f"{text} ± {format_metric(name, summary.half_width)}"


def to_markdown(table: Table) -> str:
    """Write a GitHub table, the caption below it in italics; ends with a newline."""
    lines = ["| " + " | ".join(_escape(c) for c in table.header) + " |"]
    lines.append("|" + "|".join("---:" if right else "---" for right in table.numeric) + "|")
    for i, row in enumerate(table.rows):
        cells = [f"**{_escape(c)}**" if (i, j) in table.best else _escape(c) for j, c in enumerate(row)]
        lines.append("| " + " | ".join(cells) + " |")
    if table.caption:
        lines += ["", f"*{table.caption}*"]
    return "\n".join(lines) + "\n"


def _escape(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def to_plain(table: Table) -> str:
    """Write aligned columns without markup, for logs and pipes; the best values carry a `*`; ends with a newline."""
    starred = [[c + "*" * ((i, j) in table.best) for j, c in enumerate(row)] for i, row in enumerate(table.rows)]
    # a column of figures keeps one place for the star, so that the figures stay aligned
    body = [
        [c if c.endswith("*") or not right else f"{c} " for c, right in zip(row, table.numeric, strict=True)]
        for row in starred
    ]
    header = [f"{c} " if right else c for c, right in zip(table.header, table.numeric, strict=True)]
    widths = [max(len(row[j]) for row in [header, *body]) for j in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        aligned = zip(cells, widths, table.numeric, strict=True)
        return "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in aligned).rstrip()

    rule = "  ".join("-" * w for w in widths)
    lines = [line(header), rule]
    for i, row in enumerate(body):
        if i == table.footer:
            lines.append(rule)
        lines.append(line(row))
    if table.caption:
        lines += ["", table.caption]
    return "\n".join(lines) + "\n"


def to_rich(table: Table, color: Literal["auto", "never"] = "auto") -> rich.table.Table:
    """Build a rich table for a terminal; rich is imported here, when a terminal asks for it.

    Args:
        table: what to show.
        color: `never` leaves out styles.
    """
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    styled = color == "auto"
    shown = RichTable(box=box.SIMPLE_HEAD, caption=Text(table.caption) if table.caption else None, pad_edge=False)
    for column, (title, right) in enumerate(zip(table.header, table.numeric, strict=True)):
        # in a narrow terminal titles and names wrap; a figure is never cut
        narrowest = max((len(row[column]) for row in table.rows), default=0) if right else None
        shown.add_column(Text(title), justify="right" if right else "left", min_width=narrowest, overflow="fold")
    for i, row in enumerate(table.rows):
        if i == table.footer:
            shown.add_section()
        cells = [Text(c, style="bold green" if styled and (i, j) in table.best else "") for j, c in enumerate(row)]
        shown.add_row(*cells, style="dim" if styled and table.footer is not None and i >= table.footer else "")
    return shown
