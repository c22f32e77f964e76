"""The plot of a comparison: what is on it, and that its axis ends where accuracy does."""

from __future__ import annotations

import re

from hybridcascade.evaluation.protocol import ResultRow, summarize_rows
from hybridcascade.evaluation.tradeoff import accuracy_against_time


def test_wide_intervals_do_not_stretch_the_axis_beyond_accuracy() -> None:
    rows = [ResultRow("floor", seed, {"accuracy": 0.4 + 0.02 * seed}, 0, 0.0, uses_labels=False) for seed in (0, 1)] + [
        ResultRow("ours", seed, {"accuracy": 0.2 + 0.6 * seed}, 10, 3.0 + seed, uses_labels=True) for seed in (0, 1)
    ]
    svg, png = accuracy_against_time(summarize_rows(rows), ceiling=0.7, title="two seeds")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    shares = [float(text.replace("\N{MINUS SIGN}", "-")) for text in texts if re.fullmatch(r"\W?\d+", text)]
    assert {20, 80} <= set(shares)
    assert min(shares) >= 0
    assert max(shares) <= 100
    assert {"floor (trains nothing)", "ours (labels)", "ceiling (best possible)"} <= set(texts)
    assert png.startswith(b"\x89PNG")
