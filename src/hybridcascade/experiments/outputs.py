"""A comparison as text: the table for terminal and Markdown, LaTeX, CSV. Needs no torch and no matplotlib."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from hybridcascade.engine.atomic import write_bytes, write_json, write_text
from hybridcascade.evaluation.protocol import PairedDifference
from hybridcascade.evaluation.tables import METRICS, Table, format_metric, format_summary, to_markdown
from hybridcascade.experiments.full_table import full_markdown
from hybridcascade.experiments.summary import Compared, ComparedRow, to_json

__all__ = ["comparison_table", "safe_name", "to_csv", "to_latex", "write_outputs"]

_NONE = "–"


def comparison_table(compared: Sequence[Compared], command: str = "", other_code: int = 0) -> Table:
    """Lay out a comparison: a row a method (and recipe, where there are several).

    Args:
        compared: from `summary.compare_rows`.
        command: that makes the table again, for the caption.
        other_code: how many rows of the store were made by another state of the code, for the caption.
    """
    several = len({one.recipe for one in compared}) > 1
    baseline = compared[0].baseline
    header = (
        *(("recipe",) if several else ()), "method", "accuracy % ↑", f"Δ to {baseline}", "p", "KL ↓",
        f"ΔKL to {baseline}", "p (KL)", "shift recovered %", "gap closed %", "KL gap closed %", "trained", "train s",
    )  # fmt: skip
    return Table(
        header=header,
        rows=tuple((*((one.recipe,) if several else ()), *_cells(one)) for one in compared),
        numeric=(*((False,) if several else ()), False, *(True for _ in range(11))),
        caption=_caption(compared, command, other_code),
        best=_best(compared, 1 if several else 0),
    )


def _cells(one: Compared) -> tuple[str, ...]:
    name = f"{one.method} (labels)" if one.summary.uses_labels else one.method
    metrics, count, seconds = one.summary.metrics, one.summary.trained_parameters, one.summary.seconds
    return (
        name,
        format_summary("accuracy", metrics["accuracy"]),
        *_difference_cells("accuracy", one.differences.get("accuracy")),
        format_summary("kl", metrics["kl"]),
        *_difference_cells("kl", one.differences.get("kl")),
        *(_percent(value) for value in (one.shift_recovered, one.gap_closed["accuracy"], one.gap_closed["kl"])),
        _NONE if count is None else f"{count:,}",
        _NONE if seconds is None else f"{seconds:.1f}",
    )


def _difference_cells(metric: str, found: PairedDifference | None) -> tuple[str, str]:
    if found is None:
        return _NONE, _NONE
    sign = "+" if found.difference.mean >= 0 else ""
    p_value = found.p_value
    shown = _NONE if p_value is None else "<0.001" if p_value < 0.001 else f"{p_value:.3f}"
    return sign + format_summary(metric, found.difference), shown


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{round(100 * value) + 0:d}"


def _best(compared: Sequence[Compared], shift: int) -> frozenset[tuple[int, int]]:
    """Cells of the best label-free accuracy and KL of each recipe; equal figures on the page are equally bold."""
    cells = set()
    for recipe in {one.recipe for one in compared}:
        free = [i for i, one in enumerate(compared) if one.recipe == recipe and not one.summary.uses_labels]
        for metric, column, choose in (("accuracy", 1, max), ("kl", 4, min)):
            values = {i: format_metric(metric, compared[i].mean(metric)) for i in free}
            if len(values) > 1:
                top = format_metric(metric, choose(compared[i].mean(metric) for i in free))
                cells |= {(i, column + shift) for i, shown in values.items() if shown == top}
    return frozenset(cells)


def _caption(compared: Sequence[Compared], command: str, other_code: int) -> str:
    words = list(dict.fromkeys(one.words for one in compared if one.words))
    seeds = compared[0].summary.seeds
    tested = len(compared) - len({one.recipe for one in compared})
    said = [
        *words,
        f"Last epoch, test split, {len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))}): "
        "mean ± half of the 95% interval (Student's t).",
    ]
    if len(seeds) > 1 and tested:
        count = f"{tested} comparison{'s' if tested > 1 else ''}"
        said.append(f"p: paired t test against {compared[0].baseline}, not corrected for {count}.")
    if any(one.summary.uses_labels for one in compared):
        said.append("(labels): trained on targets, a reference for the others.")
    if other_code:
        total = sum(len(one.summary.seeds) for one in compared)
        said.append(f"{other_code} of {total} rows: made by another state of the code.")
    said += [f"Made by: {command}"] if command else []
    return " ".join(said)


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "↑": r"$\uparrow$",
    "↓": r"$\downarrow$", "Δ": r"$\Delta$", "<": "$<$", ">": "$>$",
}  # fmt: skip


def to_latex(table: Table) -> str:
    """Write a `table` environment with booktabs rules; ends with a newline."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(cells) + r" \\"

    columns = "".join("r" if right else "l" for right in table.numeric)
    body = [
        line([rf"\textbf{{{_latex(c)}}}" if (i, j) in table.best else _latex(c) for j, c in enumerate(row)])
        for i, row in enumerate(table.rows)
    ]
    lines = [
        r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule", line([_latex(title) for title in table.header]), r"\midrule", *body, r"\bottomrule",
        r"\end{tabular}", rf"\caption{{{_latex(table.caption)}}}", r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def to_csv(compared: Sequence[Compared]) -> str:
    """Write plain numbers, a line a method and recipe: mean and half width of each metric, differences, shares."""
    metrics = [m for m in METRICS if all(m in one.summary.metrics for one in compared)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([
        "recipe", "method", "seeds", "uses_labels",
        *(f"{metric}{part}" for metric in metrics for part in ("", "_half_width")),
        *(f"{metric}_{part}" for metric in ("accuracy", "kl") for part in ("difference", "difference_half_width", "p")),
        "average_rank", "baseline", "shift_recovered", "gap_closed", "gap_closed_kl", "trained_parameters",
        "train_seconds",
    ])  # fmt: skip
    for one in compared:
        figures: list[object] = [one.recipe, one.method, len(one.summary.seeds), one.summary.uses_labels]
        for metric in metrics:
            figures += [one.summary.metrics[metric].mean, one.summary.metrics[metric].half_width]
        for metric in ("accuracy", "kl"):
            found = one.differences.get(metric)
            if found is None:
                figures += [None, None, None]
            else:
                figures += [found.difference.mean, found.difference.half_width, found.p_value]
        figures += [
            one.average_rank,
            one.baseline,
            one.shift_recovered,
            one.gap_closed["accuracy"],
            one.gap_closed["kl"],
        ]
        writer.writerow([*figures, one.summary.trained_parameters, one.summary.seconds])
    return buffer.getvalue()


def write_outputs(
    folder: Path, rows: Sequence[ComparedRow], compared: Sequence[Compared], command: str,
    ceilings: Mapping[str, float], other_code: int = 0,
) -> Table:  # fmt: skip
    """Write table.md, full.md, table.csv, table.tex, results.json and a plot for each recipe; return the table.

    Args:
        folder: where they go; files of an earlier comparison are replaced, each whole or not at all.
        rows: all rows.
        compared: their summary.
        command: that makes them again.
        ceilings: best possible accuracy by recipe, where known, for the plots.
        other_code: how many of the rows were made by another state of the code.
    """
    from hybridcascade.evaluation.tradeoff import accuracy_against_time

    table = comparison_table(compared, command, other_code)
    write_text(folder / "table.md", to_markdown(table))
    write_text(folder / "full.md", full_markdown(compared))
    write_text(folder / "table.csv", to_csv(compared))
    write_text(folder / "table.tex", to_latex(table))
    write_json(folder / "results.json", to_json(rows, compared))
    recipes = list(dict.fromkeys(one.recipe for one in compared))
    for recipe in recipes:
        name = "accuracy_time" if len(recipes) == 1 else f"accuracy_time_{safe_name(recipe)}"
        summaries = [one.summary for one in compared if one.recipe == recipe]
        svg, png = accuracy_against_time(summaries, ceilings.get(recipe), recipe)
        write_text(folder / f"{name}.svg", svg)
        write_bytes(folder / f"{name}.png", png)
    return table


def safe_name(text: str) -> str:
    """Return a name for a file: letters, digits, `-`, `_` and `.` stay."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text)
