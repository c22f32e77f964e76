"""Plots: valid SVG that stands alone and follows a page's theme, with the numbers that went in."""

from __future__ import annotations

import re
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import matplotlib
import pytest

from hybridcascade.errors import DataError
from hybridcascade.evaluation import plots
from hybridcascade.evaluation.figures import DARK, LIGHT, PAPER
from hybridcascade.evaluation.metrics import reliability
from hybridcascade.evaluation.protocol import ResultRow, summarize_rows

ROWS = [ResultRow(m, s, {"accuracy": v + s / 50}) for m, v in (("a", 0.4), ("b$x$", 0.02)) for s in range(3)]
PLOTS: dict[str, Callable[[], str]] = {
    "distribution": lambda: plots.distribution_bars(["x", "a$b$<&"], [0.4, 0.6], {"m": [0.1, 0.9], "n": [0.5, 0.5]}),
    "no truth": lambda: plots.distribution_bars(["x", "y"], None, {"m": [0.1, 0.9]}),
    "nga": lambda: plots.nga_weights([[0.1, 0.9], [1.0]], [[5, 6], [7]], "title"),
    "stages": lambda: plots.stage_weights([0.25, 0.75]),
    "curve": lambda: plots.training_curves(plots.TrainingCurve([1, 2], [2.0, 1.0], [0.1, 0.2])),
    "loss only": lambda: plots.training_curves(plots.TrainingCurve(range(1000), [1.0] * 1000)),
    "accuracy": lambda: plots.accuracy_bars(summarize_rows(ROWS), 0.6, highlight="a"),
    "no ceiling": lambda: plots.accuracy_bars(summarize_rows(ROWS[:1])),
    "reliability": lambda: plots.reliability_diagram(reliability([[0.9, 0.1], [0.2, 0.8]], [[1.0, 0.0], [1.0, 0.0]])),
}


def texts(svg: str) -> list[str]:
    return [e.text or "" for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("text")]


@pytest.mark.parametrize("name", PLOTS)
def test_is_one_valid_themeable_svg_without_dates_or_addresses(name: str):
    svg = PLOTS[name]()
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert root.get("width") is None, "the container decides"
    assert root.get("viewBox")
    assert svg.count("http") == 1, "the namespace only"
    assert "<style" not in svg, "it would style the page around it"
    used = set(re.findall(r"var\((--plot-\w+), (#[0-9a-f]{6})\)", svg))
    assert used
    assert used <= set(LIGHT.items())
    bare = set(re.findall(r"(?<!, )#[0-9a-f]{6}\b", svg))
    assert not bare, "a colour that no theme can change"
    assert svg == PLOTS[name](), "the same figure gives the same string"


def test_text_is_text_and_dollars_are_no_formula():
    assert "a$b$<&" in texts(PLOTS["distribution"]())
    assert "b$x$" in texts(PLOTS["accuracy"]())


def test_figures_are_written_in_the_plots():
    assert {"5", "6", "7", "0.10", "0.90", "1.00", "title"} <= set(texts(PLOTS["nga"]()))
    assert {"0.250", "0.750"} <= set(texts(PLOTS["stages"]()))
    assert {"42.0", "4.0", "ceiling 60.0"} <= set(texts(PLOTS["accuracy"]()))
    assert any("ECE 45.0%" in t for t in texts(PLOTS["reliability"]()))


def test_bars_have_the_length_of_their_probability():
    svg = plots.distribution_bars(["x", "y"], None, {"m": [0.25, 0.75]}, limit=1.0)
    bars = [
        re.findall(r"[ML] ([\d.]+) [\d.]+", d) for d in re.findall(r'<path d="([^"]+)"[^>]*fill: var\(--plot-s1', svg)
    ]
    widths = [max(map(float, xs)) - min(map(float, xs)) for xs in bars if len(xs) >= 4]
    assert sorted(widths)[-1] / sorted(widths)[-2] == pytest.approx(3.0, rel=1e-3)


def test_long_curves_are_thinned_by_means():
    svg = plots.training_curves(plots.TrainingCurve(range(10_000), [float(i % 2) for i in range(10_000)]))
    assert len(svg) < 40_000
    assert plots._thinned([0.0, 1.0] * 3000) == [0.5] * 300
    assert plots._thinned(range(300)) == list(range(300))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.distribution_bars(["x"], [0.5, 0.5], {}), "'true' has 2 values for 1 classes"),
        (lambda: plots.nga_weights([[1.0]], [[5, 6]]), "do not fit"),
        (lambda: plots.stage_weights([1.0], names=["a", "b"]), "2 names for 1"),
        (lambda: plots.TrainingCurve([1, 2], [1.0]), "2 steps, 1 losses"),
        (lambda: plots.TrainingCurve([1, 2], [1.0, 2.0], [0.1]), "1 rates"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(draw: Callable[[], object], message: str):
    with pytest.raises(DataError, match=message):
        draw()


def test_the_settings_of_the_caller_survive_and_do_not_matter():
    before = dict(matplotlib.rcParams)
    expected = PLOTS["stages"]()
    assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "text.usetex": True}):
        assert PLOTS["stages"]() == expected


def test_threads_do_not_disturb_each_other():
    expected = {name: draw() for name, draw in PLOTS.items()}
    results: dict[str, str] = {}
    threads = [threading.Thread(target=lambda n=n: results.update({n: PLOTS[n]()})) for n in PLOTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == expected


def luminance(color: str) -> float:
    """Relative luminance by WCAG 2."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_colours_are_readable_on_their_page(theme: dict[str, str]):
    paper = theme["--plot-paper"]
    for role, color in theme.items():
        if role in ("--plot-ink", "--plot-muted"):
            assert contrast(color, paper) >= 4.5, f"text in {role}"
        elif role not in ("--plot-grid", "--plot-paper"):
            assert contrast(color, paper) >= 3.0, f"graphics in {role}"
    assert LIGHT["--plot-paper"] == PAPER
