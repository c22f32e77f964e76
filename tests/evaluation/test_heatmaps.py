"""Heat maps carry the numbers that went in and follow a page's theme."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from hybridcascade.errors import DataError
from hybridcascade.evaluation.figures import LIGHT
from hybridcascade.evaluation.heatmaps import confusion_map, prior_maps

CLASSES = ("awe", "fear$x$", "joy")
PRIORS = {"wheel": [[0.7, 0.2, 0.1], [0.25, 0.5, 0.25], [0.0, 0.04, 0.96]], "none": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}


def texts(svg: str) -> list[str]:
    return [(e.text or "").strip() for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("text")]


@pytest.mark.parametrize(
    "svg", [prior_maps(CLASSES, PRIORS), confusion_map(CLASSES, [[5, 1, 0], [0, 7, 2], [0, 0, 9]])]
)
def test_is_themeable_and_text_stays_text(svg: str):
    assert set(CLASSES) <= set(texts(svg))
    assert set(re.findall(r"var\((--plot-\w+), (#[0-9a-f]{6})\)", svg)) <= set(LIGHT.items())
    assert not re.findall(r"(?<!, )#[0-9a-f]{6}\b", svg), "a colour that no theme can change"
    assert svg.startswith("<svg")


def test_priors_show_percent_and_shade_by_share():
    svg = prior_maps(CLASSES, PRIORS)
    found = texts(svg)
    assert {"wheel", "none", "70", "20", "10", "25", "50", "96", "4", "100"} <= set(found)
    assert "0" not in found, "what is nothing stays empty"
    depths = sorted(float(v) for v in re.findall(r"opacity: ([\d.]+)", svg))
    assert depths[0] == pytest.approx(0.04 / 0.6, abs=1e-3)
    assert "the label keeps 50% to 96%" in svg
    assert svg == prior_maps(CLASSES, PRIORS)


def test_confusion_shows_counts():
    svg = confusion_map(CLASSES, [[5, 1, 0], [0, 7, 2], [0, 0, 9]], "test split")
    assert {"5", "1", "7", "2", "9", "true", "predicted", "test split"} <= set(texts(svg))
    assert "21 of 24 right" in svg


def test_wrong_shapes_are_told():
    with pytest.raises(DataError, match=r"wheel: expected 3 rows of 3 numbers, got rows of \[2\]"):
        prior_maps(CLASSES, {"wheel": [[0.5, 0.5]]})
    with pytest.raises(DataError, match="at least one"):
        prior_maps(CLASSES, {})
    with pytest.raises(DataError, match="confusion: expected 3 rows"):
        confusion_map(CLASSES, [[1]])
