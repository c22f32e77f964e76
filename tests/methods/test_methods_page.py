"""docs/methods.md: its counts are those of the code, by a script and by hand; its figures are there."""

import re
from pathlib import Path

import pytest
from scripts import draw_methods, method_costs

from hybridcascade.methods.catalogue import CATALOGUE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
NAMES = [entry.name for entry in CATALOGUE]
REMEDY = "run: python scripts/method_costs.py"

NORMS = (2 * 12 + 2) * 2 * 768  # two a block, one before the first and one after the last, weight and bias
HEAD = 8 * 512
STAGE = 2 * 768 + 768 * 512  # LayerNorm and projection

BY_HAND = {
    "zero_shot": 0,
    "text_only": HEAD,
    "lafter": HEAD + NORMS + 50 * 768,
    # Not ln_post; 3 stages with a sigma and a weight each.
    "hybrid_cascade_seed": HEAD + NORMS - 2 * 768 + 50 * 768 + 3 * STAGE + 3 + 3,
    "linear_probe": HEAD + 8,
}
"""Numbers that train on ViT-B-32 with 8 classes, of the methods whose parts are published."""


@pytest.fixture(scope="module")
def costs():
    return {name: method_costs.cost(name) for name in NAMES}


def test_the_counts_of_the_page_are_those_of_the_code(costs):
    assert method_costs.render(PAGE, costs) == PAGE, REMEDY


@pytest.mark.parametrize("name", BY_HAND)
def test_counts_agree_with_a_count_by_hand(name, costs):
    assert costs[name].trained == BY_HAND[name]


def test_decoders_agree_with_a_count_by_hand(costs):
    embed, width, inner, layers, stages = 512, 256, 512, 3, 3
    read = 2 * width * width + 2 * (width * width + width) + width  # query, key; value, out; a norm without bias
    think = 2 * width * inner + inner + width + 2 * width
    decoder = (2 * embed * width + width) + (embed * width + width) + layers * (read + think) + width
    assert costs["cascade_clip"].groups["image"]["decoders"] == stages * decoder
    assert costs["cascade_clip"].trained == stages * (decoder + STAGE + 1) + 8


def test_new_parameters_of_multilayer_are_those_of_its_documents(costs):
    groups = costs["multilayer"].groups["image"]
    assert groups["prompts"] + groups["nga"] + groups["segment_weights"] == 49_160


def test_passes_are_counted_as_the_methods_ask_for_them(costs):
    assert costs["lafter"].step_passes == (1, 1), "the teacher's and the student's"
    assert costs["lafter"].backward
    assert costs["cascade_clip"].label_passes == 6
    assert not costs["cascade_clip"].backward
    assert costs["zero_shot"].predict_passes == 1
    # 50 tokens, 12 blocks: 12 D^2 multiplications a token and 2 N D for its attention, patches, projection.
    tower = 12 * 50 * (12 * 768**2 + 2 * 50 * 768) + 49 * 3 * 32**2 * 768 + 768 * 512
    assert costs["zero_shot"].predict_flops == pytest.approx(2 * tower, rel=1e-4)


def test_the_page_has_a_section_and_a_figure_for_each_method():
    assert sorted(re.findall(r"(?m)^## (\w+)$", PAGE)) == sorted(NAMES)
    assert set(draw_methods.DRAWINGS) == set(NAMES)
    for name in NAMES:
        assert f"](figures/method_{name}.svg)" in PAGE
        assert (ROOT / "docs" / "figures" / f"method_{name}.svg").read_text(encoding="utf-8").startswith("<?xml")


@pytest.mark.parametrize("name", NAMES)
def test_figures_have_no_overlaps_and_no_loose_ends(name):
    drawing = draw_methods.DRAWINGS[name]
    boxes = {box.key: box for box in drawing.boxes}
    assert len(boxes) == len(drawing.boxes), "a key twice"
    ends = [re.split(r"[>~:)]", arrow) for arrow in drawing.arrows.split()]
    assert {key for pair in ends for key in pair} == set(boxes), "a box without arrow, or an arrow without box"
    placed = list(boxes.values())
    for number, one in enumerate(placed):
        for other in placed[number + 1 :]:
            beside = abs(one.at[0] - other.at[0]) * draw_methods.COLUMN >= draw_methods.WIDE
            above = abs(one.at[1] - other.at[1]) >= (one.high + other.high) / 2 - 0.3
            assert beside or above, f"{one.key} and {other.key} overlap"
