import pytest
import torch

from hybridcascade.errors import SettingsError, UnknownNameError
from hybridcascade.labelling.anchored_mixture import FeatureSet, fit_anchored_mixture
from hybridcascade.labelling.neighbours import nearest_neighbours, smooth_by_neighbours
from hybridcascade.labelling.prototype import prototype_labels
from hybridcascade.labelling.sinkhorn import sinkhorn
from hybridcascade.labelling.soft import LABEL_KINDS, make_labels, refine, sharpen
from hybridcascade.labelling.topk import topk_labels


@pytest.fixture
def world(toy):
    return toy([30, 20, 10, 0], 0, dims=12)


def test_each_kind_is_its_function(world):
    logits, features, texts = world.logits, world.features, world.texts
    topk = refine(logits, kind="topk", per_class=4, epsilon=2.0)
    labels, weights = topk_labels((logits / 2).softmax(dim=1), 4)
    assert torch.equal(topk.labels, labels)
    assert torch.equal(topk.weights, weights)
    vote = refine(logits, features, texts, kind="prototype", scale=20.0, image_share=0.6, balance=0.2)
    labels, weights, _ = prototype_labels(logits, features, texts, scale=20.0, image_share=0.6, balance=0.2)
    assert torch.equal(vote.labels, labels)
    assert torch.equal(vote.weights, weights)
    stage = FeatureSet(torch.randn(60, 5))
    mixture = refine(logits, features, texts, kind="anchored_mixture", anchor=2.0, stages=(stage,), temperature=0.5)
    found = fit_anchored_mixture(logits, [FeatureSet(features, texts), stage], anchor=2.0)
    torch.testing.assert_close(mixture.labels, sharpen(found.labels, 0.5))
    for kind in ("sinkhorn", "softmax", "argmax"):
        plain = refine(logits, kind=kind, epsilon=2.0, temperature=0.5)
        assert torch.equal(plain.labels, make_labels(logits, kind, 2.0, temperature=0.5))
        assert torch.equal(plain.weights, torch.ones(60))


@pytest.mark.parametrize("kind", LABEL_KINDS)
def test_all_kinds_give_distributions_and_the_same_twice(kind, world):
    found = [refine(world.logits, world.features, world.texts, kind=kind, neighbours=3) for _ in range(2)]
    assert torch.equal(found[0].labels, found[1].labels)
    assert found[0].labels.dtype == found[0].weights.dtype == found[0].prior.dtype == torch.float32
    torch.testing.assert_close(found[0].labels.sum(dim=1), torch.ones(60))
    torch.testing.assert_close(found[0].prior, found[0].labels.mean(dim=0), rtol=1e-3, atol=1e-4)
    assert found[0].weights.min() >= 0


def test_smoothing_comes_first(world):
    _, rows = nearest_neighbours(world.features, 4)
    smooth = smooth_by_neighbours((world.logits / 2).softmax(dim=1), rows, 0.7, 2)
    numbers = {"epsilon": 2.0, "neighbours": 4, "neighbour_share": 0.7, "neighbour_rounds": 2}
    found = refine(world.logits, world.features, kind="softmax", **numbers)
    torch.testing.assert_close(found.labels, smooth)
    found = refine(world.logits, world.features, kind="sinkhorn", **numbers)
    torch.testing.assert_close(found.labels, sinkhorn(smooth.log()), rtol=1e-4, atol=1e-6)


def test_given_and_estimated_priors(world):
    shares = torch.tensor([0.5, 0.3, 0.1, 0.1])
    found = refine(world.logits, prior=shares)
    torch.testing.assert_close(found.labels, sinkhorn(world.logits, prior=shares))
    torch.testing.assert_close(found.prior, shares)
    mixture = fit_anchored_mixture(world.logits, [FeatureSet(world.features, world.texts)]).labels.mean(dim=0)
    found = refine(world.logits, world.features, world.texts, prior="estimated", prior_floor=0.1)
    torch.testing.assert_close(found.prior, 0.9 * mixture + 0.1 / 4)
    torch.testing.assert_close(found.labels.mean(dim=0), found.prior, rtol=1e-3, atol=1e-4)
    without = refine(world.logits, prior="estimated")
    torch.testing.assert_close(without.labels.mean(dim=0), without.prior, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(without.prior, torch.full((4,), 0.25), atol=0.05)


def test_rejects(world):
    with pytest.raises(UnknownNameError, match=r"kind of labels.*Did you mean 'topk'"):
        refine(world.logits, kind="top_k")
    with pytest.raises(UnknownNameError, match="class prior 'estimate'"):
        refine(world.logits, prior="estimate")
    with pytest.raises(SettingsError, match="prior_power 0"):
        refine(world.logits, prior="estimated", prior_power=0.5)
    for kind in ("prototype", "anchored_mixture"):
        with pytest.raises(SettingsError, match=f"{kind} labels need image features"):
            refine(world.logits, kind=kind)
    with pytest.raises(SettingsError, match="3 neighbours needs image features"):
        refine(world.logits, neighbours=3)
