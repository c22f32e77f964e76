"""Targets belong to samples: what they are made from, who gets one, and that no order changes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from hybridcascade.config_targets import TARGETS
from hybridcascade.data.emotions import MIKELS8
from hybridcascade.data.loaders import target_loader
from hybridcascade.data.pictures import MemorySource, PictureSource, Sample
from hybridcascade.data.priors import prior_matrix
from hybridcascade.data.targets import TARGET_SOURCES, choose_share, choose_shots, make_targets
from hybridcascade.data.views import plain_view
from hybridcascade.errors import ClassListError, DataError, SettingsError, UnknownNameError

CLASSES = ("awe", "fear", "joy")
VOTED = Sample("voted.png", None, (2.0, 6.0, 2.0))
TIED = Sample("tied.png", 2, (0.0, 5.0, 5.0))
LABELLED = Sample("labelled.png", 2)
BARE = Sample("bare.png")
PRIOR = [[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.0, 0.3, 0.7]]


def source_of(samples: Sequence[Sample], classes: Sequence[str] | None = CLASSES) -> PictureSource:
    source = MemorySource(np.zeros((len(samples), 4, 4, 3), dtype=np.uint8), [s.id for s in samples])
    source.samples, source.classes = tuple(samples), None if classes is None else tuple(classes)
    return source


MIXED = source_of((VOTED, TIED, LABELLED, BARE))


def rows_of(use: str) -> list[list[float]]:
    return [[round(float(v), 6) for v in row] for row in make_targets(MIXED, CLASSES, use, PRIOR).distribution]


def test_each_source_of_targets():
    votes, tied, none = [0.2, 0.6, 0.2], [0.0, 0.5, 0.5], [0.0, 0.0, 0.0]
    assert rows_of("auto") == [votes, tied, PRIOR[2], none]
    assert rows_of("votes") == [votes, tied, none, none]
    assert rows_of("labels") == [PRIOR[1], PRIOR[2], PRIOR[2], none], "the stated label; else the most votes"
    auto = make_targets(MIXED, CLASSES, prior=PRIOR)
    assert auto.origins == ("votes", "votes", "label", "none")
    assert auto.known.tolist() == [True, True, True, False]
    assert auto.counts() == {"votes": 2, "label": 1, "none": 1}
    assert auto.labels.tolist() == [1, 1, 2, -1], "of tied votes the first class"
    assert TARGETS.keys() == TARGET_SOURCES.keys()


def test_without_a_prior_a_label_is_all_on_its_class_and_votes_are_as_in_the_source():
    some = source_of((VOTED, TIED, LABELLED))
    assert torch.equal(make_targets(some, CLASSES).distribution, some.targets(CLASSES))
    smoothed = make_targets(MIXED, CLASSES, vote_smoothing=1.0).distribution
    torch.testing.assert_close(smoothed[0], torch.tensor([3.0, 7.0, 3.0]) / 13)
    assert smoothed[1, 1] == smoothed[1, 2], "ties stay ties"
    assert smoothed[2].tolist() == [0, 0, 1]


def test_columns_follow_the_classes_asked_for():
    order = ("joy", "awe", "fear")
    made = make_targets(MIXED, order, prior=np.eye(3))
    torch.testing.assert_close(made.distribution[:, [1, 2, 0]], make_targets(MIXED, CLASSES).distribution)
    with pytest.raises(ClassListError, match="only the classes awe, fear"):
        make_targets(MIXED, ("awe", "fear"))


def test_every_prior_keeps_the_label_as_the_class_of_the_joint_target():
    samples = [Sample(f"{k}.png", k) for k in range(8)]
    for kind in ("none", "wheel", "wheel_polarity", "exclusion", "smoothing"):
        for sigma in (0.2, 1.0, 30.0):
            prior = prior_matrix(kind, MIKELS8.classes, MIKELS8, sigma, 0.5)
            made = make_targets(source_of(samples, MIKELS8.classes), MIKELS8.classes, prior=prior)
            assert made.labels.tolist() == list(range(8))


def test_what_cannot_be_used_is_told():
    with pytest.raises(DataError, match="a picture with a target, found none of 1"):
        make_targets(source_of((BARE,)), CLASSES)
    with pytest.raises(DataError, match="'votes'"):
        make_targets(source_of((LABELLED,)), CLASSES, "votes")
    with pytest.raises(UnknownNameError, match="Did you mean 'votes'"):
        make_targets(MIXED, CLASSES, "vote")
    with pytest.raises(SettingsError, match="rows that sum to 1"):
        make_targets(MIXED, CLASSES, prior=np.ones((3, 3)))
    with pytest.raises(SettingsError, match="largest share on the label"):
        make_targets(MIXED, CLASSES, prior=np.eye(3)[::-1])
    with pytest.raises(SettingsError, match="choose one"):
        make_targets(MIXED, CLASSES, shots=1, share=0.5)
    for wrong in ({"shots": 0}, {"share": 0.0}, {"share": 1.5}, {"vote_smoothing": -1.0}):
        with pytest.raises(SettingsError, match="expected"):
            make_targets(MIXED, CLASSES, **wrong)


# -- few shots ----------------------------------------------------------------------------------------


def many(count: int = 60) -> PictureSource:
    return source_of([Sample(f"{i}.png", i % 3) for i in range(count)])


def chosen(source: PictureSource, **options: object) -> set[str]:
    made = make_targets(source, CLASSES, **options)  # type: ignore[arg-type]
    return {source.ids[row] for row in made.rows}


def test_shots_are_k_a_class_and_stable():
    source = many()
    four = chosen(source, shots=4, seed=7)
    assert len(four) == 12
    assert sorted(int(name[:-4]) % 3 for name in four) == [0] * 4 + [1] * 4 + [2] * 4
    shuffled = source.take(np.random.default_rng(0).permutation(60).tolist())
    assert chosen(shuffled, shots=4, seed=7) == four, "the order of the pictures plays no part"
    assert chosen(source, shots=2, seed=7) < four, "more shots keep the fewer"
    assert chosen(source, shots=4, seed=8) != four
    without = source.take([row for row in range(60) if row % 3 != 1])
    assert chosen(without, shots=4, seed=7) == {n for n in four if int(n[:-4]) % 3 != 1}, "nor do other classes"
    assert choose_shots(("a", "b", "c"), (0, -1, 0), 5, 0) == [0, 2]


def test_a_class_with_fewer_pictures_gives_all_it_has_and_says_so():
    source = source_of([Sample("a.png", 0), *(Sample(f"{i}.png", 1) for i in range(5))])
    made = make_targets(source, CLASSES, shots=2)
    assert made.counts() == {"votes": 0, "label": 3, "none": 3}
    assert made.remarks == ("fewer than 2 pictures to learn from: awe 1, joy 0",)
    assert made.distribution[~made.known].abs().sum() == 0


def test_a_share_of_the_labels():
    source = many()
    tenth = chosen(source, share=0.1, seed=3)
    assert len(tenth) == 6
    assert tenth < chosen(source, share=0.5, seed=3)
    assert tenth != chosen(source, share=0.1, seed=4)
    assert chosen(source, share=1.0) == set(source.ids)
    assert len(choose_share(("a", "b"), [0, 1], 0.01, 0)) == 1, "at least one"


# -- in the loader ------------------------------------------------------------------------------------


def by_id(source: PictureSource, seed: int, batch: int) -> dict[str, tuple[list[float], bool]]:
    made = make_targets(source, CLASSES, prior=PRIOR)
    view = plain_view(4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    loader = target_loader(source, made.distribution, view, None, batch, seed, known=made.known)
    found = {}
    for part in loader:
        assert part.known is not None
        for name, row, is_known in zip(part.ids, part.target.tolist(), part.known.tolist(), strict=True):
            found[name] = (row, is_known)
    return found


def test_permuting_pictures_and_loader_changes_no_target():
    samples = [
        Sample(f"{i}.png", i % 3 if i % 4 == 0 else None, (i + 1.0, 2.0, i % 5 + 0.5) if i % 4 == 1 else None)
        for i in range(20)
    ]
    source = source_of(samples)
    straight = by_id(source, seed=0, batch=20)
    assert sum(is_known for _, is_known in straight.values()) == 10
    assert straight["1.png"][0] == pytest.approx([2 / 5.5, 2 / 5.5, 1.5 / 5.5])
    assert straight["2.png"] == ([0.0, 0.0, 0.0], False)
    permuted = source.take(np.random.default_rng(1).permutation(20).tolist())
    assert by_id(source, seed=5, batch=3) == straight
    assert by_id(permuted, seed=9, batch=7) == straight


def test_loader_checks_known_rows_only():
    made = make_targets(MIXED, CLASSES)
    view = plain_view(4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(DataError, match=r"bare\.png.*sum to 1"):
        target_loader(MIXED, made.distribution, view, None, 2, 0)
    garbage = made.distribution.clone()
    garbage[3] = 7.0
    batch = next(iter(target_loader(MIXED, garbage, view, None, 4, 0, shuffle=False, known=made.known)))
    assert batch.target[3].tolist() == [0, 0, 0]
    with pytest.raises(DataError, match="bool mask"):
        target_loader(MIXED, made.distribution, view, None, 2, 0, known=made.known[:2])
    assert batch.to("cpu").known.tolist() == [True, True, True, False]
