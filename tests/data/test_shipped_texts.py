"""The descriptions in the package: readable, balanced, each once, whole for the text tower, naming no emotion."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from hybridcascade.backbone.token_count import CONTEXT, token_counts
from hybridcascade.data.emotions import EKMAN6_NEUTRAL, MIKELS8
from hybridcascade.data.text_checks import inflections, named_classes, sentence_key
from hybridcascade.data.texts import DESCRIPTION_SETS, META_KEY, description_file, read_descriptions
from hybridcascade.encoded import choose_texts
from hybridcascade.errors import TextError

CLASSES = {"mikels8": MIKELS8.classes, "ekman6_neutral": EKMAN6_NEUTRAL.classes}
ALL = tuple(dict.fromkeys(MIKELS8.classes + EKMAN6_NEUTRAL.classes))


def faults(texts: dict[str, list[str]], least: int = 40) -> list[str]:
    """What is wrong with a set of descriptions, in words; the rules that the shipped ones must pass."""
    found = [f"{name}: {len(rows)} sentences" for name, rows in texts.items() if len(rows) < least]
    if len({len(rows) for rows in texts.values()}) > 1:
        found.append("unequal numbers")
    everything = [text for rows in texts.values() for text in rows]
    keys = [sentence_key(text) for text in everything]
    found += [f"twice: {text}" for text, key in zip(everything, keys, strict=True) if keys.count(key) > 1]
    longest = zip(everything, token_counts(everything), strict=True)
    found += [f"{count} tokens: {text}" for text, count in longest if count > CONTEXT]
    # no sentence may name any emotion, its own included: the names are the templates' part
    found += [f"{named}: {text}" for text in everything if (named := named_classes(text, "", ALL))]
    lengths = {name: statistics.mean(token_counts(rows)) for name, rows in texts.items()}
    if max(lengths.values()) > 1.25 * min(lengths.values()):
        found.append(f"unequal lengths: {lengths}")
    return found


@pytest.mark.parametrize("name", DESCRIPTION_SETS)
def test_a_shipped_set_is_clean_and_complete(name: str) -> None:
    texts = read_descriptions(name, CLASSES[name])
    assert tuple(texts) == CLASSES[name]
    assert faults(texts) == []
    raw = json.loads(description_file(name).read_text(encoding="utf-8"))
    assert set(raw) == {META_KEY, *CLASSES[name]}, "in the order and with the names of the emotion space"
    assert {"about", "provenance", "license", "date"} <= set(raw[META_KEY])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t["awe"].pop(), "39 sentences"),
        (lambda t: t["awe"].__setitem__(0, t["fear"][3].upper() + " "), "twice"),
        (lambda t: t["awe"].__setitem__(0, "a long way " * 40), "tokens"),
        (lambda t: t["awe"].__setitem__(0, "A crowd of amused people."), "amusement"),
        (lambda t: t["awe"].__setitem__(0, "An angrily written letter."), "anger"),
        (lambda t: t.__setitem__("awe", [f"Wide sky {i}" for i in range(40)]), "unequal lengths"),
    ],
)
def test_each_rule_finds_a_planted_fault(change, said: str) -> None:
    texts = read_descriptions("mikels8", MIKELS8.classes)
    change(texts)
    assert any(said in fault for fault in faults(texts))


def test_a_sentence_of_a_shared_class_is_the_same_in_both_sets() -> None:
    mikels, ekman = (read_descriptions(name, CLASSES[name]) for name in ("mikels8", "ekman6_neutral"))
    shared = set(mikels) & set(ekman)
    assert shared == {"anger", "disgust", "fear", "sadness"}
    assert all(mikels[name] == ekman[name] for name in shared)


def test_a_set_is_chosen_by_name_and_a_file_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = choose_texts(["Fear", "awe"], "lafter", descriptions="mikels8")
    described = [text for text in texts if text.kind == "description"]
    assert len(described) == 80
    assert {text.label for text in described} == {0, 1}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mikels8").write_text('{"awe": ["mine"], "Fear": ["mine too"]}')
    assert read_descriptions("./mikels8", ["awe"]) == {"awe": ["mine"]}
    assert len(read_descriptions("mikels8", ["awe"])["awe"]) == 40
    with pytest.raises(TextError, match="or name a set: mikels8, ekman6_neutral"):
        read_descriptions("mikels9", ["awe"])


def test_a_note_is_passed_over_but_a_class_of_that_name_is_read(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text('{"_meta": {"model": "m"}, "awe": ["x"], "fear": ["y"]}')
    assert read_descriptions(path, ["awe", "fear"]) == {"awe": ["x"], "fear": ["y"]}
    path.write_text('{"_meta": ["a sentence"], "awe": ["x"]}')
    assert read_descriptions(path, ["_meta", "awe"])["_meta"] == ["a sentence"]


def test_inflections_and_names() -> None:
    for name, forms in {
        "amusement": "amuse amused amusing", "contentment": "content contented", "excitement": "excited exciting",
        "awe": "awed awestruck", "anger": "angry angered", "disgust": "disgusted disgusting", "fear": "feared fearful",
        "sadness": "sad sadly sadder", "joy": "joyful enjoyed", "surprise": "surprised surprising", "box": "boxes",
        "puppy": "puppies",
    }.items():  # fmt: skip
        assert set(forms.split()) <= inflections(name), name
    assert not inflections("cat") & {"catch", "cattle", "category"}
    assert named_classes("A Polar-Bear on ice", "fox", ["polar_bear", "fox"]) == ["polar_bear"]
    assert named_classes("A polar bear on ice", "polar_bear", ["polar_bear", "bear"]) == []
    assert named_classes("A polar bear and a brown bear", "polar bear", ["polar bear", "bear"]) == ["bear"]
    assert named_classes("Two polar bears", "bear", ["polar bear", "bear"]) == ["polar bear"]
    assert named_classes("Fearsome", "fear", ["fear", "awe"]) == []
