"""The geometry of emotions against tables written down here, not computed with the library's own formula."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from hybridcascade.data.emotions import (
    EKMAN6,
    EKMAN6_NEUTRAL,
    FERPLUS8,
    MIKELS8,
    SPACES,
    EmotionSpace,
    find_space,
    read_space,
)
from hybridcascade.data.priors import PRIORS, prior_matrix, votes_to_distribution
from hybridcascade.errors import DataError, HybridCascadeError, SettingsError, UnknownNameError

MIKELS_STEPS = """
0 2 1 3 1 2 4 3
2 0 1 1 3 4 2 3
1 1 0 2 2 3 3 4
3 1 2 0 4 3 1 2
1 3 2 4 0 1 3 2
2 4 3 3 1 0 2 1
4 2 3 1 3 2 0 1
3 3 4 2 2 1 1 0
"""
"""Rows and columns: amusement, awe, contentment, excitement, anger, disgust, fear, sadness."""

PLEASANT = MIKELS8.classes[:4]


def table(text):
    return [[int(number) for number in line.split()] for line in text.strip().splitlines()]


def test_class_orders():
    assert MIKELS8.classes == (
        "amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness",
    )  # fmt: skip
    assert EKMAN6.classes == ("anger", "disgust", "fear", "joy", "sadness", "surprise")
    assert EKMAN6_NEUTRAL.classes == (*EKMAN6.classes, "neutral")
    assert FERPLUS8.classes[:3] == ("neutral", "happiness", "surprise")
    assert list(SPACES) == ["mikels8", "ekman6", "ekman6_neutral", "ferplus8"]


def test_mikels_steps_equal_the_table():
    assert [list(row) for row in MIKELS8.matrix("steps")] == table(MIKELS_STEPS)
    assert MIKELS8.steps("awe", "fear") == 2
    assert MIKELS8.steps("fear", "excitement") == MIKELS8.steps("fear", "sadness") == 1
    assert [list(row) for row in MIKELS8.matrix("distance")] == [[n + 1 for n in row] for row in table(MIKELS_STEPS)]


def test_polarity_distance_puts_opposites_farther_than_any_alike():
    alike, opposed = [], []
    for a, b in itertools.combinations(MIKELS8.classes, 2):
        crosses = (a in PLEASANT) != (b in PLEASANT)
        value = MIKELS8.polarity_distance(a, b)
        assert value == MIKELS8.steps(a, b) + (4 if crosses else 1)
        (opposed if crosses else alike).append(value)
    assert (max(alike), min(opposed)) == (4, 5)
    assert MIKELS8.polarity_distance("awe", "awe") == 1
    with pytest.raises(SettingsError, match="penalty above the steps"):
        MIKELS8.polarity_distance("awe", "fear", penalty=3)


def test_names_are_matched_as_people_write_them_and_some_classes_may_be_asked_for():
    assert MIKELS8.steps("Awe", "FEAR") == 2
    assert MIKELS8.matrix("steps", ("Sadness", "awe")) == ((0, 3), (3, 0))
    with pytest.raises(UnknownNameError, match="Did you mean 'awe'"):
        MIKELS8.steps("aw", "fear")
    with pytest.raises(UnknownNameError, match="steps, distance, polarity"):
        MIKELS8.matrix("far")


def test_ekman_has_no_ring_until_one_is_chosen():
    with pytest.raises(SettingsError, match=r"mikels_induced: joy, surprise.*mikels_alias"):
        EKMAN6.steps("joy", "fear")
    induced = EKMAN6.with_ring("mikels_induced")
    assert [induced.steps("anger", b) for b in EKMAN6.classes] == [0, 1, 3, 1, 2, 2]
    assert (induced.steps("fear", "joy"), induced.steps("anger", "joy")) == (2, 1)
    alias = EKMAN6.with_ring("mikels_alias")
    for a, b in itertools.product(EKMAN6.classes, repeat=2):
        there = {"joy": "amusement", "surprise": "awe"}
        assert alias.steps(a, b) == MIKELS8.steps(there.get(a, a), there.get(b, b))
    own = EKMAN6.with_ring("fear, Surprise, joy, anger, disgust, sadness")
    assert own.matrix() == induced.matrix(), "the ring read the other way round"
    for ring, message in (("mikels", "mikels_induced"), ("joy,fun", "fun"), ("joy,joy,anger", "each once")):
        with pytest.raises(SettingsError, match=message):
            EKMAN6.with_ring(ring)
    with pytest.raises(SettingsError, match="none"):
        FERPLUS8.steps("fear", "anger")


def test_neutral_is_on_no_ring_and_opposes_nobody():
    space = EKMAN6_NEUTRAL.with_ring("mikels_induced")
    assert {space.steps("neutral", b) for b in EKMAN6.classes} == {3}
    assert space.steps("neutral", "neutral") == 0
    assert not any(space.opposed("neutral", b) for b in space.classes)
    assert space.polarity_distance("neutral", "fear") == 4
    assert EKMAN6_NEUTRAL.with_ring("mikels_alias").polarity_distance("joy", "anger") == 5


def test_user_space_from_yaml(tmp_path: Path):
    file = tmp_path / "moods.yaml"
    file.write_text(
        "classes: [calm, joy, gloom, dread]\nring: [calm, joy, dread, gloom]\n"
        "polarity: {positive: [calm, joy], negative: [gloom]}\n"
    )
    space = find_space(str(file))
    assert (space.name, space.classes) == ("moods", ("calm", "joy", "gloom", "dread"))
    assert space.matrix() == ((0, 1, 1, 2), (1, 0, 2, 1), (1, 2, 0, 1), (2, 1, 1, 0))
    assert space.opposed("joy", "gloom")
    assert not space.opposed("joy", "dread"), "in no list: neither"
    bare = tmp_path / "bare.yaml"
    bare.write_text("name: mine\nclasses: [a, b]\n")
    assert read_space(bare) == EmotionSpace("mine", ("a", "b"))
    assert find_space(str(bare), ring="b,a").steps("a", "b") == 1


BROKEN = {
    "missing file": (None, "mikels8"),
    "not yaml": ("classes: [a", "YAML"),
    "a list": ("- a\n- b", "key: value"),
    "unknown key": ("classes: [a, b]\nrings: [a, b]", "Did you mean 'ring'"),
    "no classes": ("ring: [a, b]", "classes: expected a list of names"),
    "one class": ("classes: [a]", "at least two different"),
    "twice": ("classes: [a b, A_b]", "at least two different"),
    "yaml's no": ("classes: [yes, no]", "quotes"),
    "stranger in the ring": ("classes: [calm, joy]\nring: [calm, joi]", "Did you mean 'joy'"),
    "ring repeats": ("classes: [a, b]\nring: [a, b, a]", "each once"),
    "polarity of nobody": ("classes: [a, b]\npolarity: {positive: [c]}", "Valid: a, b"),
    "polarity twice": ("classes: [a, b]\npolarity: {positive: [a], negative: [a]}", "in two"),
    "polarity misspelt": ("classes: [a, b]\npolarity: {good: [a]}", "positive and negative"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_wrong_files_are_told(name: str, tmp_path: Path):
    text, message = BROKEN[name]
    file = tmp_path / "own.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SettingsError, match=message) as caught:
        find_space(str(file))
    assert isinstance(caught.value, HybridCascadeError)


def test_unknown_space_names_the_valid_ones():
    with pytest.raises(UnknownNameError, match=r"Did you mean 'mikels8'.*ekman6_neutral"):
        find_space("mikels")


# -- priors -----------------------------------------------------------------------------------------------


def naive_row(distances, sigma, epsilon, allowed=None):
    count = len(distances)
    row = [math.exp(-(d**2) / (2 * sigma**2)) / math.sqrt(2 * math.pi * sigma**2) + epsilon / count for d in distances]
    if allowed is not None:
        row = [value if ok else 0.0 for value, ok in zip(row, allowed, strict=True)]
    return [value / sum(row) for value in row]


AMUSEMENT = {
    "none": (1, 0, 0, 0, 0, 0, 0, 0),
    "wheel": (0.374, 0.060, 0.231, 0.015, 0.231, 0.060, 0.011, 0.015),
    "wheel_polarity": (0.515, 0.083, 0.318, 0.021, 0.016, 0.016, 0.016, 0.016),
    "exclusion": (0.549, 0.089, 0.340, 0.023, 0, 0, 0, 0),
    "smoothing": (0.9125, 0.0125, 0.0125, 0.0125, 0.0125, 0.0125, 0.0125, 0.0125),
}
"""The row of amusement at sigma 1, epsilon 0.1."""


@pytest.mark.parametrize("kind", PRIORS)
def test_prior_of_amusement_equals_the_table(kind: str):
    rows = prior_matrix(kind, MIKELS8.classes, MIKELS8)
    np.testing.assert_allclose(rows[0], AMUSEMENT[kind], atol=6e-4)
    np.testing.assert_allclose(rows.sum(axis=1), 1.0, atol=1e-12)
    assert (rows.argmax(axis=1) == np.arange(8)).all()


@pytest.mark.parametrize(("sigma", "epsilon"), [(0.45, 0.0), (1.0, 0.1), (2.5, 0.7)])
def test_priors_equal_a_naive_reference(sigma: float, epsilon: float):
    steps = table(MIKELS_STEPS)
    for k in range(8):
        same = [(j < 4) == (k < 4) for j in range(8)]
        polar = [d if ok else d + 3 for d, ok in zip(steps[k], same, strict=True)]
        expected = {
            "wheel": naive_row(steps[k], sigma, epsilon),
            "wheel_polarity": naive_row(polar, sigma, epsilon),
            "exclusion": naive_row(steps[k], sigma, epsilon, same),
        }
        for kind, row in expected.items():
            found = prior_matrix(kind, MIKELS8.classes, MIKELS8, sigma, epsilon)[k]
            np.testing.assert_allclose(found, row, rtol=1e-12, atol=0)


def test_ekman_rows_are_alike_on_a_correct_ring():
    """A known table had anger at .485 and joy beside it at .025; on a ring every label has the same shape."""
    rows = prior_matrix("wheel", EKMAN6.classes, EKMAN6.with_ring("mikels_induced"))
    assert np.sort(rows, axis=1) == pytest.approx(np.tile(np.sort(rows[0]), (6, 1)))
    np.testing.assert_allclose(np.sort(rows[0])[::-1], (0.379, 0.236, 0.236, 0.065, 0.065, 0.019), atol=6e-4)


def test_priors_follow_the_order_of_the_classes():
    order = (5, 0, 7, 2)
    some = [MIKELS8.classes[k] for k in order]
    whole = prior_matrix("smoothing", MIKELS8.classes, epsilon=0.2)
    assert whole[0, 0] == pytest.approx(0.8 + 0.2 / 8)
    part = prior_matrix("exclusion", some, MIKELS8)
    assert (part > 0).tolist() == [[a // 4 == b // 4 for b in order] for a in order]


def test_wrong_priors_are_told():
    classes = MIKELS8.classes
    with pytest.raises(UnknownNameError, match="Did you mean 'wheel'"):
        prior_matrix("wheels", classes, MIKELS8)
    with pytest.raises(SettingsError, match="--space mikels8"):
        prior_matrix("wheel", classes)
    with pytest.raises(SettingsError, match="a ring"):
        prior_matrix("wheel", EKMAN6.classes, EKMAN6)
    with pytest.raises(UnknownNameError, match="joy"):
        prior_matrix("wheel", ("awe", "joy"), MIKELS8)
    for sigma, epsilon in ((0.0, 0.1), (math.nan, 0.1), (1.0, -0.1), (1.0, math.inf)):
        with pytest.raises(SettingsError, match="sigma above 0"):
            prior_matrix("wheel", classes, MIKELS8, sigma, epsilon)
    with pytest.raises(SettingsError, match="below 1"):
        prior_matrix("smoothing", classes, epsilon=1.0)
    with pytest.raises(SettingsError, match="does not stand out"):
        prior_matrix("wheel", classes, MIKELS8, sigma=1e6)
    with pytest.raises(SettingsError, match="polarity"):
        prior_matrix("wheel_polarity", ("a", "b"), EmotionSpace("mine", ("a", "b"), ("a", "b")))


def test_votes_become_shares_and_ties_stay_ties():
    np.testing.assert_allclose(votes_to_distribution([6, 3, 6]), [0.4, 0.2, 0.4])
    np.testing.assert_allclose(votes_to_distribution([[0, 3], [1, 1]], smoothing=1.0), [[0.2, 0.8], [0.5, 0.5]])
    assert votes_to_distribution([5, 5, 1])[0] == votes_to_distribution([5, 5, 1])[1]
    assert votes_to_distribution([0, 0], smoothing=0.5).tolist() == [0.5, 0.5]
    for votes in ([[1, 2], [0, 0]], [[1, 2], [3, -1]], [[1, 2], [math.nan, 1]]):
        with pytest.raises(DataError, match="row 1"):
            votes_to_distribution(votes)
    with pytest.raises(DataError, match="shape"):
        votes_to_distribution([3])
    with pytest.raises(SettingsError, match="0 or above"):
        votes_to_distribution([1, 2], smoothing=-1)
