from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from hybridcascade.cascade.losses import joint_loss, soft_cross_entropy, stage_consistency
from hybridcascade.errors import DataError, SettingsError, TextError
from hybridcascade.labelling.geometry import gate_polarity, spread_to_near
from hybridcascade.labelling.sinkhorn import sinkhorn
from hybridcascade.labelling.soft import make_labels, refine
from hybridcascade.methods.hybrid_cascade import HybridCascade
from hybridcascade.methods.hybrid_cascade_seed import HybridCascadeSeed
from hybridcascade.methods.parts import class_prototypes, collect_rows, mild_views, seeded_generator
from hybridcascade.methods.text_only import TextOnly
from hybridcascade.methods.zero_shot import ZeroShot


def hybrid(backbone, world, **settings):
    return HybridCascade(backbone=backbone, **world.arguments(), **{"prior": "uniform", **settings})


def zero_shot_logits(backbone, world, images):
    prototypes = torch.stack([world.texts.features[world.texts.labels == k].mean(dim=0) for k in range(4)])
    features = functional.normalize(backbone.encode_image(images).float(), dim=-1)
    return backbone.logit_scale * features @ functional.normalize(prototypes, dim=-1).T


def test_zero_shot_is_clip_scoring(deep_backbone, deep_world):
    method = ZeroShot(backbone=deep_backbone, **deep_world.arguments())
    expected = zero_shot_logits(deep_backbone, deep_world, deep_world.plain)
    torch.testing.assert_close(method(deep_world.plain).logits, expected, rtol=1e-4, atol=1e-4)
    assert method.trainable_names("image") == frozenset()
    with pytest.raises(NotImplementedError):
        method.training_loss("image", deep_world.unlabeled([0]), 0)


def test_text_only_scores_unit_features(deep_backbone, deep_world):
    method = TextOnly(backbone=deep_backbone, **deep_world.arguments())
    features = functional.normalize(deep_backbone.encode_image(deep_world.plain).float(), dim=-1)
    torch.testing.assert_close(method(deep_world.plain).logits, method.head(features), rtol=1e-4, atol=1e-5)


def test_text_stage_learns_the_texts(deep_backbone, deep_world):
    method = TextOnly(backbone=deep_backbone, **deep_world.arguments())
    optimiser = torch.optim.AdamW([method.head.weight], lr=0.01)
    for step in range(200):
        optimiser.zero_grad()
        method.training_loss("text", deep_world.texts, step).loss.backward()
        optimiser.step()
    found = method.head(deep_world.texts.features).argmax(dim=1)
    assert (found == deep_world.texts.labels).float().mean() == 1


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pool": "cls"},
        {"fusion_start": "uniform"},
        {"heads": "shared", "adapter_rank": 4},
        {"prompts": 16},
        {"sinkhorn_epsilon": 0.5, "prior_power": 0.5},
    ],
)
def test_training_starts_at_the_balanced_zero_shot_prediction(settings, deep_backbone, deep_world):
    settings = {"fusion_start": "last", **settings}
    method = hybrid(deep_backbone, deep_world, teacher_views=1, predict_views=1, **settings)
    method.begin_phase("image", deep_world.plain_batches())
    prediction = method(deep_world.plain)
    epsilon, power = settings.get("sinkhorn_epsilon", 1.0), settings.get("prior_power", 0.0)
    zero_shot = zero_shot_logits(deep_backbone, deep_world, deep_world.plain)
    balanced = make_labels(zero_shot, "sinkhorn", epsilon, power)
    own_path = prediction.stage_logits[:, -1]
    torch.testing.assert_close(own_path.softmax(dim=1), balanced, rtol=1e-3, atol=1e-3)
    bias = own_path - zero_shot / epsilon
    torch.testing.assert_close(bias, bias[:1].expand(12, 4), rtol=1e-3, atol=2e-3)
    assert bias.abs().max() > 0.1, "the world is balanced already; nothing is tested"
    assert prediction.stage_logits.shape == (12, 4, 4)  # {5-7}, {8-9}, {10-11} and CLIP's own path
    torch.testing.assert_close(
        prediction.logits, torch.einsum("s,bsk->bk", prediction.stage_weights, prediction.stage_logits)
    )
    if settings["fusion_start"] == "uniform":
        torch.testing.assert_close(prediction.stage_weights, torch.full((4,), 0.25))
        return
    # The others hold three times exp(-5) of the weight, whatever they say.
    assert prediction.stage_weights[-1] > 0.97
    assert (prediction.logits.argmax(dim=1) == balanced.argmax(dim=1)).float().mean() >= 0.9


@pytest.mark.parametrize(
    ("settings", "epsilon"),
    [({"class_bias": False, "sinkhorn_epsilon": 2.0}, 2.0), ({"class_bias": False}, 1.0), ({"labels": "softmax"}, 1.0)],
)
def test_without_balance_training_starts_at_the_zero_shot_logits(settings, epsilon, deep_backbone, deep_world):
    method = hybrid(deep_backbone, deep_world, predict_views=1, fusion_start="last", **settings)
    method.begin_phase("image", deep_world.plain_batches())
    expected = zero_shot_logits(deep_backbone, deep_world, deep_world.plain) / epsilon
    prediction = method(deep_world.plain)
    torch.testing.assert_close(prediction.stage_logits[:, -1], expected, rtol=1e-3, atol=2e-3)
    assert (prediction.logits.argmax(dim=1) == expected.argmax(dim=1)).float().mean() >= 0.9


def test_teacher_labels_are_keyed_by_row_whatever_the_order(deep_backbone, deep_world):
    method = hybrid(deep_backbone, deep_world, teacher_views=1)
    method.begin_phase("image", deep_world.plain_batches())
    expected = make_labels(zero_shot_logits(deep_backbone, deep_world, deep_world.plain), epsilon=1.0)
    torch.testing.assert_close(method.teacher_labels, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(method.teacher_labels.mean(dim=0), torch.full((4,), 0.25), rtol=1e-3, atol=1e-3)
    shuffled = hybrid(deep_backbone, deep_world, teacher_views=1)
    shuffled.begin_phase("image", deep_world.plain_batches(order=[7, 3, 11, 0, 1, 2, 4, 5, 6, 8, 9, 10]))
    torch.testing.assert_close(shuffled.teacher_labels, method.teacher_labels, rtol=1e-3, atol=1e-3)


def test_teacher_averages_the_features_of_its_views(deep_backbone, deep_world):
    method = hybrid(deep_backbone, deep_world, teacher_views=3, teacher="ema")
    method.begin_phase("image", deep_world.plain_batches())
    views = mild_views(deep_world.plain, 3)
    mean = torch.stack([zero_shot_logits(deep_backbone, deep_world, view) for view in views]).mean(dim=0)
    torch.testing.assert_close(method.teacher_logits, mean, rtol=1e-3, atol=2e-3)
    assert not torch.allclose(mean, zero_shot_logits(deep_backbone, deep_world, deep_world.plain), atol=1e-2)


@torch.no_grad()
def test_evaluation_averages_the_log_probabilities_of_the_views(deep_backbone, deep_world):
    method = hybrid(deep_backbone, deep_world, predict_views=4)
    method.begin_phase("image", deep_world.plain_batches())
    single = [method.train()(view) for view in mild_views(deep_world.plain, 4)]  # training looks at one view
    found = method.eval()(deep_world.plain)
    for name in ("logits", "stage_logits"):
        total = sum(getattr(view, name).log_softmax(dim=-1) for view in single)
        torch.testing.assert_close(getattr(found, name), total / 4, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found.logits, single[0].logits.log_softmax(dim=-1), atol=1e-2)
    torch.testing.assert_close(found.stage_weights, single[0].stage_weights)
    alone = hybrid(deep_backbone, deep_world, predict_views=1)
    alone.begin_phase("image", deep_world.plain_batches())
    assert torch.equal(alone.eval()(deep_world.plain).logits, single[0].logits)


def test_views_are_the_picture_its_mirror_and_corner_crops():
    images = torch.rand(2, 3, 20, 40, generator=torch.Generator().manual_seed(0))
    for count in range(1, 7):
        views = mild_views(images, count)
        assert [view.shape for view in views] == [images.shape] * count
    assert torch.equal(views[0], images)
    assert torch.equal(views[1], images.flip(-1))
    # 85% of 20 x 40 is 17 x 34: top left, bottom right (mirrored), bottom left, top right (mirrored).
    for view, (y, x), mirrored in zip(
        views[2:], ((0, 0), (3, 6), (3, 0), (0, 6)), (False, True, False, True), strict=True
    ):
        crop = images[:, :, y : y + 17, x : x + 34]
        expected = functional.interpolate(crop, size=(20, 40), mode="bicubic", align_corners=False)
        assert torch.equal(view, expected.flip(-1) if mirrored else expected)


def test_loss_is_the_sum_of_its_parts(deep_backbone, deep_world):
    settings = {"stage_loss": 0.7, "consistency": 0.3, "fairness": 0.2}
    method = hybrid(deep_backbone, deep_world, **settings)
    method.begin_phase("image", deep_world.plain_batches())
    batch = deep_world.unlabeled([4, 1, 9])
    report = method.training_loss("image", batch, 0)
    out = method(batch.strong)
    target = method.teacher_labels[[4, 1, 9]]
    stage_fit = torch.stack([soft_cross_entropy(out.stage_logits[:, s], target) for s in range(3)]).mean()
    shares = out.logits.softmax(dim=1).mean(dim=0)
    expected = soft_cross_entropy(out.logits, target) + 0.7 * stage_fit
    expected = expected + 0.3 * stage_consistency(out.stage_logits) - 0.2 * shares.log().mean()
    torch.testing.assert_close(report.loss, expected)


def test_seed_loss_holds_the_consistency(deep_backbone, deep_world):
    batch = deep_world.unlabeled([4, 1, 9])
    method = HybridCascadeSeed(backbone=deep_backbone, **deep_world.arguments())
    method.begin_phase("image", deep_world.plain_batches())
    out = method(batch.strong)
    labels = method.pseudo_labels(batch.plain).argmax(dim=1)
    expected = functional.cross_entropy(out.logits, labels, label_smoothing=0.1)
    expected = expected + 0.1 * stage_consistency(out.stage_logits)
    torch.testing.assert_close(method.training_loss("image", batch, 0).loss, expected)
    torch.testing.assert_close(out.stage_weights, torch.full((3,), 1 / 3))
    torch.testing.assert_close(torch.tensor(method.learned()["nga_sigma_cls"]), torch.ones(3))


def test_seed_last_stage_of_one_block_is_clip_itself(deep_backbone, deep_world):
    settings = {"plan": "last", "prompt_init": "neutral"}
    method = HybridCascadeSeed(backbone=deep_backbone, **deep_world.arguments(), **settings)
    expected = method.head(deep_backbone.encode_image(deep_world.plain).float())
    torch.testing.assert_close(method(deep_world.plain).logits, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [HybridCascade, HybridCascadeSeed])
def test_targets_take_the_place_of_labels(kind, deep_backbone, deep_world):
    settings = {"stage_loss": 0.0} if kind is HybridCascade else {}
    method = kind(backbone=deep_backbone, **deep_world.arguments(), consistency=0.0, **settings)
    method.begin_phase("image", None, deep_world.targets)
    batch = deep_world.with_targets([2, 8])
    expected = joint_loss(method(batch.strong).logits, deep_world.targets[[2, 8]], 0.8)
    torch.testing.assert_close(method.training_loss("image", batch, 0).loss, expected)


@pytest.mark.parametrize("teacher", ["live", "ema"])
def test_live_and_ema_teachers_relabel_each_epoch(teacher, deep_backbone, deep_world):
    settings = {"teacher_share": 0.25, "ema_decay": 0.5, "heads": "shared", "predict_views": 1, "sinkhorn_epsilon": 2.0}
    method = hybrid(deep_backbone, deep_world, teacher=teacher, **settings)
    plain = deep_world.plain_batches()
    method.begin_phase("image", plain)
    first = method.teacher_labels.clone()
    method.begin_epoch("image", 0, plain)
    assert torch.equal(method.teacher_labels, first)
    start = method.head.weight.detach().clone()
    with torch.no_grad():
        method.head.weight.add_(torch.randn(start.shape, generator=torch.Generator().manual_seed(0)))
    method.after_step("image")
    moved = method.head.weight.detach().clone()
    method.begin_epoch("image", 1, plain)
    assert torch.equal(method.head.weight, moved)
    with torch.no_grad():
        method.head.weight.copy_(moved if teacher == "live" else 0.5 * start + 0.5 * moved)
        # The student scores at the labels' temperature 2, the teacher at CLIP's.
        mixed = 0.25 * method.teacher_logits + 0.75 * 2 * method(deep_world.plain).logits
    torch.testing.assert_close(method.teacher_labels, make_labels(mixed, epsilon=2.0), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(method.teacher_labels, first, atol=1e-3)


def test_text_trained_head_reaches_teacher_and_student_as_set(deep_backbone, deep_world):
    for head_start in ("prototypes", "text"):
        settings = {"head_start": head_start, "teacher_source": "text_head", "labels": "softmax", "teacher_views": 1}
        settings["sinkhorn_epsilon"] = 1.0
        method = hybrid(deep_backbone, deep_world, **settings)
        with torch.no_grad():
            method.head.weight.mul_(-1)  # as if the text stage had turned it round
        text_head = method.head.weight.detach().clone()
        method.begin_phase("image", deep_world.plain_batches())
        expected = make_labels(-zero_shot_logits(deep_backbone, deep_world, deep_world.plain), "softmax", epsilon=1.0)
        torch.testing.assert_close(method.teacher_labels, expected, rtol=1e-3, atol=1e-3)
        start = text_head if head_start == "text" else method.teacher_prototypes
        assert torch.equal(method.head.weight.detach(), start)
        assert all(torch.equal(head.weight.detach(), start) for head in method.stage_heads.heads)


def test_plan_holds_the_stages_beside_clips_own_path(deep_backbone, deep_world):
    method = hybrid(deep_backbone, deep_world)
    assert method.plan.stages == ((5, 6, 7), (8, 9), (10, 11))
    assert method(deep_world.plain).stage_weights.shape == (len(method.plan.stages) + 1,)
    learned = method.learned()
    assert [len(learned[f"block_weights_cls_stage_{stage}"]) for stage in (1, 2, 3)] == list(method.plan.sizes)
    assert hybrid(deep_backbone, deep_world, plan="last").plan.stages == ()


def test_phase_without_teacher_or_begin_is_an_error(deep_backbone, deep_world):
    method = hybrid(deep_backbone, deep_world)
    with pytest.raises(SettingsError, match="needs plain pictures"):
        method.begin_phase("image", None)
    with pytest.raises(SettingsError, match="call begin_phase"):
        method.training_loss("image", deep_world.unlabeled([0]), 0)


def test_last_half_is_the_deeper_half(deep_backbone, deep_world):
    names = hybrid(deep_backbone, deep_world, train_layer_norms="last_half").trainable_names("image")
    norms = {name for name in names if name.startswith("backbone.")}
    blocks = {int(name.split("resblocks.")[1].split(".")[0]) for name in norms if "resblocks" in name}
    assert blocks == {6, 7, 8, 9, 10, 11}
    assert len(norms) == 6 * 4 + 2


def test_prototypes_are_unit_means_and_every_class_needs_a_text():
    features = torch.eye(4)[:3]
    found = class_prototypes(features, torch.tensor([0, 0, 1]), 2)
    torch.testing.assert_close(found, torch.tensor([[0.5**0.5, 0.5**0.5, 0, 0], [0, 0, 1.0, 0]]))
    with pytest.raises(TextError, match="none for classes number \\[2\\]"):
        class_prototypes(features, torch.tensor([0, 0, 1]), 3)
    with pytest.raises(TextError, match="labels from 0 to 0"):
        class_prototypes(features, torch.tensor([0, 0, 1]), 1)


def test_rows_missing_or_repeated_are_an_error(deep_world):
    device = torch.device("cpu")
    batches = deep_world.plain_batches(order=[0, 1, 3])
    with pytest.raises(DataError, match="once"):
        collect_rows(batches, lambda images: images.mean(dim=(1, 2, 3)), device)
    with pytest.raises(DataError, match="got none"):
        collect_rows([], lambda images: images, device)


def test_generators_differ_by_key_and_repeat():
    def draw(*key):
        return torch.rand(3, generator=seeded_generator(*key))

    assert torch.equal(draw(0, "text", 1), draw(0, "text", 1))
    assert not torch.equal(draw(0, "text", 1), draw(0, "text", 2))
    assert not torch.equal(draw(0, "text", 1), draw(1, "text", 1))
    assert not torch.equal(draw(0, "head"), draw(0, "prompts"))


def teacher_parts(backbone, world):
    """Zero-shot logits, unit features and class vectors of the world, one view."""
    features = functional.normalize(backbone.encode_image(world.plain).float(), dim=-1)
    prototypes = class_prototypes(world.texts.features, world.texts.labels, 4)
    return zero_shot_logits(backbone, world, world.plain), features, prototypes


@pytest.mark.parametrize("teacher", ["frozen", "live"])
@pytest.mark.parametrize(
    "settings",
    [
        {"labels": "topk", "top_share": 0.7},
        {"labels": "prototype"},
        {"labels": "anchored_mixture"},
        {"prior": "estimated"},
        {"labels": "softmax", "neighbours": 3, "neighbour_share": 0.7},
    ],
)
def test_label_kinds_reach_the_student(settings, teacher, deep_backbone, deep_world):
    numbers = {"teacher_views": 1, "predict_views": 1, "sinkhorn_epsilon": 2.0, "input_alignment": 0.0}
    method = hybrid(deep_backbone, deep_world, teacher=teacher, teacher_share=0.25, **numbers, **settings)
    plain = deep_world.plain_batches()
    method.begin_phase("image", plain)
    logits, features, prototypes = teacher_parts(deep_backbone, deep_world)
    arguments = {"kind": settings.get("labels", "sinkhorn"), "epsilon": 2.0, "scale": deep_backbone.logit_scale}
    arguments |= {k: v for k, v in settings.items() if k not in ("labels", "top_share")}
    expected = refine(logits, features, prototypes, per_class=0.7, **arguments)
    torch.testing.assert_close(method.teacher_labels, expected.labels, rtol=1e-3, atol=1e-3)
    rows = [2, 5, 8, 11]
    batch = deep_world.unlabeled(rows)
    prediction = method(batch.strong)
    fit = -(expected.labels[rows] * prediction.logits.log_softmax(dim=1)).sum(dim=1)
    mean = (fit * expected.weights[rows]).sum() / expected.weights[rows].sum()
    stages = -(expected.labels[rows, None] * prediction.stage_logits[:, :-1].log_softmax(dim=2)).sum(dim=2)
    stage_mean = (stages * expected.weights[rows, None]).sum() / expected.weights[rows].sum() / stages.shape[1]
    report = method.training_loss("image", batch, 0)
    torch.testing.assert_close(report.scalars["fit"], mean.detach(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(report.scalars["stage_fit"], stage_mean.detach(), rtol=1e-3, atol=1e-3)
    method.begin_epoch("image", 1, plain)
    if teacher == "frozen":
        torch.testing.assert_close(method.teacher_labels, expected.labels, rtol=1e-3, atol=1e-3)
        return
    mixed = 0.25 * logits + 0.75 * 2 * method(deep_world.plain).logits
    again = refine(mixed.detach(), features, prototypes, per_class=0.7, **arguments)
    torch.testing.assert_close(method.teacher_labels, again.labels, rtol=1e-3, atol=2e-3)


def test_known_targets_weigh_one_whatever_the_labels_weigh(deep_backbone, deep_world):
    method = hybrid(deep_backbone, deep_world, labels="topk", top_share=0.4)
    method.begin_phase("image", deep_world.plain_batches())
    left_out = (method.teacher_weights == 0).nonzero().flatten().tolist()[:2]
    assert method._trust(deep_world.unlabeled(left_out)).tolist() == [0, 0]
    assert method._trust(deep_world.with_targets(left_out)).tolist() == [1, 1]
    partly = replace(deep_world.with_targets(left_out), known=torch.tensor([True, False]))
    assert method._trust(partly).tolist() == [1, 0]


def test_agreement_weighs_the_stages_and_is_saved(deep_backbone, deep_world):
    method = hybrid(deep_backbone, deep_world, fusion="agreement", predict_views=1)
    assert not any(name.startswith("fusion") for name in method.trainable_names("image"))
    plain = deep_world.plain_batches()
    method.begin_phase("image", plain)
    torch.testing.assert_close(method.fusion.weights(), torch.full((4,), 0.25))
    method.begin_epoch("image", 0, plain)
    stages = method(deep_world.plain).stage_logits.detach().softmax(dim=2)
    weights = [1.0] * 4
    for _ in range(10):
        scores = sum(w * stages[:, s] for s, w in enumerate(weights))
        labels = sinkhorn(scores, 0.1)
        weights = [2 * float((labels * stages[:, s]).sum(dim=1).mean()) for s in range(4)]
    expected = torch.tensor(weights) / sum(weights)
    torch.testing.assert_close(method.fusion.weights(), expected, rtol=1e-3, atol=1e-4)
    assert (expected - 0.25).abs().max() > 0.01, "the stages agree alike; nothing is tested"
    again = hybrid(deep_backbone, deep_world, fusion="agreement", predict_views=1)
    again.load_artifact_state(method.artifact_state())
    assert torch.equal(again(deep_world.plain).logits, method(deep_world.plain).logits)
    with pytest.raises(SettingsError, match="agreement needs plain pictures"):
        method.begin_epoch("image", 1, None)


@pytest.mark.parametrize("fusion", ["uniform", "last"])
def test_fixed_fusions(fusion, deep_backbone, deep_world):
    prediction = hybrid(deep_backbone, deep_world, fusion=fusion, predict_views=1)(deep_world.plain)
    expected = prediction.stage_logits[:, -1] if fusion == "last" else prediction.stage_logits.mean(dim=1)
    torch.testing.assert_close(prediction.logits, expected)


def test_geometry_shapes_the_labels_and_is_in_no_saved_model(deep_backbone, deep_world):
    signs = torch.tensor([1, 1, -1, -1])
    near = torch.tensor([[0.7, 0.3, 0, 0], [0.3, 0.7, 0, 0], [0, 0, 0.7, 0.3], [0, 0, 0.3, 0.7]])
    plain = hybrid(deep_backbone, deep_world, teacher_views=1)
    plain.set_geometry(near, signs)  # both strengths are 0
    plain.begin_phase("image", deep_world.plain_batches())
    shaped = hybrid(deep_backbone, deep_world, teacher_views=1, wheel=0.4, polarity_gate=1.0)
    with pytest.raises(SettingsError, match="need an emotion space"):
        shaped.begin_phase("image", deep_world.plain_batches())
    shaped.set_geometry(near, signs)
    shaped.begin_phase("image", deep_world.plain_batches())
    expected = spread_to_near(gate_polarity(plain.teacher_labels, signs, 1.0), near, 0.4)
    torch.testing.assert_close(shaped.teacher_labels, expected)
    assert not torch.allclose(shaped.teacher_labels, plain.teacher_labels, atol=1e-2)
    assert shaped.artifact_state().keys() == plain.artifact_state().keys()
