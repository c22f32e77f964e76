"""Order, augmentation and targets depend on (seed, epoch, row) alone."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from hybridcascade.data.loaders import (
    EpochSampler,
    SampleKey,
    image_loader,
    mixed_seed,
    target_loader,
    unlabeled_loader,
)
from hybridcascade.data.sources import MemorySource, join_sources, open_pictures, open_source
from hybridcascade.data.views import plain_view, strong_view
from hybridcascade.errors import DataError, SettingsError
from hybridcascade.types import ImageBatch, TargetBatch, UnlabeledBatch

PLAIN = plain_view(16)


def memory(n=23, size=16):
    rng = np.random.default_rng(0)
    votes = rng.random((n, 3)) + 0.01
    images = rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    return MemorySource(images, [f"p{i}" for i in range(n)], votes, ("a", "b", "c"))


def by_id(loader, epoch=0):
    loader.sampler.set_epoch(epoch)
    rows = {}
    for batch in loader:
        for i, name in enumerate(batch.ids):
            target = batch.target[i] if isinstance(batch, TargetBatch) else None
            rows[name] = (int(batch.index[i]), batch.plain[i], batch.strong[i], target)
    return rows


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name][0] == b[name][0]
        assert torch.equal(a[name][1], b[name][1])
        # Batched arithmetic may round by an ulp when a picture sits elsewhere in the batch.
        torch.testing.assert_close(a[name][2], b[name][2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_workers_change_nothing(kind, tmp_path):
    source = memory()
    if kind == "files":
        for i in range(len(source)):
            source.open(i).resize((40, 30)).save(tmp_path / f"{i:02d}.png")
        source = open_source(tmp_path)
    strong = strong_view("lafter", 16)
    loaders = [unlabeled_loader(source, PLAIN, strong, 5, seed=7, workers=w) for w in (0, 2)]
    for epoch in (0, 1):
        torch.manual_seed(epoch)
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
        for one, two in zip(*loaders, strict=True):
            assert one.ids == two.ids
            assert torch.equal(one.plain, two.plain)
            assert torch.equal(one.strong, two.strong)


@pytest.mark.slow  # a spawned worker imports torch anew
def test_spawned_workers_work():
    source = memory(6)
    loader = unlabeled_loader(source, PLAIN, strong_view("lafter", 16), 4, seed=7)
    expected = list(loader)
    dataset = pickle.loads(pickle.dumps(loader.dataset))
    again = torch.utils.data.DataLoader(
        dataset,
        batch_size=4,
        sampler=loader.sampler,
        num_workers=1,
        collate_fn=loader.collate_fn,
        multiprocessing_context="spawn",
    )
    for one, two in zip(expected, again, strict=True):
        assert one.ids == two.ids
        assert torch.equal(one.strong, two.strong)


def test_order_changes_neither_view_nor_target():
    source = memory()
    targets = source.targets(("a", "b", "c"))
    strong = strong_view("lafter", 16)
    shuffled = by_id(target_loader(source, targets, PLAIN, strong, 4, seed=3))
    ordered = by_id(target_loader(source, targets, PLAIN, strong, 9, seed=3, shuffle=False))
    same(shuffled, ordered)
    for row, sample in enumerate(source.samples):
        votes = torch.tensor(sample.votes)
        for rows in (shuffled, ordered):
            assert rows[sample.id][0] == row
            torch.testing.assert_close(rows[sample.id][3], votes / votes.sum())


def test_seed_and_epoch_change_views_and_order():
    loader = unlabeled_loader(memory(), PLAIN, strong_view("affect_safe", 16), 23, seed=3)
    other = unlabeled_loader(memory(), PLAIN, strong_view("affect_safe", 16), 23, seed=4)
    first, second, third = by_id(loader), by_id(loader, epoch=1), by_id(other)
    for later in (second, third):
        moved = [not torch.equal(first[name][2], later[name][2]) for name in first]
        assert np.mean(moved) > 0.9
        assert all(torch.equal(first[name][1], later[name][1]) for name in first)
    loader.sampler.set_epoch(0)
    order = next(iter(loader)).ids
    loader.sampler.set_epoch(1)
    assert next(iter(loader)).ids != order


def test_iterating_does_not_touch_the_global_random_state():
    state = torch.get_rng_state()
    list(unlabeled_loader(memory(), PLAIN, strong_view("lafter", 16), 5, seed=0))
    list(image_loader(memory(), PLAIN, 5))
    assert torch.equal(state, torch.get_rng_state())


def test_batches_without_targets_have_no_field_for_them():
    batch = next(iter(unlabeled_loader(memory(), PLAIN, None, 5, seed=0)))
    assert type(batch) is UnlabeledBatch
    assert not hasattr(batch, "target")
    assert torch.equal(batch.plain, batch.strong)


def test_image_loader_is_in_order_and_complete():
    source = memory()
    batches = list(image_loader(source, PLAIN, 5))
    assert all(type(batch) is ImageBatch for batch in batches)
    assert tuple(name for batch in batches for name in batch.ids) == source.ids
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(23))
    pictures = torch.cat([batch.images for batch in batches])
    assert torch.equal(pictures, torch.stack([PLAIN(source.open(i)) for i in range(23)]))


def test_memory_of_another_size_is_resized_as_the_plain_view_does():
    source = memory(4, size=20)
    batch = next(iter(image_loader(source, PLAIN, 4)))
    assert torch.equal(batch.images, torch.stack([PLAIN(source.open(i)) for i in range(4)]))


def test_the_same_pictures_as_files_and_in_memory_give_the_same_views(tmp_path):
    source = memory(5)
    for i in range(5):
        source.open(i).save(tmp_path / f"p{i}.png")
    strong = strong_view("lafter", 16)
    same(
        {
            k.removesuffix(".png"): v
            for k, v in by_id(unlabeled_loader(open_source(tmp_path), PLAIN, strong, 5, 1)).items()
        },
        by_id(unlabeled_loader(source, PLAIN, strong, 5, 1)),
    )


def test_drop_last_and_length():
    assert len(unlabeled_loader(memory(), PLAIN, None, 5, 0)) == 5
    assert len(unlabeled_loader(memory(), PLAIN, None, 5, 0, drop_last=True)) == 4


def test_sampler_shares_rows_between_ranks(monkeypatch):
    import hybridcascade.data.loaders as module

    whole = EpochSampler(10, seed=1).order()
    shares = []
    for rank in range(4):
        monkeypatch.setattr(module, "_rank", lambda rank=rank: (rank, 4))
        sampler = EpochSampler(10, seed=1)
        shares.append([key.row for key in sampler])
        assert len(sampler) == len(shares[-1]) == 3
    assert {row for share in shares for row in share} == set(range(10))
    assert shares[1][0] == whole[1]


def test_sampler_is_a_permutation_by_seed_and_epoch():
    sampler = EpochSampler(50, seed=2)
    sampler.set_epoch(3)
    keys = list(sampler)
    assert sorted(key.row for key in keys) == list(range(50))
    assert {key.epoch for key in keys} == {3}
    again = EpochSampler(50, seed=2)
    again.set_epoch(3)
    assert list(again) == keys
    again.set_epoch(4)
    assert [key.row for key in again] != [key.row for key in keys]


def test_mixed_seeds_do_not_collide_nearby():
    seeds = {mixed_seed(s, e, r) for s in range(5) for e in range(20) for r in range(200)}
    assert len(seeds) == 5 * 20 * 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert SampleKey(1, 2) == (1, 2)


@pytest.mark.parametrize(
    "targets", [torch.full((22, 3), 1 / 3), torch.ones(23, 3), torch.tensor([[float("nan")] * 3] * 23)]
)
def test_targets_that_do_not_fit_are_refused(targets):
    with pytest.raises(DataError, match="expected"):
        target_loader(memory(), targets, PLAIN, None, 5, 0)


@pytest.mark.parametrize(("batch_size", "workers"), [(0, 0), (4, -1)])
def test_unusable_numbers_are_refused(batch_size, workers):
    with pytest.raises(SettingsError, match="expected"):
        unlabeled_loader(memory(), PLAIN, None, batch_size, 0, workers=workers)


def test_pictures_of_many_sizes_can_be_predicted_together(tmp_path):
    Image.new("RGB", (30, 20), (9, 9, 9)).save(tmp_path / "a.png")
    source = join_sources([memory(3), open_pictures([tmp_path / "a.png", Image.new("L", (5, 50))])])
    batch = next(iter(image_loader(source, PLAIN, 10)))
    assert batch.images.shape == (5, 3, 16, 16)
    assert len(set(batch.ids)) == 5
