import math
from itertools import pairwise

import pytest
import torch

from hybridcascade.cascade.fusion import StageFusion, agreement_weights
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


def naive_plan(scores, epsilon, shares, turns=100):
    """Sinkhorn's plan by loops: rows sum to 1/N, columns to the shares."""
    n, k = scores.shape
    plan = (scores / epsilon).exp()
    for _ in range(turns):
        for j in range(k):
            plan[:, j] *= shares[j] / plan[:, j].sum()
        for i in range(n):
            plan[i] /= n * plan[i].sum()
    return plan


def joint_aim(plan, stages, epsilon):
    fit = sum(float((plan * p).sum()) ** 2 for p in stages)
    return fit - epsilon * float((plan * plan.log()).sum())


@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_agreement_climbs_the_joint_aim_and_matches_the_loop(epsilon):
    draw = torch.Generator().manual_seed(0)
    common = torch.randn(12, 4, generator=draw)
    own = [torch.randn(12, 4, generator=draw) for _ in range(3)]
    mixed = [(common + s * e) / (1 + s**2) ** 0.5 for s, e in zip((0.1, 1.0, 5.0), own, strict=True)]  # alike sure
    stages = torch.stack([(3 * scores).softmax(dim=1) for scores in mixed])
    stages, shares = stages.double(), [0.4, 0.3, 0.2, 0.1]
    weights, aims = [1.0] * 3, []
    for _ in range(6):
        scores = sum(w * p for w, p in zip(weights, stages, strict=True))
        plan = naive_plan(scores, epsilon, shares)
        aims.append(joint_aim(plan, stages, epsilon))
        weights = [2 * float((plan * p).sum()) for p in stages]
    assert all(after >= before - 1e-6 for before, after in pairwise(aims))
    assert aims[-1] > aims[0]

    found = agreement_weights(
        stages.transpose(0, 1).float(), lambda s: (12 * naive_plan(s.double(), epsilon, shares)).float(), rounds=6
    )
    torch.testing.assert_close(found, torch.tensor(weights) / sum(weights), rtol=1e-4, atol=1e-5)
    assert found[:2].min() > found[2] + 0.05, "two stages agree, the third one goes its own way"
    # At the end the plan beats any other one near it: the aim is not only climbed but maximised.
    other = naive_plan(scores + 0.1 * torch.randn(12, 4, generator=draw), epsilon, shares)
    assert joint_aim(other, stages, epsilon) < aims[-1]
    with pytest.raises(SettingsError, match="one round"):
        agreement_weights(stages.transpose(0, 1), lambda s: s, rounds=0)


@pytest.mark.parametrize("kind", ["uniform", "last", "agreement"])
def test_fixed_fusions_learn_nothing_and_are_part_of_the_model(kind):
    logits = torch.randn(4, 3, 5)
    fusion = StageFusion(3, start="last", kind=kind)
    assert list(fusion.parameters()) == []
    assert list(fusion.state_dict()) == ["scores"]
    torch.testing.assert_close(fusion(logits), logits[:, -1] if kind == "last" else logits.mean(dim=1))
    if kind == "agreement":
        fusion.set_weights(torch.tensor([0.2, 0.3, 0.5]))
        expected = 0.2 * logits[:, 0] + 0.3 * logits[:, 1] + 0.5 * logits[:, 2]
        torch.testing.assert_close(fusion(logits), expected)
        again = StageFusion(3, kind=kind)
        again.load_state_dict(fusion.state_dict())
        assert torch.equal(again(logits), fusion(logits))
    with pytest.raises(UnknownNameError, match="fusion 'mean'"):
        StageFusion(3, kind="mean")
