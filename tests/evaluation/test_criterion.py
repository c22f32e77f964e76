"""The criterion without labels: each part against a naive loop, and at its extremes."""

import math

import pytest
import torch

from hybridcascade.errors import DataError
from hybridcascade.evaluation.criterion import (
    agreement,
    balance,
    churn,
    criterion_parts,
    margin,
    stage_agreement,
    view_agreement,
)
from hybridcascade.evaluation.criterion_weights import WATCHED, WEIGHTS, weighted_mean


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).mul(2).softmax(dim=-1)


def naive_kappa(first: torch.Tensor, second: torch.Tensor) -> float:
    n, classes = first.shape
    one = [max(range(classes), key=lambda k, r=row: r[k]) for row in first.tolist()]
    two = [max(range(classes), key=lambda k, r=row: r[k]) for row in second.tolist()]
    observed = sum(a == b for a, b in zip(one, two, strict=True)) / n
    chance = sum((one.count(k) / n) * (two.count(k) / n) for k in range(classes))
    return max(0.0, (observed - chance) / (1 - chance))


def test_agreement_is_cohens_kappa():
    first, noise = draw(200, 4), draw(200, 4, seed=1)
    for share in (0.0, 0.3, 0.7):
        second = share * first + (1 - share) * noise
        assert agreement(first, second) == pytest.approx(naive_kappa(first, second), abs=1e-12)
    assert agreement(first, first) == pytest.approx(1.0)
    assert agreement(first, noise) < 0.15


def test_one_class_for_everything_agrees_on_nothing():
    collapsed = torch.tensor([[0.9, 0.05, 0.05]]).repeat(50, 1)
    assert agreement(collapsed, collapsed) == 0.0
    assert balance(collapsed) < 0.5
    parts = criterion_parts(torch.stack([collapsed, collapsed]))
    healthy = torch.eye(3).repeat(17, 1)[:50] * 0.85 + 0.05
    assert weighted_mean(parts) < weighted_mean(criterion_parts(torch.stack([healthy, healthy]))) - 0.4


def test_views_and_stages_are_means_over_pairs():
    views = torch.stack([draw(60, 3, seed=s) * 0.3 + draw(60, 3, seed=9) for s in range(3)])
    pairs = [naive_kappa(views[i], views[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert view_agreement(views) == pytest.approx(math.fsum(pairs) / 3)
    assert stage_agreement(views.transpose(0, 1)) == pytest.approx(math.fsum(pairs) / 3)


def test_margin_balance_and_churn():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.25, 0.25, 0.5]])
    assert margin(p) == pytest.approx((0.5 + 0.1 + 0.25) / 3)
    mean = [1.05 / 3, 0.95 / 3, 1.0 / 3]
    assert balance(p) == pytest.approx(-sum(m * math.log(m) for m in mean) / math.log(3))
    assert balance(torch.eye(3)) == pytest.approx(1.0)
    assert balance(torch.tensor([[1.0, 0.0, 0.0]])) == 0.0
    assert churn(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 2, 1])) == 0.5


def test_parts_are_those_that_can_be_told_and_combine_by_their_weights():
    views, stages = torch.stack([draw(40, 3), draw(40, 3, seed=1)]), draw(40, 2, 3, seed=2)
    assert set(criterion_parts(views[:1])) == {"balance", "margin"}
    assert set(criterion_parts(views, stages[:, :1])) == {"views", "balance", "margin"}
    parts = criterion_parts(views, stages, views[0].argmax(1))
    assert set(parts) == {*WEIGHTS, *WATCHED}
    assert parts["stability"] == 1.0
    assert sum(WEIGHTS.values()) == pytest.approx(1.0)
    assert weighted_mean(parts) == pytest.approx(sum(WEIGHTS[n] * parts[n] for n in WEIGHTS))
    some = (0.25 * parts["balance"] + 0.5 * parts["views"]) / 0.75
    assert weighted_mean(parts, ("balance", "views", "margin")) == pytest.approx(some)
    with pytest.raises(DataError, match="views, stages, balance"):
        weighted_mean({"margin": 0.9, "stability": 1.0})
    assert all(0.0 <= value <= 1.0 for value in parts.values())


def test_it_follows_the_accuracy_where_errors_are_independent():
    truth = torch.arange(3).repeat(100)
    scores = []
    for share in (0.1, 0.4, 0.8):
        keep = [torch.rand(300, generator=torch.Generator().manual_seed(s)) < share for s in (3, 4)]
        guess = [torch.randint(0, 3, (300,), generator=torch.Generator().manual_seed(s)) for s in (5, 6)]
        labels = [torch.where(k, truth, g) for k, g in zip(keep, guess, strict=True)]
        views = torch.stack([torch.eye(3)[label] * 0.7 + 0.1 for label in labels])
        scores.append(weighted_mean(criterion_parts(views)))
    assert scores == sorted(scores)
    assert scores[2] > scores[0] + 0.2


def test_wrong_input_is_told():
    with pytest.raises(DataError, match=r"\[N, K\]"):
        agreement(torch.ones(3, 2), torch.ones(4, 2))
    with pytest.raises(DataError, match="at least two"):
        view_agreement(torch.ones(1, 4, 2))
    with pytest.raises(DataError, match="needs one of views"):
        weighted_mean({}, ())
