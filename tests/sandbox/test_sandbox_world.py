"""The sandbox's world: exact posterior, exact ceiling, pictures that a seed determines."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hybridcascade.sandbox import world
from hybridcascade.sandbox.dataset import make_split
from hybridcascade.sandbox.render import age, render
from hybridcascade.sandbox.texts import COVERAGE, captions, descriptions


def _all_combinations():
    sizes = [len(values) for values in world.ATTRIBUTES.values()]
    return np.array(list(itertools.product(*map(range, sizes))))


def test_conditionals_are_distributions_of_the_declared_values():
    for name, values in world.ATTRIBUTES.items():
        table = world.conditional(name)
        assert table.shape == (8, len(values))
        np.testing.assert_allclose(table.sum(axis=1), 1.0, atol=1e-12)
        assert (table > 0).all()


def test_posterior_equals_brute_force_bayes():
    rng = np.random.default_rng(0)
    combos = _all_combinations()
    chosen = combos[rng.choice(len(combos), 200, replace=False)]
    got = world.posterior(chosen)
    for row, p in zip(chosen, got, strict=True):
        joint = []
        for e in range(8):
            value = 1 / 8
            for j, name in enumerate(world.ATTRIBUTES):
                value *= world.conditional(name)[e][row[j]]
            joint.append(value)
        np.testing.assert_allclose(p, np.array(joint) / sum(joint), rtol=1e-10)


def test_ceiling_equals_the_posterior_s_mean_maximum_over_all_pictures():
    combos = _all_combinations()
    evidence = np.zeros(len(combos))
    for e in range(8):
        likelihood = np.ones(len(combos))
        for j, name in enumerate(world.ATTRIBUTES):
            likelihood *= world.conditional(name)[e][combos[:, j]]
        evidence += likelihood / 8
    assert evidence.sum() == pytest.approx(1.0)
    expected = (evidence * world.posterior(combos).max(axis=1)).sum()
    assert world.bayes_ceiling()["accuracy"] == pytest.approx(expected, abs=1e-9)


def test_drawn_attributes_follow_the_tables():
    attributes, emotions = world.sample_attributes(40_000, seed=5)
    for j, name in enumerate(world.ATTRIBUTES):
        table = world.conditional(name)
        for e in range(8):
            column = attributes[emotions == e, j]
            found = np.bincount(column, minlength=table.shape[1]) / len(column)
            np.testing.assert_allclose(found, table[e], atol=0.04)


def test_posterior_is_calibrated_on_drawn_pictures():
    attributes, emotions = world.sample_attributes(60_000, seed=6)
    p = world.posterior(attributes)
    for low in (0.3, 0.5, 0.7, 0.9):
        chosen = (p.max(1) >= low) & (p.max(1) < low + 0.1)
        assert (p.argmax(1) == emotions)[chosen].mean() == pytest.approx(p.max(1)[chosen].mean(), abs=0.02)


def test_same_seed_same_pictures_and_a_shorter_split_is_a_prefix():
    long, short = make_split("test", 300, "shifted", 3), make_split("test", 270, "shifted", 3)
    assert np.array_equal(long.images[:270], short.images)
    assert long.ids[:270] == short.ids
    assert np.array_equal(long.posterior[:270], short.posterior)
    assert not np.array_equal(long.images[:270], make_split("test", 270, "shifted", 4).images)


def test_splits_share_no_picture():
    sets = [{x.tobytes() for x in make_split(name, 64, "clean", 0).images} for name in ("train", "test", "pretrain")]
    assert len(set.union(*sets)) == 3 * 64


def test_shift_changes_pictures_not_truth_and_grows_with_severity():
    attributes, _ = world.sample_attributes(64, 0)
    clean = render(attributes, 0).astype(float)
    distances = [np.abs(render(attributes, 0, "shifted", s) - clean).mean() for s in (0.0, 0.5, 1.0, 1.5)]
    assert distances[0] == 0
    assert distances == sorted(distances)
    assert distances[2] > 5


@pytest.mark.parametrize("attribute", list(world.ATTRIBUTES))
def test_every_attribute_is_visible(attribute):
    j = list(world.ATTRIBUTES).index(attribute)
    attributes, _ = world.sample_attributes(48, 1)
    attributes[:, j] = 0
    other = attributes.copy()
    other[:, j] = 1
    changed = np.abs(render(attributes, 1).astype(float) - render(other, 1)).mean(axis=(1, 2, 3))
    assert (changed > 0.5).all()


@pytest.mark.parametrize(("arguments", "words"), [(("clean-ish", 1.0), "clean"), (("shifted", -1.0), "severity")])
def test_wrong_render_arguments(arguments, words):
    attributes, _ = world.sample_attributes(2, 0)
    with pytest.raises(ValueError, match=words):
        render(attributes, 0, *arguments)


def test_wrong_split_arguments():
    with pytest.raises(ValueError, match="pretrain"):
        make_split("valid", 3, "clean", 0)
    with pytest.raises(ValueError, match="seed"):
        make_split("train", 3, "clean", -1)


def test_aging_in_chunks_equals_aging_at_once_but_for_the_grain():
    x = np.full((6, 64, 64, 3), 0.5, dtype=np.float32)
    whole, part = age(x, 9), age(x[4:], 9, start=4)
    assert np.abs(whole[4:] - part).mean() < 0.04
    assert np.abs(whole[4:].mean((1, 2)) - part.mean((1, 2))).max() < 0.005


def test_captions_name_attributes_as_often_as_the_coverage_says():
    attributes, emotions = world.sample_attributes(6000, 2)
    told = captions(attributes, emotions, seed=1)
    palettes = world.ATTRIBUTES["palette"]
    named = np.mean([palettes[a[0]] in text for a, text in zip(attributes, told, strict=True)])
    felt = np.mean([world.EMOTIONS[e] in text for e, text in zip(emotions, told, strict=True)])
    assert named == pytest.approx(COVERAGE["palette"], abs=0.03)
    assert felt == pytest.approx(COVERAGE["emotion"], abs=0.03)
    assert captions(attributes, emotions, seed=1) == told


def test_descriptions_have_laftersform_and_are_balanced():
    texts = descriptions()
    assert tuple(texts) == world.EMOTIONS
    assert {len(sentences) for sentences in texts.values()} == {25}
    for emotion, sentences in texts.items():
        others = [name for name in world.EMOTIONS if name != emotion]
        assert not any(name in sentence for name in others for sentence in sentences)


def test_votes_follow_the_posterior():
    p = world.posterior(world.sample_attributes(50, 0)[0])
    votes = world.draw_votes(p, 4000, seed=0)
    assert (votes.sum(1) == 4000).all()
    np.testing.assert_allclose(votes / 4000, p, atol=0.04)
