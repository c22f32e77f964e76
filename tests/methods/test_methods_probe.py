"""The supervised reference reaches the optimum of its objective, by references that do not use L-BFGS."""

import pytest
import torch

from hybridcascade.backbone.stored import FeatureLayout
from hybridcascade.cascade.logistic import STRENGTHS, choose_strength, fit_logistic, logistic_loss
from hybridcascade.errors import DataError, SettingsError
from hybridcascade.methods.linear_probe import LinearProbe, lowest_hashes
from hybridcascade.types import ImageBatch


def problem(rows=40, width=5, classes=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, width, generator=draw, dtype=torch.float64)
    truth = torch.randn(width, classes, generator=draw, dtype=torch.float64)
    noisy = features @ truth + torch.randn(rows, classes, generator=draw, dtype=torch.float64)
    return features, noisy.softmax(dim=1)


def naive_objective(flat, features, targets, strength):
    """The objective as it is written, a row and a class at a time; `flat` holds W, then b."""
    classes, width = targets.shape[1], features.shape[1]
    weight, bias = flat[: classes * width].reshape(classes, width), flat[classes * width :]
    total = flat.new_zeros(())
    for x, q in zip(features, targets, strict=True):
        scores = torch.stack([weight[k] @ x + bias[k] for k in range(classes)])
        total = total - sum(q[k] * (scores[k] - scores.exp().sum().log()) for k in range(classes))
    return total / len(features) + strength / 2 * (weight**2).sum()


def test_objective_and_gradient_against_finite_differences():
    features, targets = problem(rows=6)
    draw = torch.Generator().manual_seed(1)
    flat = torch.randn(3 * 5 + 3, generator=draw, dtype=torch.float64)
    value, by_weight, by_bias = logistic_loss(flat[:15].reshape(3, 5), flat[15:], features, targets, 0.3)
    torch.testing.assert_close(value, naive_objective(flat, features, targets, 0.3))
    found = torch.cat([by_weight.flatten(), by_bias])
    for place in range(len(flat)):
        step = torch.zeros_like(flat)
        step[place] = 1e-5
        up, down = (naive_objective(flat + sign * step, features, targets, 0.3) for sign in (1, -1))
        assert found[place].item() == pytest.approx(((up - down) / 2e-5).item(), abs=1e-8)


def newton(features, targets, strength):
    """Newton's method with the exact Hessian of the naive objective; the free direction of the bias is held."""

    def objective(flat):
        return naive_objective(flat, features, targets, strength) + flat[-targets.shape[1] :].sum() ** 2

    flat = torch.zeros(targets.shape[1] * (features.shape[1] + 1), dtype=torch.float64)
    for _ in range(30):
        gradient = torch.func.grad(objective)(flat)
        step = torch.linalg.solve(torch.func.hessian(objective)(flat), gradient)
        flat = flat - step
        if step.abs().max() < 1e-12:
            break
    return flat


@pytest.mark.parametrize("strength", [1.0, 1e-3])
def test_optimum_is_newtons(strength):
    features, targets = problem()
    fit = fit_logistic(features, targets, strength)
    assert fit.gradient < 1e-7
    expected = newton(features, targets, strength)
    torch.testing.assert_close(fit.weight.flatten(), expected[:15], atol=1e-6, rtol=0)
    torch.testing.assert_close(fit.bias - fit.bias.mean(), expected[15:], atol=1e-6, rtol=0)
    assert fit.loss == pytest.approx(naive_objective(expected, features, targets, strength).item(), abs=1e-12)


def test_start_changes_the_way_and_not_the_goal():
    features, targets = problem()
    cold, other = fit_logistic(features, targets, 0.1), fit_logistic(features, targets, 10.0)
    warm = fit_logistic(features, targets, 0.1, start=other)
    torch.testing.assert_close(warm.weight, cold.weight, atol=1e-7, rtol=0)
    with pytest.raises(SettingsError, match="above 0"):
        fit_logistic(features, targets, 0.0)


def test_strength_is_the_one_that_held_out_rows_prefer():
    features, targets = problem(rows=60, width=30)
    held_out = torch.arange(60) % 4 == 0
    strength, tried = choose_strength(features, targets, held_out)
    assert len(tried) == len(STRENGTHS) + 2
    for candidate, found in tried.items():  # each by an exact fit, judged row by row
        fit = fit_logistic(features[~held_out], targets[~held_out], candidate)
        scores = (features[held_out] @ fit.weight.T + fit.bias).log_softmax(dim=1)
        expected = -sum(float(q @ row) for q, row in zip(targets[held_out], scores, strict=True)) / int(held_out.sum())
        assert found == pytest.approx(expected, abs=5e-3)
    assert tried[strength] == min(tried.values())
    assert 1e-4 < strength < 10, "noisy targets in 30 dimensions want some penalty, and not the strongest"


def test_held_out_rows_depend_on_ids_alone():
    ids = [f"{row}.png" for row in range(50)]
    marked = lowest_hashes(ids, 0.2)
    assert int(marked.sum()) == 10
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0)).tolist()
    assert torch.equal(lowest_hashes([ids[row] for row in order], 0.2), marked[order])
    assert lowest_hashes(["a", "b"], 0.9).sum() == lowest_hashes(["a", "b"], 0.01).sum() == 1


def probe(backbone, world, **settings):
    return LinearProbe(backbone=backbone, **world.arguments(), **settings)


def solved(method, plain, targets):
    method.begin_phase("heads", plain, targets)
    return method.solve("heads")


@pytest.mark.parametrize("settings", [{}, {"stages": "all", "pool": "both"}])
def test_probe_is_the_optimum_on_standardised_features(settings, deep_backbone, deep_world):
    method = probe(deep_backbone, deep_world, regularisation=0.05, **settings)
    report = solved(method, deep_world.plain_batches(order=[*range(11, -1, -1)]), deep_world.targets)
    with torch.no_grad():
        rows = method._features(deep_world.plain).double()
    rows = (rows - rows.mean(dim=0)) / rows.std(dim=0, correction=0)
    expected = fit_logistic(rows, deep_world.targets.double(), 0.05)
    wanted = (rows @ expected.weight.T + expected.bias).softmax(dim=1)
    torch.testing.assert_close(method(deep_world.plain).probabilities.double(), wanted, atol=1e-4, rtol=0)
    assert report.loss.item() == pytest.approx(expected.loss, abs=1e-5)
    assert method.learned() == {"regularisation": pytest.approx(0.05)}


def test_rows_without_target_have_no_part(deep_backbone, deep_world):
    targets = deep_world.targets.clone()
    targets[8:] = 0
    method = probe(deep_backbone, deep_world, regularisation=0.1)
    method.begin_phase("heads", deep_world.plain_batches(), targets)
    rows = method._rows[0][:8].double()
    method.solve("heads")
    expected = fit_logistic(rows, targets[:8].double(), 0.1)
    torch.testing.assert_close(method.head.weight.double(), expected.weight, atol=1e-5, rtol=0)


def test_strength_is_chosen_and_told(deep_backbone, deep_world):
    method = probe(deep_backbone, deep_world)
    report = solved(method, deep_world.plain_batches(), deep_world.targets)
    assert report.scalars["regularisation"] == pytest.approx(method.learned()["regularisation"])
    assert {"held_out_loss", "iterations", "gradient"} <= report.scalars.keys()
    few = probe(deep_backbone, deep_world)
    few.begin_phase("heads", deep_world.plain_batches(order=list(range(5))), deep_world.targets[:5])
    assert "held_out_loss" not in few.solve("heads").scalars


def test_stored_features_give_what_pictures_give(deep_backbone, deep_world):
    method = probe(deep_backbone, deep_world, stages="all", pool="both", regularisation=0.1)
    solved(method, deep_world.plain_batches(), deep_world.targets)
    from_pictures = method(deep_world.plain).logits
    needs = method.feature_needs()
    layout = FeatureLayout(needs.taps, deep_backbone.width, deep_backbone.embed_dim, needs.patch_mean)
    with torch.no_grad():
        rows = layout.pack(deep_backbone.forward_taps(deep_world.plain, needs.taps, patch_mean=True))
    deep_backbone.stored_layout = layout
    other = probe(deep_backbone, deep_world, stages="all", pool="both", regularisation=0.1)
    batch = ImageBatch(torch.arange(12), deep_world.ids(range(12)), rows[:, None])
    solved(other, [batch], deep_world.targets)
    torch.testing.assert_close(other(deep_world.plain).logits, from_pictures, atol=1e-4, rtol=1e-4)


def test_missing_or_misfitting_targets_and_order_of_calls(deep_backbone, deep_world):
    method = probe(deep_backbone, deep_world)
    with pytest.raises(SettingsError, match="supervised"):
        method.begin_phase("heads", deep_world.plain_batches())
    with pytest.raises(DataError, match=r"shape \(12, 4\), got \(11, 4\)"):
        method.begin_phase("heads", deep_world.plain_batches(), deep_world.targets[:11])
    with pytest.raises(DataError, match="no picture has one"):
        method.begin_phase("heads", deep_world.plain_batches(), torch.zeros(12, 4))
    with pytest.raises(SettingsError, match="call begin_phase"):
        method.solve("heads")
    with pytest.raises(NotImplementedError, match="solved at once"):
        method.training_loss("heads", deep_world.unlabeled([0]), 0)
