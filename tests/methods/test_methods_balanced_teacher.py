"""The teacher that `multilayer` and `cascade_clip` share with `hybrid_cascade`: same colours, labels and start."""

import pytest
import torch
from torch.nn import functional

from hybridcascade.labelling.sinkhorn import adaptive_power
from hybridcascade.labelling.soft import make_labels
from hybridcascade.methods import catalogue  # noqa: F401  (registers the methods)
from hybridcascade.methods.registry import method_entry

SMALL = {
    "cascade_clip": {"decoder_width": 16, "decoder_layers": 1},
    "multilayer": {"prompts": 2},
    "hybrid_cascade": {},
}
SHARING = ("cascade_clip", "multilayer")
KINDS = torch.tensor([0, 1, 1] * 4)  # of the world's three texts a class, one a template


def build(name, backbone, world, **settings):
    kind = method_entry(name).load()
    return kind(backbone=backbone, **world.arguments(), text_kinds=KINDS, **SMALL[name], **settings)


def labelled(name, backbone, world, **settings):
    backbone.logit_scale = 3.0  # of a narrow prediction the colours are not aligned
    method = build(name, backbone, world, **settings)
    method.fit_input(world.plain_batches())
    method.begin_phase("image", world.plain_batches())
    return method


@pytest.mark.parametrize("name", SHARING)
@pytest.mark.parametrize("settings", [{}, {"sinkhorn_epsilon": 1.5, "teacher_views": 2, "input_alignment": 0.5}])
def test_labels_and_colours_are_those_of_hybrid_cascade(name, settings, make_deep_backbone, deep_world):
    ours = labelled(name, make_deep_backbone(), deep_world, **settings)
    reference = labelled("hybrid_cascade", make_deep_backbone(), deep_world, **settings)
    assert not torch.equal(ours.backbone.input_scale, torch.ones(3)), "the alignment must show"
    assert torch.equal(ours.backbone.input_scale, reference.backbone.input_scale)
    assert torch.equal(ours.backbone.input_shift, reference.backbone.input_shift)
    torch.testing.assert_close(ours.teacher_temperature, reference.teacher_temperature)
    torch.testing.assert_close(ours.teacher_labels, reference.teacher_labels, rtol=1e-4, atol=1e-5)


def by_hand(backbone, world):
    """Logits of both kinds of text alike and of the templates alone, of the pictures as they are."""
    image = functional.normalize(backbone.encode_image(world.plain).float(), dim=1)
    texts = world.texts.features.view(4, 3, -1)
    names = functional.normalize(texts[:, 0], dim=1)
    joint = functional.normalize(names + functional.normalize(texts[:, 1:].mean(dim=1), dim=1), dim=1)
    return backbone.logit_scale * image @ joint.T, backbone.logit_scale * image @ names.T


@pytest.mark.parametrize("name", SHARING)
def test_temperature_and_class_shares_by_hand(name, deep_backbone, deep_world):
    method = build(name, deep_backbone, deep_world, input_alignment=0.0, teacher_views=1)
    method.begin_phase("image", deep_world.plain_batches())
    with torch.no_grad():
        logits, names = by_hand(deep_backbone, deep_world)
    found = float(method.teacher_temperature)
    sure = (logits / found).softmax(dim=1).amax(dim=1).mean()
    torch.testing.assert_close(sure, names.softmax(dim=1).amax(dim=1).mean(), rtol=1e-3, atol=1e-3)
    assert abs(found - 1) > 0.02, "the texts must differ for this to show anything"
    power = adaptive_power((logits / found).softmax(dim=1))
    assert power > 0, "shares must be uneven for this to show anything"
    expected = make_labels(logits, "sinkhorn", found, power)
    torch.testing.assert_close(method.teacher_labels, expected, rtol=1e-3, atol=1e-4)
    equal = build(name, deep_backbone, deep_world, input_alignment=0.0, teacher_views=1, prior="uniform")
    equal.begin_phase("image", deep_world.plain_batches())
    torch.testing.assert_close(equal.teacher_labels.mean(dim=0), torch.full((4,), 0.25), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "settings"), [("cascade_clip", {}), ("multilayer", {"prompt_init": "neutral"})])
def test_clips_own_path_starts_at_the_labels(name, settings, deep_backbone, deep_world):
    method = labelled(name, deep_backbone, deep_world, teacher_views=1, predict_views=1, **settings).eval()
    with torch.no_grad():
        found = method(deep_world.plain).stage_logits[:, -1].softmax(dim=1)
    # Silent decoders and neutral prompts do almost nothing.
    torch.testing.assert_close(found, method.teacher_labels, rtol=0, atol=0.02)
