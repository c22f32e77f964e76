"""Alignment of the input colours, and the temperature that descriptions are softened by."""

import math

import pytest
import torch

from hybridcascade.labelling.sinkhorn import adaptive_power, breadth
from hybridcascade.methods.hybrid_cascade import HybridCascade
from hybridcascade.methods.input_alignment import align_input, balanced_moments
from hybridcascade.methods.text_prototypes import joint_prototypes, kind_prototypes, matching_temperature
from hybridcascade.types import ImageBatch


def batches(images, size=5):
    for start in range(0, len(images), size):
        rows = torch.arange(start, min(start + size, len(images)))
        yield ImageBatch(rows, tuple(f"p{row}" for row in rows.tolist()), images[rows])


def even(images):
    """Predictions that spread evenly over four classes, whatever the pictures."""
    return 50.0 * torch.eye(4)[torch.arange(len(images)) % 4]


@pytest.fixture
def pictures():
    noise = torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return noise * torch.tensor([0.5, 0.8, 2.0]).view(3, 1, 1) + torch.tensor([1.0, -0.5, 0.2]).view(3, 1, 1)


@pytest.fixture
def backbone(deep_backbone):
    yield deep_backbone
    deep_backbone.input_scale.fill_(1.0)
    deep_backbone.input_shift.fill_(0.0)
    deep_backbone.pixel_mean = deep_backbone.pixel_std = None


def aligned(images, backbone):
    return images * backbone.input_scale.view(3, 1, 1) + backbone.input_shift.view(3, 1, 1)


def test_the_map_takes_the_moments_to_the_expected_ones(backbone, pictures):
    backbone.pixel_mean, backbone.pixel_std = (0.5, 0.4, 0.3), (0.3, 0.2, 0.25)
    done = align_input(backbone, list(batches(pictures, 20)), even, 1.0, torch.device("cpu"))
    assert done.strength == pytest.approx(1.0)
    found = aligned(pictures, backbone)
    mean, std = torch.tensor(backbone.mean), torch.tensor(backbone.std)
    torch.testing.assert_close(found.mean(dim=(0, 2, 3)), (torch.tensor([0.5, 0.4, 0.3]) - mean) / std)
    torch.testing.assert_close(
        found.std(dim=(0, 2, 3), correction=0), torch.tensor([0.3, 0.2, 0.25]) / std, rtol=1e-4, atol=1e-4
    )


def test_without_a_record_it_goes_half_the_way_to_clips_own_moments(backbone, pictures):
    done = align_input(backbone, list(batches(pictures, 20)), even, 1.0, torch.device("cpu"))
    assert done.strength == pytest.approx(0.5)
    found = aligned(pictures, backbone)
    torch.testing.assert_close(found.mean(dim=(0, 2, 3)), pictures.mean(dim=(0, 2, 3)) / 2, rtol=1e-4, atol=1e-4)
    spread = pictures.std(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(found.std(dim=(0, 2, 3), correction=0), spread.sqrt(), rtol=1e-4, atol=1e-4)


def test_pictures_of_one_class_are_left_alone(backbone, pictures):
    def one_class(images):
        return 50.0 * torch.eye(4)[torch.zeros(len(images), dtype=torch.int64)]

    done = align_input(backbone, list(batches(pictures)), one_class, 1.0, torch.device("cpu"))
    assert done.strength == 0
    torch.testing.assert_close(aligned(pictures, backbone), pictures)


def test_breadth_counts_classes():
    assert breadth(torch.full((3, 4), 0.25)) == pytest.approx(1)
    assert breadth(torch.eye(4)[[0, 0, 1, 1]]) == pytest.approx(2 / 4, rel=1e-3)
    mixed = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.9, 0.1, 0.0, 0.0]])
    entropy = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3))
    assert breadth(mixed) == pytest.approx(math.exp(entropy) / 4, rel=1e-3)


def test_adaptive_power_follows_the_breadth():
    assert adaptive_power(torch.full((3, 4), 0.25)) == pytest.approx(0, abs=1e-6)
    assert adaptive_power(torch.eye(4)[[0, 1]]) == 1
    near = torch.tensor([[0.29, 0.21, 0.25, 0.25]])
    assert adaptive_power(near) == pytest.approx((1 - breadth(near)) / 0.05)
    assert 0 < adaptive_power(near) < 1


def test_balanced_moments_let_every_class_count_alike():
    """Three dark pictures of one class and one bright picture of another: the mean lies half way."""
    mean = torch.tensor([[0.0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 2, 3]])
    found, spread = balanced_moments(mean, mean.square() + 0.01, torch.eye(2)[[0, 0, 0, 1]])
    torch.testing.assert_close(found, torch.tensor([0.5, 1.0, 1.5]))
    torch.testing.assert_close(spread, (torch.tensor([0.25, 1.0, 2.25]) + 0.01).sqrt())


def test_the_tower_sees_aligned_pictures_and_a_saved_model_keeps_the_map(backbone, pictures, deep_world):
    arguments = deep_world.arguments()
    method = HybridCascade(backbone=backbone, **arguments)
    scale, shift = torch.tensor([1.5, 0.5, 2.0]), torch.tensor([0.1, -0.2, 0.3])
    by_hand = backbone.forward_taps(pictures * scale.view(3, 1, 1) + shift.view(3, 1, 1)).image
    backbone.input_scale.copy_(scale)
    backbone.input_shift.copy_(shift)
    torch.testing.assert_close(backbone.forward_taps(pictures).image, by_hand)
    state = method.artifact_state()
    assert torch.equal(state["backbone.input_scale"], scale)
    assert torch.equal(state["backbone.input_shift"], shift)


def test_the_method_fits_the_input_only_when_told(backbone, deep_world):
    off = HybridCascade(backbone=backbone, **deep_world.arguments(), input_alignment=0.0)
    off.fit_input(deep_world.plain_batches())
    assert torch.equal(backbone.input_scale, torch.ones(3))
    on = HybridCascade(backbone=backbone, **deep_world.arguments(), input_alignment=1.0)
    on.fit_input(deep_world.plain_batches())
    first = backbone.input_scale.clone()
    on.fit_input(deep_world.plain_batches())  # again, as after a kill: nothing adds up
    torch.testing.assert_close(backbone.input_scale, first)


def test_matching_temperature_meets_the_confidence():
    logits = 6 * torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    assert matching_temperature(logits, logits / 2.5) == pytest.approx(2.5, rel=1e-6)
    assert matching_temperature(logits, logits) == pytest.approx(1, rel=1e-6)


def test_kinds_of_text_count_alike():
    features = torch.nn.functional.normalize(torch.randn(9, 6, generator=torch.Generator().manual_seed(1)), dim=1)
    labels = torch.tensor([0, 1, 0, 0, 0, 1, 1, 1, 1])
    kinds = torch.tensor([0, 0, 1, 1, 1, 1, 1, 1, 1])
    found = kind_prototypes(features, labels, 2, kinds)
    assert found.shape == (2, 2, 6)
    torch.testing.assert_close(found[0], features[:2])
    described = torch.stack([features[2:5].mean(dim=0), features[5:].mean(dim=0)])
    described = described / described.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found[1], described)
    joint = features[:2] + described
    torch.testing.assert_close(joint_prototypes(found), joint / joint.norm(dim=1, keepdim=True))


def test_a_kind_that_leaves_out_a_class_is_left_out():
    features = torch.eye(4)
    labels, kinds = torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 1])
    assert len(kind_prototypes(features, labels, 2, kinds)) == 1
    whole = kind_prototypes(features, labels, 2, torch.tensor([0, 1, 1, 1]))
    torch.testing.assert_close(whole, kind_prototypes(features, labels, 2))
