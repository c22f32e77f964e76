"""The real pictures, where they are at hand: they are no part of the repository."""

import os
from pathlib import Path

import numpy as np
import pytest

from hybridcascade.data.loaders import image_loader
from hybridcascade.data.sources import drop_unreadable, open_source, scan_pictures
from hybridcascade.data.views import plain_view

ROOT = Path(os.environ.get("HYBRIDCASCADE_SHARED_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))
SEVEN = ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral")

pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason=f"no pictures at {ROOT} (HYBRIDCASCADE_SHARED_DATA)")


def test_oasis_zip_is_270_readable_unlabelled_pictures():
    source = open_source(ROOT / "oasis" / "oasis_subset270.zip")
    assert len(source) == 270
    assert source.classes is None
    assert "images/Acorns 2.jpg" in source.ids
    # One of the full set is a PNG named .jpg: the ending does not decide how it is decoded.
    assert scan_pictures(source.take(range(0, 270, 9))) == []


def test_oasis_manifest_and_folder_agree():
    source = open_source(ROOT / "oasis" / "manifest.csv", ("negative", "neutral", "positive"))
    assert len(source) == 270
    assert source.targets(source.classes).sum(dim=0).min() > 10
    folder = open_source(ROOT / "oasis")
    assert folder.ids == source.ids
    assert folder.classes == ("negative", "neutral", "positive")


def test_emotion6_manifest_has_distributions():
    source = open_source(ROOT / "emotion6" / "manifest.csv")
    assert source.classes == SEVEN
    assert len(source) == 432
    targets = source.targets(SEVEN)
    assert targets.shape == (432, 7)
    np.testing.assert_allclose(targets.sum(dim=1), 1.0, atol=1e-6)
    first = source.ids.index("images/anger/3.jpg")
    np.testing.assert_allclose(targets[first, 0], 0.522222, atol=1e-5)
    # Columns follow the classes that are asked for.
    assert (source.targets(SEVEN[::-1]).flip(1) == targets).all()
    stated = source.labels(SEVEN)
    assert (stated == targets.argmax(dim=1)).float().mean() > 0.95
    parts = [open_source(ROOT / "emotion6" / "manifest.csv", SEVEN, split=s) for s in ("train", "val", "test")]
    assert sum(len(part) for part in parts) == 432


def test_emotion6_pictures_load():
    source = open_source(ROOT / "emotion6" / "manifest.csv").take(range(0, 432, 36))
    good, problems = drop_unreadable(source)
    assert problems == []
    batches = list(image_loader(good, plain_view(64), 5, workers=2))
    assert tuple(name for batch in batches for name in batch.ids) == source.ids
    assert all(batch.images.shape[1:] == (3, 64, 64) for batch in batches)


def test_split_and_class_folders_inside_a_zip():
    source = open_source(ROOT / "cifar10" / "cifar10_subset12000.zip", split="test")
    assert len(source) == 2000
    assert len(source.classes) == 10
    assert source.targets(source.classes).sum(dim=0).tolist() == [200.0] * 10


def test_grey_pictures_among_coloured_ones():
    source = open_source(ROOT / "caltech101" / "manifest.csv", split="test")
    assert len(source) == 400
    assert {source.open(row).mode for row in range(0, 400, 20)} == {"RGB"}
