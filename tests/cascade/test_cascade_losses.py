import math

import pytest
import torch
from torch.nn import functional

from hybridcascade.cascade.losses import (
    fairness,
    joint_loss,
    joint_target,
    smooth_target,
    soft_cross_entropy,
    stage_consistency,
)
from hybridcascade.errors import SettingsError


def naive_softmax(row):
    top = max(row)
    values = [math.exp(v - top) for v in row]
    return [v / sum(values) for v in values]


def finite_difference(function, at, step=1e-6):
    gradient = torch.zeros_like(at)
    for i in range(at.numel()):
        moved = at.clone()
        moved.view(-1)[i] += step
        up = float(function(moved))
        moved.view(-1)[i] -= 2 * step
        gradient.view(-1)[i] = (up - float(function(moved))) / (2 * step)
    return gradient


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_cross_entropy_naive(smoothing):
    logits, target = torch.randn(5, 4), torch.rand(5, 4).softmax(dim=1)
    total = 0.0
    for z, q in zip(logits.tolist(), target.tolist(), strict=True):
        p = naive_softmax(z)
        total -= sum(((1 - smoothing) * q[k] + smoothing / 4) * math.log(p[k]) for k in range(4))
    assert soft_cross_entropy(logits, target, smoothing).item() == pytest.approx(total / 5, rel=1e-5)


def test_hard_labels_equal_torch():
    logits, labels = torch.randn(6, 4), torch.randint(0, 4, (6,))
    expected = functional.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(soft_cross_entropy(logits, labels, 0.1), expected)


def test_weighted_cross_entropy_counts_only_the_weighted():
    logits, target = torch.randn(3, 4), torch.rand(3, 4).softmax(dim=1)
    weighted = soft_cross_entropy(logits, target, weight=torch.tensor([2.0, 0.0, 2.0]))
    torch.testing.assert_close(weighted, soft_cross_entropy(logits[[0, 2]], target[[0, 2]]))


def test_joint_gradient_is_p_minus_target():
    """d loss / d z = p - (1 - lam) y - lam l, checked by finite differences and by autograd."""
    torch.manual_seed(1)
    lam = 0.8
    distribution = torch.rand(1, 5, dtype=torch.float64).softmax(dim=1)
    z = torch.randn(1, 5, dtype=torch.float64)
    y = functional.one_hot(distribution.argmax(dim=1), 5).double()
    analytic = z.softmax(dim=1) - (1 - lam) * y - lam * distribution

    def double_loss(values):
        q = (1 - lam) * y + lam * distribution
        return -(q * values.log_softmax(dim=1)).sum()

    torch.testing.assert_close(finite_difference(double_loss, z), analytic, rtol=1e-6, atol=1e-8)
    single = z.float().requires_grad_()
    joint_loss(single, distribution.float(), lam).backward()
    torch.testing.assert_close(single.grad, analytic.float(), rtol=1e-4, atol=1e-6)
    step = 1e-2  # float32 loss: a coarse step, central differences
    numeric = finite_difference(lambda v: joint_loss(v, distribution.float(), lam), z.float(), step)
    torch.testing.assert_close(numeric, analytic.float(), rtol=1e-2, atol=1e-3)


def test_joint_optimum_is_the_target_itself():
    distribution = torch.tensor([[0.588, 0.242, 0.1, 0.07]])
    z = torch.zeros(1, 4, requires_grad=True)
    optimiser = torch.optim.SGD([z], lr=1.0)
    for _ in range(2000):
        optimiser.zero_grad()
        joint_loss(z, distribution, 0.8).backward()
        optimiser.step()
    torch.testing.assert_close(z.detach().softmax(dim=1), joint_target(distribution, 0.8), rtol=1e-3, atol=1e-3)


def test_joint_target_takes_the_first_maximum():
    target = joint_target(torch.tensor([[0.4, 0.4, 0.2]]), 0.5)
    torch.testing.assert_close(target, torch.tensor([[0.7, 0.2, 0.1]]))


def naive_consistency(stage_logits):
    total, pairs = 0.0, 0
    batch, stages, _ = stage_logits.shape
    for i in range(stages):
        for j in range(i + 1, stages):
            pairs += 1
            for b in range(batch):
                p_i, p_j = naive_softmax(stage_logits[b, i].tolist()), naive_softmax(stage_logits[b, j].tolist())
                total += sum(q * math.log(q / p) for q, p in zip(p_j, p_i, strict=True)) / batch
    return total / pairs


def test_consistency_naive():
    logits = torch.randn(4, 3, 5)
    expected = naive_consistency(logits)
    assert stage_consistency(logits).item() == pytest.approx(expected, rel=1e-5)
    assert stage_consistency(logits, detach_teacher=True).item() == pytest.approx(expected, rel=1e-5)
    assert stage_consistency(logits.flip(1)).item() != pytest.approx(expected, rel=1e-3)  # KL has a direction


def test_consistency_detached_teacher_gets_no_gradient():
    logits = torch.randn(4, 3, 5, requires_grad=True)
    stage_consistency(logits, detach_teacher=True).backward()
    assert logits.grad[:, 2].abs().sum() == 0  # the deepest only teaches
    assert (logits.grad[:, :2].abs().sum(dim=(0, 2)) > 0).all()
    logits.grad = None
    stage_consistency(logits).backward()
    assert logits.grad[:, 2].abs().sum() > 0


def test_consistency_of_one_stage_is_zero():
    assert stage_consistency(torch.randn(4, 1, 5)).item() == 0


def test_fairness_naive_and_minimum():
    logits = torch.randn(6, 4)
    rows = [naive_softmax(row) for row in logits.tolist()]
    means = [sum(row[k] for row in rows) / 6 for k in range(4)]
    assert fairness(logits).item() == pytest.approx(-sum(math.log(m) for m in means) / 4, rel=1e-5)
    assert fairness(torch.zeros(6, 4)).item() == pytest.approx(math.log(4), rel=1e-5)
    assert fairness(logits).item() >= math.log(4)


def test_ranges():
    with pytest.raises(SettingsError, match="label smoothing"):
        smooth_target(torch.ones(1, 2) / 2, 1.0)
    with pytest.raises(SettingsError, match="share"):
        joint_target(torch.ones(1, 2) / 2, 1.5)
