import math

import pytest
import torch

from hybridcascade.errors import SettingsError
from hybridcascade.labelling.argmax import argmax_labels
from hybridcascade.labelling.sinkhorn import column_bias, estimated_prior, marginal_prior, sinkhorn


def naive_sinkhorn(logits, epsilon, prior, turns):
    """The textbook loop: M = exp(logits/eps); rows to 1/N, columns to the prior, in turns."""
    n, k = len(logits), len(logits[0])
    m = [[math.exp(v / epsilon) for v in row] for row in logits]
    for _ in range(turns):
        for j in range(k):
            total = sum(m[i][j] for i in range(n))
            for i in range(n):
                m[i][j] *= prior[j] / total
        for i in range(n):
            total = sum(m[i])
            m[i] = [v / total / n for v in m[i]]
    return [[n * v for v in row] for row in m]


@pytest.mark.parametrize("prior", [None, [0.5, 0.3, 0.1, 0.1]])
@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_matches_the_loop(prior, epsilon):
    torch.manual_seed(0)
    logits = torch.randn(12, 4)
    shares = prior or [0.25] * 4
    expected = torch.tensor(naive_sinkhorn(logits.tolist(), epsilon, shares, 400))
    found = sinkhorn(logits, epsilon, None if prior is None else torch.tensor(prior), iterations=400, tolerance=1e-9)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(12))
    torch.testing.assert_close(found.mean(dim=0), torch.tensor(shares), rtol=1e-4, atol=1e-5)


def test_rebalances_a_biased_teacher():
    torch.manual_seed(0)
    logits = torch.randn(400, 3) + torch.tensor([3.0, 0.0, 0.0])
    assert logits.argmax(dim=1).eq(0).float().mean() > 0.8
    labels = sinkhorn(logits, 0.5)
    torch.testing.assert_close(labels.mean(dim=0), torch.full((3,), 1 / 3), rtol=1e-3, atol=1e-4)


def test_stable_at_extreme_scales():
    labels = sinkhorn(1000 * torch.randn(50, 5), epsilon=0.01, iterations=50)
    assert torch.isfinite(labels).all()
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(50))


def test_a_share_of_zero_empties_the_class():
    labels = sinkhorn(torch.randn(20, 3), prior=torch.tensor([0.5, 0.5, 0.0]))
    assert labels[:, 2].sum() == 0
    assert torch.isfinite(labels).all()


def test_balanced_predictions_stay_as_they_are():
    logits = torch.stack([torch.tensor([2.0, 0.0, 0.0]).roll(i) for i in range(3)])
    torch.testing.assert_close(sinkhorn(logits), logits.softmax(dim=1))


def test_marginal_prior_between_uniform_and_predicted():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]])
    torch.testing.assert_close(marginal_prior(p, 0.0), torch.full((3,), 1 / 3))
    torch.testing.assert_close(marginal_prior(p, 1.0), p.mean(dim=0))
    half = p.mean(dim=0).sqrt()
    torch.testing.assert_close(marginal_prior(p, 0.5), half / half.sum())


@pytest.mark.parametrize("power", [0.0, 0.5])
@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_column_bias_rebuilds_the_labels(epsilon, power):
    torch.manual_seed(0)
    logits = torch.randn(60, 4) + torch.tensor([2.0, 0.0, -1.0, 0.5])
    labels = sinkhorn(logits, epsilon, marginal_prior((logits / epsilon).softmax(dim=1), power))
    bias = column_bias(logits, labels, epsilon)
    torch.testing.assert_close((logits / epsilon + bias).softmax(dim=1), labels, rtol=0, atol=1e-5)
    torch.testing.assert_close(bias.mean(), torch.tensor(0.0), rtol=0, atol=1e-6)
    assert bias[0] < -0.1 < 0.1 < bias[2]


def test_column_bias_of_an_empty_class_is_the_lowest_of_the_others():
    torch.manual_seed(0)
    logits = torch.randn(20, 3)
    labels = sinkhorn(logits, prior=torch.tensor([0.7, 0.3, 0.0]))
    bias = column_bias(logits, labels)
    assert torch.isfinite(bias).all()
    assert bias[2] == bias[:2].min()
    torch.testing.assert_close((logits + bias)[:, :2].softmax(dim=1), labels[:, :2], rtol=0, atol=1e-5)


def naive_estimate(logits, epsilon, strength, turns):
    n, k = len(logits), len(logits[0])
    p = [[math.exp(v / epsilon) for v in row] for row in logits]
    q = [1 / k] * k
    for _ in range(turns):
        sums = [0.0] * k
        for row in p:
            joint = [a * b for a, b in zip(q, row, strict=True)]
            sums = [s + j / sum(joint) for s, j in zip(sums, joint, strict=True)]
        q = [(s / n + strength / k) / (1 + strength) for s in sums]
    return q


@pytest.mark.parametrize("strength", [0.0, 0.3])
@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_estimated_prior_matches_the_loop(epsilon, strength):
    torch.manual_seed(0)
    logits = 3 * torch.randn(30, 4) + torch.tensor([2.0, 0.0, -1.0, 0.5])
    expected = torch.tensor(naive_estimate(logits.tolist(), epsilon, strength, 300), dtype=torch.float64)
    found = estimated_prior(logits, epsilon, strength, iterations=300, tolerance=0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_estimated_prior_finds_the_shares_of_calibrated_predictions():
    draw = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.6, 0.3, 0.1, 0.0])
    truth = torch.multinomial(shares, 4000, replacement=True, generator=draw)
    # One-dimensional Gaussians around 0..3: their log-likelihoods are calibrated logits under equal shares.
    x = truth + 0.7 * torch.randn(4000, generator=draw)
    logits = -((x[:, None] - torch.arange(4.0)) ** 2) / (2 * 0.7**2)
    found = estimated_prior(logits, strength=0.0, iterations=500, tolerance=1e-9)
    torch.testing.assert_close(found.float(), shares, rtol=0, atol=0.03)
    assert estimated_prior(logits, strength=0.5)[3] > 0.04
    balanced = sinkhorn(logits, prior=found, tolerance=1e-8)
    posterior = (logits + found.float().log()).softmax(dim=1)
    torch.testing.assert_close(balanced, posterior, rtol=1e-3, atol=1e-4)


def test_estimated_prior_rejects():
    with pytest.raises(SettingsError, match="positive epsilon"):
        estimated_prior(torch.randn(4, 3), epsilon=0)
    with pytest.raises(SettingsError, match="strength from 0"):
        estimated_prior(torch.randn(4, 3), strength=-1)


@pytest.mark.parametrize(
    ("epsilon", "prior", "match"),
    [(0.0, None, "epsilon"), (1.0, [0.5, 0.5], "3 non-negative shares"), (1.0, [0.9, 0.9, -0.8], "non-negative")],
)
def test_rejects(epsilon, prior, match):
    with pytest.raises(SettingsError, match=match):
        sinkhorn(torch.randn(4, 3), epsilon, None if prior is None else torch.tensor(prior))


def test_argmax_labels_takes_the_first_maximum():
    labels = argmax_labels(torch.tensor([[1.0, 3.0, 3.0], [0.0, -1.0, -1.0]]))
    assert labels.tolist() == [[0, 1, 0], [1, 0, 0]]
