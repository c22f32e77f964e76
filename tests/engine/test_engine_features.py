"""Stored features: made once, found again, made anew when damaged, kept within a limit."""

import logging
import os
import time

import numpy as np
import pytest
import torch

from hybridcascade.engine.feature_store import FeatureStore, feature_key
from hybridcascade.errors import DataError, SettingsError

SHAPE = (7, 2, 5)


class Tower:
    """Gives features in two batches and counts how often it was asked."""

    def __init__(self, seed=0):
        self.calls = 0
        self.features = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))

    def __call__(self):
        self.calls += 1
        order = torch.tensor([6, 2, 4, 0, 1, 3, 5])
        for index in (order[:4], order[4:]):
            yield index, self.features[index]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("on_disk", [True, False])
def test_rows_come_back_and_are_computed_once(tmp_path, dtype, on_disk):
    tower, store = Tower(), FeatureStore(tmp_path / "new" if on_disk else None)
    table = store.table("k", SHAPE, dtype, tower)
    assert tower.calls == 0, "nothing is computed before it is read"
    index = torch.tensor([5, 0, 5])
    expected = tower.features.to(dtype).float()[index]
    assert torch.equal(table.rows(index), expected)
    assert torch.equal(table.rows(index), expected)
    assert tower.calls == 1
    again = store.table("k", SHAPE, dtype, tower)
    assert torch.equal(again.rows(index), expected)
    assert tower.calls == (1 if on_disk else 2)
    assert len(table) == 7


def test_file_is_numpys_and_nobody_writes_into_it(tmp_path):
    tower, store = Tower(), FeatureStore(tmp_path)
    table = store.table("k", SHAPE, torch.float32, tower)
    table.table()[0] = 9
    np.testing.assert_array_equal(np.load(tmp_path / "k.npy", mmap_mode="r"), tower.features.numpy())
    assert [p.name for p in tmp_path.iterdir()] == ["k.npy"]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text", "other shape"])
def test_damaged_files_are_named_and_made_anew(tmp_path, caplog, damage):
    store = FeatureStore(tmp_path)
    store.table("k", SHAPE, torch.float32, Tower()).table()
    file = tmp_path / "k.npy"
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[-20] ^= 1
    if damage == "other shape":
        store.table("other", (3, 2, 5), torch.float32, lambda: [(torch.arange(3), torch.zeros(3, 2, 5))]).table()
        data = (tmp_path / "other.npy").read_bytes()
    file.write_bytes({"cut": data[:-30], "empty": b"", "text": b"hello " * 99}.get(damage, data))
    tower = Tower()
    with caplog.at_level(logging.WARNING):
        found = store.table("k", SHAPE, torch.float32, tower).table()
    assert tower.calls == 1
    assert torch.equal(found, tower.features)
    assert "k.npy are damaged" in caplog.text
    assert "computed again" in caplog.text


def test_too_large_is_told_before_anything_is_computed(tmp_path):
    tower, shape = Tower(), (50_000, 6, 33_536)
    with pytest.raises(
        SettingsError, match=r"50000 pictures x 6 views x 33536 numbers x 2 bytes = 20.1 GB, more than"
    ) as e:
        FeatureStore(tmp_path, 8.0).table("k", shape, torch.float16, tower)
    for remedy in ("--feature_gb 22", "--set teacher_views=1", "--tune full", "the 8 GB allowed"):
        assert remedy in str(e.value)
    with pytest.raises(
        SettingsError, match=r"more than the 2 GB allowed: take a folder for them \(--feature_cache auto"
    ):
        FeatureStore(None, 100.0).table("k", shape, torch.float16, tower)
    assert tower.calls == 0
    assert list(tmp_path.iterdir()) == []


def test_what_was_used_longest_ago_goes(tmp_path):
    one_file = 7 * 2 * 5 * 4 + 200
    store = FeatureStore(tmp_path, 3 * one_file / 1e9)
    for number, name in enumerate("abc"):
        store.table(name, SHAPE, torch.float32, Tower()).table()
        os.utime(tmp_path / f"{name}.npy", (time.time() - 100 + number,) * 2)
    store.table("a", SHAPE, torch.float32, Tower()).table()  # used again: now b is the oldest
    store.table("d", SHAPE, torch.float32, Tower()).table()
    assert sorted(p.stem for p in tmp_path.iterdir()) == ["a", "c", "d"]


def test_leftovers_of_killed_runs_go_and_those_of_living_ones_stay(tmp_path):
    old, new = tmp_path / ".x.1-ab.part.npy", tmp_path / ".y.2-cd.part.npy"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    FeatureStore(tmp_path).table("k", SHAPE, torch.float32, Tower()).table()
    assert not old.exists()
    assert new.exists()


def test_a_pass_that_fails_leaves_nothing(tmp_path):
    def breaks():
        yield torch.arange(3), torch.zeros(3, 2, 5)
        raise RuntimeError("killed")

    def infinite():
        yield torch.arange(7), torch.full(SHAPE, 1e6)

    store = FeatureStore(tmp_path)
    with pytest.raises(RuntimeError, match="killed"):
        store.table("k", SHAPE, torch.float32, breaks).table()
    with pytest.raises(DataError, match=r"not finite in float16, first in row 0; use --precision fp32"):
        store.table("k", SHAPE, torch.float16, infinite).table()
    rows = [(torch.arange(3), torch.zeros(3, 2, 5))]
    with pytest.raises(DataError, match="got row 3 0 times"):
        store.table("k", SHAPE, torch.float32, lambda: rows).table()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_before_writing(tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    tower = Tower()
    with pytest.raises(SettingsError, match="another disk"):
        FeatureStore(tmp_path).table("k", SHAPE, torch.float32, tower).table()
    assert tower.calls == 0


def test_keys_depend_on_content_and_not_on_order():
    assert feature_key({"a": 1, "b": [2]}) == feature_key({"b": [2], "a": 1})
    assert feature_key({"a": 1}) != feature_key({"a": 2})
