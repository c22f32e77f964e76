"""The sections of the report as HTML; `report` says what goes in and writes the file."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

import matplotlib.image
import numpy as np

from hybridcascade.errors import DataError
from hybridcascade.evaluation import plots
from hybridcascade.evaluation.figures import DARK, LIGHT
from hybridcascade.evaluation.protocol import MethodSummary, summarize_rows
from hybridcascade.evaluation.tables import DEFAULT_METRICS, format_metric, results_table

if TYPE_CHECKING:
    from hybridcascade.evaluation.report import Example, Learned, ReportData

__all__ = ["best_method", "picture_uri", "render_page"]

_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}
_CRISP_BELOW = 112  # pixels; smaller pictures are enlarged by the page, whose pixels should stay visible

_BLOCK_WEIGHTS = re.compile(r"^(?:nga|block)_weights(?:_(?!stage)(?P<kind>[a-z]\w*?))?(?:_stage)?(?:_\d+)?$")
"""`nga_weights`, `block_weights_cls_stage_2`: weights of blocks, by the kind of token they average, by stage."""

_METRICS_TEXT = (
    ("Accuracy", "share of pictures whose most probable class is true; where the truth ties, any of the tied classes"),
    ("Macro F1", "F1 averaged over classes, so that rare classes count as much as frequent ones"),
    ("ECE", "expected calibration error: how far confidence is from accuracy, over 15 bins of confidence"),
    ("KL", "mean Kullback-Leibler divergence of the predicted from the true distribution, in nats"),
)


def render_page(data: ReportData) -> str:
    """Return the whole page.

    Raises:
        DataError: a picture cannot be shown.
    """
    summaries = summarize_rows(data.rows)
    sections: tuple[Callable[[], str], ...] = (
        lambda: _results(data, summaries),
        lambda: _calibration(data),
        lambda: _examples(data, summaries),
        lambda: _learned(data),
        lambda: _curves(data),
        lambda: _how_made(data),
    )
    body = _number_ids("\n".join(section() for section in sections))
    lead = f'<p class="lead">{escape(data.summary)}</p>' if data.summary else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{escape(data.title)}</title>
<style>
{_style()}</style>
</head>
<body>
<header>
<h1>{escape(data.title)}</h1>
{lead}
{_headline(data, summaries)}
</header>
<main>
{body}
</main>
<footer>Made by hybridcascade. This page holds everything it shows and loads nothing.</footer>
</body>
</html>
"""


def _number_ids(body: str) -> str:
    """Give the ids of each plot a prefix of its own: two equal plots would share theirs."""
    numbers = iter(range(1, body.count("<svg") + 1))

    def numbered(match: re.Match[str]) -> str:
        prefix = f"p{next(numbers)}-"
        return re.sub(r"\bf[0-9a-f]{16}-", prefix, match[0])

    return re.sub(r"<svg .*?</svg>", numbered, body, flags=re.DOTALL)


def _style() -> str:
    css = resources.files("hybridcascade.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    for mark, theme in (("/*LIGHT*/", LIGHT), ("/*DARK*/", DARK)):
        css = css.replace(mark, " ".join(f"{name}: {color};" for name, color in theme.items()))
    return css


def best_method(summaries: Sequence[MethodSummary], metric: str = "accuracy") -> MethodSummary | None:
    """Return the label-free method with the highest mean, the first of equals; None where none has the metric."""
    free = [s for s in summaries if not s.uses_labels and metric in s.metrics]
    return max(free, key=lambda s: s.metrics[metric].mean, default=None)


def _headline(data: ReportData, summaries: Sequence[MethodSummary]) -> str:
    best = best_method(summaries)
    if best is None:
        return ""
    base = summaries[0]
    cards = [_card("Best without labels", format_metric("accuracy", best.metrics["accuracy"].mean), best.method, "%")]
    if base is not best and "accuracy" in base.metrics:
        gain = 100 * (best.metrics["accuracy"].mean - base.metrics["accuracy"].mean)
        against = (
            f"points of accuracy over {base.method} ({format_metric('accuracy', base.metrics['accuracy'].mean)} %)"
        )
        cards.append(_card("Gain", f"{gain:+.1f}", against))
    if data.ceiling and "accuracy" in data.ceiling:
        cards.append(
            _card("Ceiling", format_metric("accuracy", data.ceiling["accuracy"]), "best possible on this data", "%")
        )
    if "kl" in best.metrics:
        against = "lower is better"
        if base is not best and "kl" in base.metrics:
            against = f"{base.method}: {format_metric('kl', base.metrics['kl'].mean)}; {against}"
        cards.append(_card("KL to the truth", format_metric("kl", best.metrics["kl"].mean), against))
    return f'<dl class="cards">{"".join(cards)}</dl>'


def _card(name: str, value: str, detail: str, unit: str = "") -> str:
    shown = f"{value} {unit}".strip().replace("-", "−")
    return f'<div class="card"><dt>{escape(name)}</dt><dd>{escape(shown)}<small>{escape(detail)}</small></dd></div>'


def _results(data: ReportData, summaries: Sequence[MethodSummary]) -> str:
    best = best_method(summaries)
    metrics = [m for m in DEFAULT_METRICS if any(m in s.metrics for s in summaries)]
    table = results_table(data.rows, data.ceiling, metrics=metrics)
    lines = []
    for i, row in enumerate(table.rows):
        summary = summaries[i] if i < len(summaries) else None
        kind, tag = "", ""
        if summary is None:
            kind = "ceiling"
        elif summary.uses_labels:
            kind, tag = "reference", '<span class="tag">trained on labels</span>'
        elif best is not None and summary.method == best.method:
            kind = "best"
        name = row[0] if summary is None else summary.method
        cells = (f"<b>{escape(c)}</b>" if (i, j) in table.best else escape(c) for j, c in enumerate(row[1:], start=1))
        figures = "".join(f'<td class="num">{cell}</td>' for cell in cells)
        lines.append(f'<tr class="{kind}"><th scope="row">{_breakable(name)}{tag}</th>{figures}</tr>')
    head = _head(table.header, table.numeric)
    terms = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in _METRICS_TEXT)
    chart = ""
    if "accuracy" in metrics:
        ceiling = None if data.ceiling is None else data.ceiling.get("accuracy")
        shown = [s for s in summaries if "accuracy" in s.metrics]
        chart = plots.accuracy_bars(shown, ceiling, highlight="" if best is None else best.method)
        chart = _figure(chart)
    return f"""<section><h2>Results</h2>
<div class="scroll sticky" tabindex="0" role="region" aria-label="Results table">
<table aria-describedby="results-caption">
{head}<tbody>{"".join(lines)}</tbody></table></div>
<p class="note wide" id="results-caption">{_caption(data, summaries)}</p>
<div class="pair">{chart}<div><h3>What the figures mean</h3><dl class="terms">{terms}</dl></div></div>
{"".join(f"<p>{escape(note)}</p>" for note in data.notes)}
</section>"""


def _breakable(name: str) -> str:
    """Escape a method's name and let a narrow page break it after an underscore."""
    return escape(name).replace("_", "_<wbr>")


def _caption(data: ReportData, summaries: Sequence[MethodSummary]) -> str:
    count = max(len(s.seeds) for s in summaries)
    spread = f"mean of {count} seeds ± 95% interval" if count > 1 else f"one seed ({summaries[0].seeds[0]})"
    command = f"<code>{escape(data.command)}</code>" if data.command else ""
    parts = [escape(data.data), escape(data.model), command, spread]
    best = " Bold: best without labels." if len(summaries) > 1 else ""
    return f"{'; '.join(p for p in parts if p)}.{best}"


def _head(titles: Sequence[str], numeric: Sequence[bool]) -> str:
    cells = (
        f'<th scope="col"{" class=num" if right else ""}>{escape(title)}</th>'
        for title, right in zip(titles, numeric, strict=True)
    )
    return f"<thead><tr>{''.join(cells)}</tr></thead>"


def _figure(svg: str, caption: str = "") -> str:
    # an inline SVG needs no namespace, and the page then holds no address at all
    inline = svg.replace(' xmlns="http://www.w3.org/2000/svg"', "")
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{inline}{below}</figure>"


def _grid(figures: Iterable[str]) -> str:
    return f'<div class="plots">{"".join(figures)}</div>'


def _calibration(data: ReportData) -> str:
    if not data.reliability:
        return ""
    drawn = (_figure(plots.reliability_diagram(bins, name)) for name, bins in data.reliability.items())
    return f"""<section><h2>Calibration</h2>
<p class="note">On the dashed line, a confidence of 70% is right 70% of the time. Below it a model is too sure of
itself. Larger points hold more pictures.</p>
{_grid(drawn)}</section>"""


def _examples(data: ReportData, summaries: Sequence[MethodSummary]) -> str:
    if not data.examples:
        return ""
    shown = tuple(data.shown)
    if not shown:
        best = best_method(summaries)
        shown = tuple(dict.fromkeys([summaries[0].method, *([best.method] if best else [])]))
    limit = min(1.0, 1.02 * max(max(v) for e in data.examples for v in _drawn(e, shown).values()))
    cards = "".join(_example(e, data.classes, shown, i, limit) for i, e in enumerate(data.examples, start=1))
    return f"""<section><h2>Examples</h2>
<p class="note">What each picture is predicted to evoke beside what is true of it. ✓ marks a most probable class that
is true, ✗ one that is not.</p>
<ul class="examples">{cards}</ul></section>"""


def _example(example: Example, classes: Sequence[str], shown: Sequence[str], number: int, limit: float) -> str:
    uri, crisp = picture_uri(example.picture, example.id)
    drawn = {name: example.predictions[name] for name in shown if name in example.predictions}
    verdicts = "" if example.truth is None else f"<li>true: <b>{escape(_top(classes, example.truth))}</b></li>"
    for name, values in drawn.items():
        mark = "" if example.truth is None else ("right" if _is_right(values, example.truth) else "wrong")
        verdicts += f'<li class="{mark}">{escape(name)}: <b>{escape(_top(classes, values))}</b></li>'
    chart = plots.distribution_bars(classes, example.truth, drawn, limit) if drawn or example.truth is not None else ""
    alt = f"Example picture {number}, {example.id}"
    return f"""<li class="example"><div class="top">
<img src="{uri}" alt="{escape(alt)}"{' class="crisp"' if crisp else ""}>
<div><div class="id">{escape(example.id)}</div><ul>{verdicts}</ul></div></div>
{_figure(chart) if chart else ""}
<details><summary>All figures</summary>{_distribution_table(example, classes)}</details></li>"""


def _drawn(example: Example, shown: Sequence[str]) -> dict[str, Sequence[float]]:
    """Distributions that the plot of an example shows; a flat one where it shows none."""
    series = {} if example.truth is None else {"true": example.truth}
    return series | {n: v for n, v in example.predictions.items() if n in shown} or {"": (1.0,)}


def _distribution_table(example: Example, classes: Sequence[str]) -> str:
    series: dict[str, Sequence[float]] = {} if example.truth is None else {"true": example.truth}
    series |= example.predictions
    head = _head(("%", *series), (False, *(True for _ in series)))
    lines = (
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f'<td class="num">{100 * values[k]:.1f}</td>' for values in series.values())
        + "</tr>"
        for k, name in enumerate(classes)
    )
    return f'<div class="scroll" tabindex="0"><table>{head}<tbody>{"".join(lines)}</tbody></table></div>'


def _top(classes: Sequence[str], values: Sequence[float]) -> str:
    return classes[int(np.argmax(values))]


def _is_right(values: Sequence[float], truth: Sequence[float]) -> bool:
    return truth[int(np.argmax(values))] >= max(truth) - 1e-6  # the tie rule of `metrics`


def picture_uri(picture: Any, name: str) -> tuple[str, bool]:
    """Return a picture as a data address, and whether its pixels should stay visible when it is enlarged.

    Args:
        picture: PNG, JPEG, GIF or WebP bytes, or uint8 `[H, W, 3]`.
        name: sample id, for the message.

    Raises:
        DataError: neither of these.
    """
    crisp = False
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise DataError(f"picture of {name!r} must be uint8 [H, W, 3], got {picture.dtype} {list(picture.shape)}")
        crisp = max(picture.shape[:2]) < _CRISP_BELOW
        buffer = io.BytesIO()
        matplotlib.image.imsave(buffer, picture, format="png")
        picture = buffer.getvalue()
    elif bytes(picture[:8]) == b"\x89PNG\r\n\x1a\n":
        crisp = int.from_bytes(picture[16:20], "big") < _CRISP_BELOW and int.from_bytes(picture[20:24], "big") < 112
    kind = next((kind for mark, kind in _SIGNATURES.items() if picture.startswith(mark)), None)
    if kind is None:
        raise DataError(f"picture of {name!r} is not PNG, JPEG, GIF or WebP: it begins with {bytes(picture[:8])!r}")
    return f"data:{kind};base64,{base64.b64encode(picture).decode('ascii')}", crisp


def _learned(data: ReportData) -> str:
    parts = [_learned_by(name, values, data.blocks.get(name)) for name, values in data.learned.items() if values]
    if not parts:
        return ""
    return f"""<section><h2>What was learned</h2>
<p class="note">NGA is the Gaussian mean over the blocks of a stage; the stage weights fuse the stages into the
prediction.</p>
{"".join(parts)}</section>"""


def _learned_by(method: str, values: Learned, blocks: Sequence[Sequence[int]] | None) -> str:
    aggregation: dict[str, list[list[float]]] = {}
    fused: list[tuple[str, list[float]]] = []
    listed: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, (int, float)):
            listed.append((name, f"{value:.4g}"))
        elif match := _BLOCK_WEIGHTS.match(name):
            aggregation.setdefault(match["kind"] or "", []).extend(_rows(value))
        elif name.startswith("stage_weights"):
            fused += [(name.replace("_", " "), row) for row in _rows(value)]
        else:
            listed.append((name, ", ".join(map(_number, value))))
    drawn = [_figure(_nga(kind, rows, blocks)) for kind, rows in aggregation.items()]
    for title, row in fused:
        # one weight more than aggregated stages: the last is CLIP's own output, which nothing aggregates
        own = bool(aggregation) and all(len(rows) == len(row) - 1 for rows in aggregation.values())
        names = [*(f"stage {i}" for i in range(1, len(row))), "CLIP's own"] if own else None
        drawn.append(_figure(plots.stage_weights(row, title, names)))
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in listed)
    facts = f'<dl class="facts">{facts}</dl>' if facts else ""
    return f"<h3>{escape(method)}</h3>{_grid(drawn) if drawn else ''}{facts}"


def _nga(kind: str, weights: list[list[float]], blocks: Sequence[Sequence[int]] | None) -> str:
    fits = blocks is not None and [len(b) for b in blocks] == [len(w) for w in weights]
    title = f"NGA weights ({kind.replace('_', ' ')})" if kind else "NGA weights"
    return plots.nga_weights(weights, blocks if fits else None, title)


def _rows(value: Sequence[float] | Sequence[Sequence[float]]) -> list[list[float]]:
    """Sequences as they are, plain numbers together as one sequence."""
    nested = [list(v) for v in value if isinstance(v, Sequence)]
    flat = [float(v) for v in value if not isinstance(v, Sequence)]
    return nested + ([flat] if flat else [])


def _number(value: float | Sequence[float]) -> str:
    return f"[{', '.join(map(_number, value))}]" if isinstance(value, Sequence) else f"{value:.4g}"


def _curves(data: ReportData) -> str:
    drawn = [
        _figure(plots.training_curves(curve, f"{method}: {phase} phase"))
        for method, phases in data.curves.items()
        for phase, curve in phases.items()
        if curve.step
    ]
    if not drawn:
        return ""
    return f"""<section><h2>Training</h2>
<p class="note">Loss (solid) and learning rate (dashed) of each phase. Losses of different methods are different
functions: compare shapes, not heights. The last epoch is the one reported.</p>
{_grid(drawn)}</section>"""


def _how_made(data: ReportData) -> str:
    seeds = data.seed if data.seed != "" else ", ".join(str(s) for s in dict.fromkeys(r.seed for r in data.rows))
    facts = {
        "Data": data.data,
        "Model": data.model,
        "Classes": ", ".join(data.classes),
        "Seed": str(seeds),
        "Versions": ", ".join(f"{name} {version}" for name, version in data.versions.items()),
    }
    shown = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items() if v)
    command = f"<pre><code>{escape(data.command)}</code></pre>" if data.command else ""
    return f"""<section><h2>How this was made</h2>
{command}<dl class="facts">{shown}</dl>
<p class="note">{escape(data.protocol)}</p></section>"""
