"""The heads phase end to end: the same as on pictures with the tower frozen, cheaper, resumable, cached."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

import hybridcascade as hc
from hybridcascade.backbone.loading import load_backbone
from hybridcascade.compose import build_method, plain_view_of, tune
from hybridcascade.data.loaders import PictureBatches, image_loader, unlabeled_loader
from hybridcascade.data.sources import MemorySource
from hybridcascade.data.stored import stored_view
from hybridcascade.encoded import choose_texts, encode_texts
from hybridcascade.engine import run as engine_run
from hybridcascade.engine.feature_store import FeatureStore
from hybridcascade.engine.folder import RunFolder
from hybridcascade.engine.run import StoredData
from hybridcascade.errors import HybridCascadeError, SettingsError
from hybridcascade.methods.base import FeatureNeeds
from hybridcascade.methods.parts import mild_views
from hybridcascade.methods.settings import PhaseDefaults
from hybridcascade.stored_features import feature_layout, feature_table, stored_data, view_features
from hybridcascade.types import LossReport

CLASSES = ("awe", "fear", "calm joy")
ROWS, SEED = 10, 4
PLAIN = {"text": PhaseDefaults(0, 1e-3, 0.0, 1), "heads": PhaseDefaults(3, 1e-2, 0.01, 4)}
WARM = PLAIN | {"image": PhaseDefaults(2, 1e-3, 0.01, 4)}
SETTINGS = {"predict_views": 2, "teacher_views": 3, "teacher": "ema"}


@pytest.fixture(scope="module")
def source() -> MemorySource:
    pixels = np.random.default_rng(0).integers(0, 255, (ROWS, 64, 64, 3), dtype=np.uint8)
    return MemorySource(pixels, [f"{row}.png" for row in range(ROWS)])


@pytest.fixture
def parts(offline_world: None):
    backbone = load_backbone("nano", "fp32")
    texts = encode_texts(backbone, choose_texts(CLASSES, "hybrid_cascade"), None)
    backbone.drop_text()
    return backbone, texts


def method_of(parts, name="hybrid_cascade", **settings):
    backbone, texts = parts
    settings = (SETTINGS if name == "hybrid_cascade" else {}) | settings
    return build_method(name, copy.deepcopy(backbone), texts, len(CLASSES), SEED, settings)


def state(method):
    return {name: value.clone() for name, value in method.state_dict().items()}


def note_starts(method):
    """The state of a method after each `begin_phase`, by phase, once it has run."""
    seen, begin = {}, method.begin_phase

    def note(phase, plain, targets=None):
        begin(phase, plain, targets)
        seen[phase] = state(method)

    method.begin_phase = note
    return seen


class Viewed:
    """Batches of pictures whose strong view is the stored view's picture: what the heads phase stands for."""

    def __init__(self, loader: DataLoader, views: int) -> None:
        self.loader, self.views, self.sampler = loader, views, loader.sampler

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self):
        for batch in self.loader:
            views = torch.stack(mild_views(batch.plain, self.views), dim=1)
            chosen = [stored_view(SEED, self.sampler.epoch, int(row), self.views) for row in batch.index]
            strong = views[torch.arange(len(batch)), torch.tensor(chosen)]
            yield type(batch)(batch.index, batch.ids, batch.plain, strong)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("hybrid_cascade", {}), ("cascade_clip", {"teacher_views": 3, "predict_views": 2, "teacher": "ema"})],
)
def test_heads_on_stored_features_are_heads_on_pictures_with_a_frozen_tower(parts, source, name, settings):
    method, reference = (method_of(parts, name, **settings) for _ in range(2))
    before = note_starts(method)
    records = tune(method, PLAIN, parts[1], source, seed=SEED)
    assert [record.phase for record in records] == ["text", "heads"][-len(method.phases) :]

    views = reference.feature_needs().views
    assert views == 3
    view = plain_view_of(reference.backbone)
    pictures = Viewed(unlabeled_loader(source, view, None, 4, SEED), views)
    plain = image_loader(source, view, 5)
    reference.fit_input(image_loader(source, view, 5))
    expected = engine_run.run_phases(
        reference, PLAIN, parts[1].batch, seed=SEED, accelerator="cpu", stored=StoredData(pictures, plain)
    )
    after, wanted = state(method), state(reference)
    assert after.keys() == wanted.keys()
    if name == "hybrid_cascade":
        for key in after:
            torch.testing.assert_close(after[key], wanted[key], atol=2e-4, rtol=2e-4, msg=key)
    # Silent decoders give sigmas gradients near 0, whose rounding AdamW blows up: there the function must agree.
    images = next(iter(image_loader(source, view, ROWS))).images
    with torch.no_grad():
        one, other = (made.eval()(images).probabilities for made in (method, reference))
    torch.testing.assert_close(one, other, atol=2e-3, rtol=0)
    for mine, other in zip(records[-1].history, expected[-1].history, strict=True):
        assert mine.loss == pytest.approx(other.loss, abs=1e-4)
    named = dict(method.named_parameters())
    changed = {name for name in named if not torch.equal(before["heads"][name], after[name])}
    assert changed == method.trainable_names("heads")
    assert changed <= method.trainable_names("image")
    assert not [name for name in changed if name.startswith(("backbone.", "prompts."))]


@pytest.mark.parametrize(
    ("name", "settings"), [("hybrid_cascade", {}), ("cascade_clip", {"teacher_views": 2, "predict_views": 2})]
)
def test_warm_start_goes_on_from_the_heads(parts, source, name, settings):
    heads, warm = (method_of(parts, name, **settings) for _ in range(2))
    tune(heads, PLAIN, parts[1], source, seed=SEED, view="affect_safe")
    seen = note_starts(warm)
    records = tune(warm, WARM, parts[1], source, seed=SEED, view="affect_safe")
    assert [record.phase for record in records] == [*warm.phases[:-1], "heads", "image"]
    after = state(heads)
    for name in heads.trainable_names("heads"):
        assert torch.equal(seen["image"][name], after[name]), name
        assert not torch.equal(seen["heads"][name], after[name]), name
    assert torch.equal(seen["image"]["teacher_labels"], after["teacher_labels"])
    assert [r.loss for r in records[-2].history] != [r.loss for r in records[-1].history]
    changed = {n for n, p in warm.named_parameters() if not torch.equal(p, after[n])}
    assert changed == warm.trainable_names("image")


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    ("name", "phase", "step"),
    [("hybrid_cascade", "heads", 4), ("hybrid_cascade", "image", 4), ("cascade_clip", "image", 4)],
)
def test_a_run_that_was_cut_ends_as_the_undisturbed_one(parts, source, tmp_path, name, phase, step):
    whole = method_of(parts, name)
    tune(whole, WARM, parts[1], source, seed=SEED, view="affect_safe")
    cut = method_of(parts, name)
    loss = cut.training_loss

    def stop(at_phase, batch, at):
        if (at_phase, at) == (phase, step):
            raise Stop
        return loss(at_phase, batch, at)

    cut.training_loss = stop
    folder = RunFolder.create(tmp_path / "run")
    with pytest.raises(Stop):
        tune(cut, WARM, parts[1], source, seed=SEED, view="affect_safe", folder=folder)
    again = method_of(parts, name)
    records = tune(again, WARM, parts[1], source, seed=SEED, view="affect_safe", folder=folder, resume=True)
    assert {r.phase: r.status for r in records}[phase] == "resumed"
    own, other = state(again), state(whole)
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)
    cold = {name: WARM[name] for name in ("text", "image")}
    with pytest.raises(SettingsError, match=r"phases was \[.*'heads', 'image'\], is now \[[^h]*'image'\]"):
        tune(method_of(parts, name), cold, parts[1], source, seed=SEED, folder=folder, resume=True)


def test_a_solved_phase_is_not_solved_again(parts, source, tmp_path, caplog):
    targets = torch.eye(3)[torch.arange(ROWS) % 3]
    one, two = (method_of(parts, "linear_probe") for _ in range(2))
    folder = RunFolder.create(tmp_path / "run")
    first = tune(one, {}, parts[1], source, targets=targets, folder=folder)
    assert [(r.phase, r.status, r.epochs) for r in first] == [("heads", "trained", 1)]
    assert "regularisation" in folder.read_metrics()[0].scalars

    def never(phase):
        raise AssertionError("solved again")

    two.solve = never
    second = tune(two, {}, parts[1], source, targets=targets, folder=folder, resume=True)
    assert [(r.phase, r.status) for r in second] == [("heads", "already finished")]
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    for changes, message in (
        ((), "Declared but unchanged: head.bias"),
        (("head.weight", "head.bias", "backbone.visual.ln_post.bias"), "not declared: backbone.visual.ln_post.bias"),
    ):
        wrong = method_of(parts, "linear_probe")
        wrong.solve = moving(wrong, changes)
        with pytest.raises(HybridCascadeError, match=message):
            tune(wrong, {}, parts[1], source, targets=targets)


def moving(method, names):
    """A `solve` that changes these parameters."""

    def solve(phase):
        for name in names:
            method.get_parameter(name).add_(1)
        return LossReport(torch.zeros(()), {})

    return solve


def test_a_heads_step_is_far_cheaper_than_an_image_step(parts, source):
    method = method_of(parts)
    needs = method.feature_needs()
    method.backbone.stored_layout = feature_layout(method.backbone, needs)
    view = plain_view_of(method.backbone)
    table = feature_table(method.backbone, needs, source, view, FeatureStore(), torch.device("cpu"))
    stored = stored_data(table, source.ids, 4, SEED)
    method.begin_phase("heads", stored.plain)
    pictures = next(iter(unlabeled_loader(source, view, None, 4, SEED)))
    costs = {}
    for phase, batch in (("heads", next(iter(stored.batches))), ("image", pictures)):
        method.requires_grad_(False)
        for name in method.trainable_names(phase):
            method.get_parameter(name).requires_grad_(True)
        with FlopCounterMode(display=False) as counter:
            method.training_loss(phase, batch, 0).loss.backward()
        costs[phase] = counter.get_total_flops()
    assert 0 < costs["heads"] < costs["image"] / 20


def test_features_are_found_again_and_another_tower_has_its_own(parts, source, tmp_path, monkeypatch):
    calls = []
    backbone = parts[0]
    needs = method_of(parts).feature_needs()
    plain = plain_view_of(backbone)

    def table(**changes):
        given = {"backbone": backbone, "needs": needs, "source": source, "view": plain} | changes
        return feature_table(**given, store=FeatureStore(tmp_path), device=torch.device("cpu"))

    monkeypatch.setattr(
        "hybridcascade.stored_features.view_features",
        lambda *args: lambda images: calls.append(len(images)) or view_features(*args)(images),
    )
    first = table().table()
    assert calls == [ROWS]
    assert torch.equal(table().table(), first)
    assert calls == [ROWS], "found again"
    assert first.dtype == torch.float32
    tuned = copy.deepcopy(backbone)
    tuned.get_parameter(tuned.layer_norm_names()[0]).data.mul_(2)
    others = [
        table(backbone=tuned),
        table(source=source.take(range(3, ROWS))),
        table(needs=FeatureNeeds(needs.taps, needs.patch_mean, views=2)),
        table(needs=FeatureNeeds(needs.taps[1:], needs.patch_mean, views=3)),
        table(view=type(plain)(plain.size, (0.0, 0.0, 0.0), plain.std, "bicubic", "shortest", 0)),
    ]
    assert len({first_key := table().key, *(other.key for other in others)}) == 6
    assert first_key == table(source=source.unlabeled()).key


def test_bf16_towers_store_half_precision(offline_world, source):
    backbone = load_backbone("nano", "bf16")
    needs, view = FeatureNeeds((2, 5)), plain_view_of(backbone)
    table = feature_table(backbone, needs, source, view, FeatureStore(), torch.device("cpu"))
    assert table.table().dtype == torch.float16
    with torch.no_grad():
        expected = view_features(backbone, needs)(next(iter(image_loader(source, view, ROWS))).images)
    torch.testing.assert_close(table.rows(torch.arange(ROWS)), expected, atol=1e-2, rtol=1e-2)


def test_fit_predicts_pictures_saves_and_loads(photos: Path, tmp_path: Path) -> None:
    cache = tmp_path / "features"
    options = {"heads": {"epochs": 2, "batch_size": 4}, "settings": SETTINGS, "feature_cache": str(cache)}
    model = hc.fit(photos, classes=list(CLASSES), tune="heads", out=tmp_path / "run", **options)
    assert [p.suffix for p in cache.iterdir()] == [".npy"]
    found = model.predict(photos).probabilities
    again = hc.load(tmp_path / "run").predict(photos).probabilities
    np.testing.assert_array_equal(found, again)
    plain = hc.fit(photos, classes=list(CLASSES), text_cache="none", method="zero_shot").predict(photos).probabilities
    assert np.nanmax(np.abs(plain - found)) > 1e-3
    warm = hc.fit(
        photos, classes=list(CLASSES), warm_start=1, image={"epochs": 1}, settings=SETTINGS, feature_cache="none"
    )
    assert warm.predict(photos).probabilities.shape == found.shape


@pytest.mark.parametrize("method", ["lafter", "multilayer", "text_only", "hybrid_cascade_seed"])
def test_methods_without_heads_say_so(parts, source, method) -> None:
    for options in ({"tune": "heads"}, {"warm_start": 2}):
        with pytest.raises(SettingsError, match=rf"'{method}' cannot be tuned on stored features.*hybrid_cascade"):
            hc.fit("photos", classes=list(CLASSES), method=method, **options)
    with pytest.raises(SettingsError, match="cannot be tuned on stored features"):
        tune(method_of(parts, method), PLAIN, parts[1], source)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": 2, "prompt_init": "uniform"}, "leaves prompts as they start"),
        ({"plan": "last", "train_head": False, "class_bias": False}, "nothing to train outside of the tower"),
    ],
)
def test_settings_that_need_the_tower(parts, source, settings, message):
    method = method_of(parts, **settings)
    with pytest.raises(SettingsError, match=message):
        tune(method, PLAIN, parts[1], source)


def test_neutral_prompts_may_wait_for_the_image_phase(parts, source):
    method = method_of(parts, prompts=2)
    before = state(method)
    tune(method, PLAIN, parts[1], source, seed=SEED)
    assert all(torch.equal(before[n], p) for n, p in method.named_parameters() if n.startswith("prompts."))
    method.eval()
    images = next(iter(image_loader(source, plain_view_of(method.backbone), ROWS))).images
    rows = view_features(method.backbone, method.feature_needs())(images)
    with torch.no_grad():
        torch.testing.assert_close(method(images).logits, method(rows).logits, atol=1e-4, rtol=1e-4)


def test_batches_of_pictures_and_of_features_have_one_order(source):
    pictures = PictureBatches(source, plain_view_of_size(), None, SEED)
    assert len(pictures) == ROWS
    rows = torch.arange(ROWS * 6.0).reshape(ROWS, 3, 2)
    loader = StoredData(*two_loaders(rows, source.ids)).batches
    other = unlabeled_loader(source, plain_view_of_size(), None, 4, SEED)
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        other.sampler.set_epoch(epoch)
        for mine, theirs in zip(loader, other, strict=True):
            assert torch.equal(mine.index, theirs.index)
            assert mine.ids == theirs.ids
            assert torch.equal(mine.plain, rows[mine.index])
            chosen = [stored_view(SEED, epoch, int(row), 3) for row in mine.index]
            assert torch.equal(mine.strong[:, 0], rows[mine.index, torch.tensor(chosen)])


def two_loaders(rows, ids):
    from hybridcascade.data.stored import stored_image_loader, stored_loader

    return stored_loader(lambda index: rows[index], ids, 3, 4, SEED), stored_image_loader(rows.__getitem__, ids, 3, 4)


def plain_view_of_size():
    from hybridcascade.data.views import plain_view

    return plain_view(64)
