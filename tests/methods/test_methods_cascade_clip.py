"""`cascade_clip`: what it starts from, what it learns, what its maps are."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader

from hybridcascade.cascade.losses import joint_loss, soft_cross_entropy
from hybridcascade.engine.folder import RunFolder
from hybridcascade.engine.run import run_phases
from hybridcascade.errors import SettingsError
from hybridcascade.labelling.soft import make_labels
from hybridcascade.methods.cascade_clip import CascadeClip
from hybridcascade.methods.settings import method_settings

SMALL = {"decoder_width": 16, "decoder_heads": 2, "decoder_layers": 2, "feed_forward": 16}
PLAIN = {**SMALL, "teacher_views": 1, "predict_views": 1, "sinkhorn_epsilon": 2.0, "prior": "uniform"}


def build(backbone, world, **settings):
    return CascadeClip(backbone=backbone, **world.arguments(), **{**PLAIN, **settings})


def zero_shot_logits(backbone, world, images):
    prototypes = torch.stack([world.texts.features[world.texts.labels == k].mean(dim=0) for k in range(4)])
    features = functional.normalize(backbone.encode_image(images).float(), dim=-1)
    return backbone.logit_scale * features @ functional.normalize(prototypes, dim=-1).T


def train(method, world, steps, targets=False, lr=3e-3):
    method.requires_grad_(False)
    named = dict(method.named_parameters())
    names = sorted(method.trainable_names("image"))
    for name in names:
        named[name].requires_grad_()
    optimiser = torch.optim.AdamW([named[name] for name in names], lr=lr)
    make, losses = world.with_targets if targets else world.unlabeled, []
    for step in range(steps):
        optimiser.zero_grad()
        report = method.training_loss("image", make(list(range(12))), step)
        report.loss.backward()
        optimiser.step()
        method.after_step("image")
        losses.append(float(report.loss.detach()))
    return losses


@pytest.mark.parametrize("readout", ["vector", "mean", "logsumexp"])
def test_training_starts_at_the_balanced_zero_shot_prediction(readout, deep_backbone, deep_world):
    method = build(deep_backbone, deep_world, readout=readout)
    method.begin_phase("image", deep_world.plain_batches())
    logits = zero_shot_logits(deep_backbone, deep_world, deep_world.plain)
    balanced = make_labels(logits, "sinkhorn", epsilon=2.0)
    with torch.no_grad():
        found = method(deep_world.plain).probabilities
    # The decoders start near silence, not at it, so the agreement is close and not exact.
    torch.testing.assert_close(found, balanced, rtol=0, atol=0.02)
    assert float((logits.softmax(dim=1) - balanced).abs().max()) > 0.05, "the balance must show"


def test_alone_has_no_zero_shot_part(deep_backbone, deep_world):
    method = build(deep_backbone, deep_world, start="alone")
    assert method.class_bias is None
    prediction = method(deep_world.plain)
    expected = sum(_decoder_logits(method, deep_world.plain))
    torch.testing.assert_close(prediction.logits, expected, rtol=1e-4, atol=1e-5)
    assert float(expected.detach().std()) > 0.1


def _stage_features(method, images):
    """Unit patch features of each stage, stage by stage and block by block."""
    taps = method.backbone.forward_taps(images, taps=method.plan.taps, patches=True)
    features = []
    for stage, blocks in enumerate(method.plan.stages):
        weights = method.stages.aggregation.weights()[stage]
        total = 0
        for place, block in enumerate(method.plan.taps):
            if block in blocks:
                own = method.stages.alignment
                token = functional.layer_norm(taps.patches[:, place], (method.backbone.width,))
                token = token * own.ln_weight[stage] + own.ln_bias[stage]
                total = total + weights[place] * token @ own.projection[stage]
        features.append(functional.normalize(total, dim=-1))
    return features


def _decoder_logits(method, images):
    image = functional.normalize(method.backbone.encode_image(images).float(), dim=-1)
    features = _stage_features(method, images)
    return [d(f, method.prototypes, image) for d, f in zip(method.decoders, features, strict=True)]


@pytest.mark.parametrize("aggregation", ["nga", "free"])
def test_the_prediction_is_zero_shot_plus_the_sum_of_the_decoders(aggregation, deep_backbone, deep_world):
    method = build(deep_backbone, deep_world, aggregation=aggregation)
    method.begin_phase("image", deep_world.plain_batches())
    train(method, deep_world, steps=15, lr=0.05)
    method.eval()
    with torch.no_grad():
        prediction = method(deep_world.plain)
        said = _decoder_logits(method, deep_world.plain)
        base = zero_shot_logits(deep_backbone, deep_world, deep_world.plain) / 2.0 + method.class_bias
    torch.testing.assert_close(prediction.logits, base + sum(said), rtol=1e-3, atol=1e-3)
    assert float(sum(said).std()) > 0.05, "the decoders must have learned to speak"
    fused = torch.einsum("s,bsk->bk", prediction.stage_weights, prediction.stage_logits)
    torch.testing.assert_close(fused, prediction.logits)
    torch.testing.assert_close(prediction.stage_logits[:, 1], base + 3 * said[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("settings", [{}, {"start": "alone"}, {"readout": "logsumexp", "aggregation": "free"}])
def test_a_few_steps_fit_a_tiny_labelled_set(settings, deep_backbone, deep_world):
    method = build(deep_backbone, deep_world, **settings)
    method.begin_phase("image", deep_world.plain_batches(), deep_world.targets)
    losses = train(method, deep_world, steps=60, targets=True, lr=5e-3)
    floor = float(joint_loss(deep_world.targets.log() * 50, deep_world.targets))
    assert floor > losses[-1], "one-hot scores fit soft targets badly; the decoders must do better"
    least = soft_cross_entropy(_joint(deep_world.targets).log(), _joint(deep_world.targets))
    assert losses[-1] - float(least) < 0.3 * (losses[0] - float(least))


def _joint(targets):
    return 0.2 * functional.one_hot(targets.argmax(dim=1), 4).float() + 0.8 * targets


def test_labels_come_from_the_frozen_teacher_and_losses_from_them(deep_backbone, deep_world):
    for labels in ("sinkhorn", "softmax", "argmax"):
        method = build(deep_backbone, deep_world, labels=labels, label_smoothing=0.1)
        method.begin_phase("image", deep_world.plain_batches())
        teacher = zero_shot_logits(deep_backbone, deep_world, deep_world.plain)
        expected = make_labels(teacher, labels, 2.0)
        torch.testing.assert_close(method.teacher_labels, expected, rtol=1e-3, atol=1e-4)
        rows = [4, 1, 7]
        loss = method.training_loss("image", deep_world.unlabeled(rows), 0).loss
        logits = method(deep_world.strong[rows]).logits
        torch.testing.assert_close(loss, soft_cross_entropy(logits, expected[rows], 0.1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("teacher", ["live", "ema"])
def test_live_and_ema_teachers_relabel_anchored_to_the_first(teacher, deep_backbone, deep_world):
    method = build(deep_backbone, deep_world, teacher=teacher, teacher_share=0.25, ema_decay=0.5)
    method.begin_phase("image", deep_world.plain_batches())
    first = method.teacher_labels.clone()
    names = sorted(method.trainable_names("image"))
    at_start = [method.get_parameter(name).detach().clone() for name in names]
    train(method, deep_world, steps=1, lr=0.05)
    now = [method.get_parameter(name).detach().clone() for name in names]
    method.begin_epoch("image", 1, deep_world.plain_batches())
    assert all(torch.equal(method.get_parameter(n), v) for n, v in zip(names, now, strict=True)), "weights swapped back"
    if teacher == "ema":
        for name, old, new in zip(names, at_start, now, strict=True):
            method.get_parameter(name).data.copy_(0.5 * old + 0.5 * new)
    with torch.no_grad():
        present = 2.0 * method(deep_world.plain).logits
    frozen = zero_shot_logits(deep_backbone, deep_world, deep_world.plain)
    expected = make_labels(0.25 * frozen + 0.75 * present, "sinkhorn", 2.0)
    torch.testing.assert_close(method.teacher_labels, expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(first, expected, atol=1e-3)


def test_maps_are_the_scores_of_the_patches_on_their_grid(deep_backbone, deep_world):
    method = build(deep_backbone, deep_world, readout="mean", start="alone")
    maps = method.maps(deep_world.plain)
    assert maps.shape == (12, 3, 4, *deep_backbone.patch_grid)
    assert not maps.requires_grad
    # With this read-out a stage's logit is the mean of its map.
    expected = torch.stack(_decoder_logits(method, deep_world.plain), dim=1).detach()
    torch.testing.assert_close(maps.mean(dim=(-2, -1)), expected, rtol=1e-4, atol=1e-5)
    # Place by place: the one patch in row 1, column 2 alone gives the map's number there.
    whole = _stage_features(method, deep_world.plain)
    image = functional.normalize(deep_backbone.encode_image(deep_world.plain), dim=-1)
    place = 1 * deep_backbone.patch_grid[1] + 2
    alone = method.decoders[1].scores(whole[1][:, place : place + 1], method.prototypes, image)
    # A first layer reads all patches, so this holds for a decoder of one layer only.
    assert not torch.allclose(alone[..., 0], maps[:, 1, :, 1, 2], atol=1e-6)
    single = build(deep_backbone, deep_world, readout="mean", start="alone", decoder_layers=1)
    alone = single.decoders[1].scores(whole[1][:, place : place + 1], single.prototypes, image)
    torch.testing.assert_close(single.maps(deep_world.plain)[:, 1, :, 1, 2], alone[..., 0], rtol=1e-3, atol=1e-4)


def test_predictions_average_over_views(deep_backbone, deep_world):
    one = build(deep_backbone, deep_world).eval()
    two = build(deep_backbone, deep_world, predict_views=2).eval()
    with torch.no_grad():
        parts = [one(view).logits.log_softmax(dim=1) for view in (deep_world.plain, deep_world.plain.flip(-1))]
        torch.testing.assert_close(two(deep_world.plain).logits, (parts[0] + parts[1]) / 2, rtol=1e-4, atol=1e-4)


def test_nothing_to_learn_from_is_an_error(deep_backbone, deep_world):
    method = build(deep_backbone, deep_world)
    with pytest.raises(SettingsError, match="plain pictures"):
        method.begin_phase("image", None)
    with pytest.raises(TypeError, match="TextBatch"):
        method.training_loss("image", deep_world.texts, 0)
    with pytest.raises(SettingsError, match="multiple of decoder_heads, got 30 and 8"):
        method_settings("cascade_clip", {"decoder_width": 30})


def test_decoders_grow_with_the_embedding(deep_backbone, deep_world):
    method = CascadeClip(backbone=deep_backbone, **deep_world.arguments())
    layer = method.decoders[0].layers[0]
    assert deep_backbone.embed_dim == 24
    assert layer.up.weight.shape == (32, 16), "12 is half of 24, and 16 the next that 8 heads divide; twice it inside"


def test_learned_reports_the_weights_of_the_blocks(deep_backbone, deep_world):
    found = build(deep_backbone, deep_world, aggregation="free").learned()
    assert found["block_weights_patch_stage_1"] == pytest.approx([0.1353, 0.6065, 1.0], abs=1e-4)
    assert found["block_weights_patch_stage_3"] == [1.0]
    assert "nga_sigma_patch" not in found
    assert build(deep_backbone, deep_world).learned()["nga_sigma_patch"] == pytest.approx([1.0, 1.0, 1.0])


# -- in the engine ------------------------------------------------------------------------------------


def run(method, world, folder=None, stop=None, **options):
    """Three epochs of two steps, as the engine does them; with `stop` the run ends in an error in that step."""
    loss = method.training_loss

    def training_loss(phase, batch, step):
        if step == stop:
            raise KeyError("stopped")
        return loss(phase, batch, step)

    method.training_loss = training_loss
    loader = DataLoader(range(12), 6, shuffle=True, collate_fn=world.unlabeled)
    numbers = SimpleNamespace(
        epochs=3, lr=5e-3, weight_decay=0.1, schedule="cosine", warmup_epochs=1.0, milestones=(), gamma=0.1
    )
    run_phases(
        method, {"image": numbers}, None, loader, world.plain_batches(), folder=folder, accelerator="cpu",
        progress=False, **options,
    )  # fmt: skip


@pytest.mark.parametrize("settings", [{}, {"teacher": "ema", "prompts": 2, "train_layer_norms": "all"}])
def test_a_resume_is_bit_equal_and_the_saved_model_is_the_same(settings, tmp_path, make_deep_backbone, deep_world):
    def fresh(seed=0):
        return CascadeClip(backbone=make_deep_backbone(seed), **deep_world.arguments(), **SMALL, **settings)

    whole, cut, resumed = fresh(), fresh(), fresh()
    run(whole, deep_world, RunFolder.create(tmp_path / "whole"))
    with pytest.raises(KeyError, match="stopped"):
        run(cut, deep_world, RunFolder.create(tmp_path / "cut"), stop=3)
    run(resumed, deep_world, RunFolder.open(tmp_path / "cut"), resume=True)
    ours, theirs = whole.state_dict(), resumed.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    moved = {name for name, value in fresh().named_parameters() if not torch.equal(value, ours[name])}
    assert moved == whole.trainable_names("image")
    loaded = fresh(seed=9)
    with torch.no_grad():
        assert not torch.equal(loaded.eval()(deep_world.plain).logits, whole.eval()(deep_world.plain).logits)
        loaded.load_artifact_state(whole.artifact_state())
        assert torch.equal(loaded.eval()(deep_world.plain).logits, whole.eval()(deep_world.plain).logits)
