import math

import pytest
import torch

from hybridcascade.cascade.fusion import StageFusion
from hybridcascade.cascade.heads import (
    CosineHead,
    LinearHead,
    ResidualAdapter,
    StageHeads,
    random_head_weight,
    unit,
)
from hybridcascade.errors import SettingsError, UnknownNameError


def test_linear_head_has_no_bias_and_broadcasts():
    weight = torch.randn(4, 6)
    head = LinearHead(weight)
    features = torch.randn(2, 3, 6)
    expected = torch.zeros(2, 3, 4)
    for b in range(2):
        for s in range(3):
            for k in range(4):
                expected[b, s, k] = sum(features[b, s, e] * weight[k, e] for e in range(6))
    torch.testing.assert_close(head(features), expected)
    assert [name for name, _ in head.named_parameters()] == ["weight"]


def test_cosine_head_is_clip_scoring():
    weight, features = torch.randn(4, 6), torch.randn(5, 6)
    head = CosineHead(3 * weight, 100.0)
    expected = 100 * torch.nn.functional.cosine_similarity(features[:, None], weight[None], dim=-1)
    torch.testing.assert_close(head(features * 7), expected, rtol=1e-4, atol=1e-4)
    assert [name for name, _ in head.named_parameters()] == ["weight"]
    assert "log_scale" in dict(CosineHead(weight, 10.0, train_scale=True).named_parameters())
    with pytest.raises(SettingsError, match="positive logit scale"):
        CosineHead(weight, 0.0)


def test_random_weight_follows_its_generator_only():
    first = random_head_weight(4, 16, torch.Generator().manual_seed(3))
    torch.manual_seed(99)
    second = random_head_weight(4, 16, torch.Generator().manual_seed(3))
    assert torch.equal(first, second)
    assert first.abs().max() <= 0.25
    assert first.std() == pytest.approx(0.25 / math.sqrt(3), rel=0.2)


def test_stage_heads_are_independent_copies():
    head = LinearHead(torch.randn(4, 6))
    heads = StageHeads(head, 3)
    features = torch.randn(2, 3, 6)
    torch.testing.assert_close(heads(features), head(features))
    with torch.no_grad():
        heads.heads[1].weight.add_(1.0)
    torch.testing.assert_close(heads(features)[:, [0, 2]], head(features)[:, [0, 2]])
    assert not torch.allclose(heads(features)[:, 1], head(features)[:, 1])


def test_adapter_starts_as_identity_and_trains_both_factors():
    adapter = ResidualAdapter(6, 2, torch.Generator().manual_seed(0))
    features = torch.randn(5, 6)
    assert torch.equal(adapter(features), features)
    adapter(features).square().sum().backward()
    assert adapter.down.grad.abs().sum() > 0
    assert adapter.up.grad.abs().sum() > 0


def test_fusion_uniform_is_the_mean():
    logits = torch.randn(4, 3, 5)
    torch.testing.assert_close(StageFusion(3)(logits), logits.mean(dim=1))


def test_fusion_last_starts_on_the_last_stage():
    fusion = StageFusion(3, start="last", gap=5.0)
    weights = fusion.weights()
    assert (weights[2] / weights[0]).item() == pytest.approx(math.exp(5.0), rel=1e-4)
    assert weights.sum().item() == pytest.approx(1.0)
    logits = torch.randn(4, 3, 5)
    expected = sum(weights[s] * logits[:, s] for s in range(3))
    torch.testing.assert_close(fusion(logits), expected)
    fusion(logits).square().sum().backward()
    assert (fusion.scores.grad != 0).all()


def test_fusion_of_one_stage_learns_nothing():
    fusion = StageFusion(1, start="last")
    assert list(fusion.parameters()) == []
    logits = torch.randn(4, 1, 5)
    torch.testing.assert_close(fusion(logits), logits[:, 0])


def test_fusion_rejects():
    with pytest.raises(UnknownNameError, match="fusion start"):
        StageFusion(2, start="first")
    with pytest.raises(SettingsError, match="positive gap"):
        StageFusion(2, start="last", gap=0)


def test_unit_leaves_zero_rows():
    assert unit(torch.zeros(2, 3)).abs().sum() == 0
