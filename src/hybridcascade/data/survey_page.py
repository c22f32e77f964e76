"""A survey as one HTML file: tables, bars, pairs side by side and a contact sheet, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image, ImageOps

from hybridcascade.data.survey import NO_LABEL, Survey
from hybridcascade.errors import PictureError

__all__ = ["survey_page"]

_SHOWN = 8
_PAIRS = 24
_LISTED = 20
_THUMB = 112

_STYLE = """
:root{--ink:#1d2733;--soft:#66727f;--line:#dfe4ea;--bar:#4a7fb5;--warn:#a8480b;--back:#fff}
*{box-sizing:border-box}body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);margin:0}
main{max-width:1080px;margin:0 auto;padding:28px 24px 60px}h1{font-size:26px;margin:0 0 2px}
h2{font-size:18px;margin:34px 0 10px}p{margin:4px 0}.soft{color:var(--soft)}
.path{color:var(--soft);overflow-wrap:anywhere}.figures{display:flex;flex-wrap:wrap;gap:10px;margin:18px 0}
.figures div{border:1px solid var(--line);border-radius:8px;padding:8px 14px;min-width:112px}
.figures b{display:block;font-size:22px;line-height:1.2}.figures .warn b{color:var(--warn)}
.wide{overflow-x:auto}table{border-collapse:collapse}th,td{padding:4px 12px 4px 0;text-align:left;vertical-align:middle}
th{font-weight:600;border-bottom:1px solid var(--line)}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.bar{display:inline-block;height:11px;background:var(--bar);border-radius:2px;vertical-align:middle}
td.barcell{width:260px}.same{font-weight:700}ul{margin:4px 0;padding-left:20px;columns:3 280px}
li{overflow-wrap:anywhere}
.sheet{display:flex;flex-wrap:wrap;gap:6px;margin:2px 0 14px}figure{margin:0}
.sheet img,.pair img{width:112px;height:112px;object-fit:cover;border-radius:4px;display:block;background:#eef1f4}
figcaption{font-size:11px;color:var(--soft);width:112px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.pairs{display:flex;flex-wrap:wrap;gap:14px}.pair{border:1px solid var(--line);border-radius:8px;padding:8px}
.pair>div{display:flex;gap:6px}.pair p{font-size:12px;margin:6px 0 0}.warn{color:var(--warn)}
h3{font-size:14px;margin:10px 0 4px}
"""


def survey_page(found: Survey) -> str:
    """Return the page of a survey."""
    parts = [
        f"<h1>{escape(found.path.rstrip('/').rpartition('/')[2] or found.path)}</h1>",
        f'<p class="path">{escape(found.path)}</p><p>Format: {escape(found.format)}</p>',
        *(f'<p class="soft">{escape(remark)}</p>' for remark in found.remarks),
        _figures(found),
        _balance(found),
        _keywords(found),
        _problems(found),
        _pairs(found),
        _sheet(found),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>{escape(found.path)}</title><style>{_STYLE}</style></head>\n'
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def _figures(found: Survey) -> str:
    boxes: list[tuple[str, int, bool]] = [("pictures", found.pictures, False), ("classes", len(found.classes), False)]
    boxes += [(name, count, False) for name, count in found.splits.items() if len(found.splits) > 1]
    if found.votes:
        boxes += [("with votes", int(found.votes["pictures"]), False), ("ties", len(found.ties), False)]
    boxes += [
        ("missing", len(found.missing), bool(found.missing)),
        ("unreadable", len(found.unreadable), bool(found.unreadable)),
        ("alike pairs", len(found.pairs), False),
        ("across splits", len(found.leaks), bool(found.leaks)),
    ]
    cells = "".join(
        f"<div{' class=warn' if warn else ''}><b>{count:,}</b>{escape(name)}</div>" for name, count, warn in boxes
    )
    return f'<div class="figures">{cells}</div>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells of `rows` are HTML; all columns but the first are right-aligned."""
    head = "".join(f"<th{' class=n' if i else ''}>{escape(cell)}</th>" for i, cell in enumerate(header))
    lines = "".join(f"<tr>{''.join(_cell(i, cell) for i, cell in enumerate(row))}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _cell(column: int, html: str) -> str:
    if html.startswith("<span class=bar"):
        return f"<td class=barcell>{html}</td>"
    return f"<td{' class=n' if column else ''}>{html}</td>"


def _balance(found: Survey) -> str:
    if not found.balance or not found.classes:
        return ""
    totals = {name: sum(row.values()) for name, row in found.balance.items()}
    most = max(totals.values()) or 1
    splits = list(found.splits) if len(found.splits) > 1 else []
    rows = []
    for name, row in found.balance.items():
        cells = [escape(name), f"{totals[name]:,}", f"{100 * totals[name] / found.pictures:.1f}%"]
        if found.vote_mass:
            cells.append(f"{100 * found.vote_mass[name]:.1f}%" if name in found.vote_mass else "")
        cells += [f"{row[split]:,}" for split in splits]
        rows.append([*cells, f'<span class=bar style="width:{240 * totals[name] / most:.0f}px"></span>'])
    header = ["class", "pictures", "share", *(["share of votes"] if found.vote_mass else []), *splits, ""]
    words = ""
    if found.votes:
        low, high = found.votes["smallest_sum"], found.votes["largest_sum"]
        each = f"{low:.4g}" if f"{low:.4g}" == f"{high:.4g}" else f"{low:.4g} to {high:.4g}"
        words = (
            f'<p class="soft">Votes of a picture sum to {each}; {100 * found.votes["share_of_zeros"]:.1f}% of the '
            "entries are zero. A class counts the pictures on which it has most votes (of a tie the first), or that "
            "are labelled so.</p>"
        )
    return f"<h2>Classes</h2>{_table(header, rows)}{words}"


def _keywords(found: Survey) -> str:
    agreement = found.keyword_agreement
    if agreement is None:
        return ""
    rows = [
        [escape(word), *(_marked(row.get(name, 0), word == name) for name in found.classes)]
        for word, row in found.keywords.items()
    ]
    same, total = agreement
    words = f"Keyword and label are the same on {same:,} of {total:,} pictures ({100 * same / total:.1f}%)."
    return f"<h2>Keyword (rows) against label (columns)</h2><p>{words}</p>{_table(['', *found.classes], rows)}"


def _marked(count: int, same: bool) -> str:
    return f'<span class="same">{count}</span>' if same else str(count) if count else '<span class="soft">·</span>'


def _problems(found: Survey) -> str:
    groups: list[tuple[str, Sequence[str]]] = [
        ("Missing: listed, but not there", found.missing),
        ("Unreadable", [f"{name}: {reason}" for name, reason in found.unreadable]),
        ("Left out", [f"{count:,}: {why}" for why, count in found.left_out.items()]),
        ("Label is not the class with most votes", found.against_votes),
        ("Ties of votes", found.ties),
    ]
    html = ""
    for title, names in groups:
        if names:
            listed = "".join(f"<li>{escape(name)}</li>" for name in names[:_LISTED])
            more = f"<li>and {len(names) - _LISTED:,} more</li>" if len(names) > _LISTED else ""
            html += f"<h3>{escape(title)} ({len(names):,})</h3><ul>{listed}{more}</ul>"
    return f"<h2>To know</h2>{html}" if html else "<h2>To know</h2><p>Nothing missing, unreadable or tied.</p>"


def _pairs(found: Survey) -> str:
    if not found.pairs:
        return "<h2>Alike</h2><p>No two pictures look alike.</p>"
    row_of = {name: row for row, name in enumerate(found.source.ids)}
    parts = _shown_parts(found.source.ids)
    # What lies across splits makes test figures too good: it comes first.
    ordered = sorted(found.pairs, key=lambda pair: (pair.splits[0] == pair.splits[1], pair.bits))
    html = ""
    for pair in ordered[:_PAIRS]:
        across = pair.splits[0] != pair.splits[1]
        thumbs = "".join(_figure(found, row_of[name], name, parts) for name in (pair.first, pair.second))
        words = f"{pair.labels[0]} / {pair.labels[1]}, {pair.splits[0]} / {pair.splits[1]}, {pair.bits} bits"
        html += f'<div class="pair"><div>{thumbs}</div><p{" class=warn" if across else ""}>{escape(words)}</p></div>'
    more = f" The first {_PAIRS} are shown." if len(ordered) > _PAIRS else ""
    words = f"{len(ordered):,} pairs look alike, {len(found.leaks):,} of them across splits.{more}"
    return f'<h2>Alike</h2><p>{words}</p><div class="pairs">{html}</div>'


def _sheet(found: Survey) -> str:
    """Some pictures of each class, spread evenly over its ids: the same ones each time."""
    rows: dict[str, list[int]] = {}
    for row, sample in enumerate(found.source.samples):
        label = sample.label
        if label is None and sample.votes is not None:
            label = sample.votes.index(max(sample.votes))
        rows.setdefault(NO_LABEL if label is None else found.classes[label], []).append(row)
    html, parts = "", _shown_parts(found.source.ids)
    for name in (*found.classes, NO_LABEL):
        chosen = _spread(rows.get(name, []), _SHOWN if found.classes else 5 * _SHOWN)
        figures = "".join(_figure(found, row, found.source.ids[row], parts) for row in chosen)
        if figures:
            html += f'<h3>{escape(name if found.classes else "all")}</h3><div class="sheet">{figures}</div>'
    return f"<h2>Contact sheet</h2>{html}"


def _spread(rows: Sequence[int], count: int) -> list[int]:
    return list(rows) if len(rows) <= count else [rows[i * len(rows) // count] for i in range(count)]


def _shown_parts(ids: Sequence[str]) -> int:
    """How much of a path stands below a picture: the folder too, where there are several (a keyword, a class)."""
    return 1 if len({name.rpartition("/")[0] for name in ids}) == 1 else 2


def _figure(found: Survey, row: int, name: str, parts: int) -> str:
    try:
        thumb = ImageOps.fit(found.source.open(row), (_THUMB, _THUMB))
    except PictureError:
        return f"<figure><img alt=''><figcaption>{escape(name)} (unreadable)</figcaption></figure>"
    short = escape("/".join(name.split("/")[-parts:]))
    return f'<figure><img alt="" src="{_data(thumb)}"><figcaption title="{escape(name)}">{short}</figcaption></figure>'


def _data(image: Image.Image) -> str:
    sheet = io.BytesIO()
    image.save(sheet, "JPEG", quality=72)
    return f"data:image/jpeg;base64,{base64.b64encode(sheet.getvalue()).decode()}"
