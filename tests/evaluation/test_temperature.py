"""The temperature of supervised calibration, against a search over a grid."""

from __future__ import annotations

import math

import pytest
import torch

from hybridcascade.errors import DataError
from hybridcascade.evaluation.metrics import score
from hybridcascade.evaluation.temperature import HIGHEST, LOWEST, fit_temperature


def cross_entropy(logits: torch.Tensor, truth: torch.Tensor, temperature: float) -> float:
    """Naive: row by row, class by class."""
    total = 0.0
    for scores, shares in zip(logits.tolist(), truth.tolist(), strict=True):
        powers = [math.exp(score / temperature) for score in scores]
        total -= sum(share * math.log(p / sum(powers)) for share, p in zip(shares, powers, strict=True))
    return total / len(logits)


@pytest.fixture(params=["labels", "votes"])
def scored(request: pytest.FixtureRequest) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    logits = 4 * torch.randn(60, 5, generator=draw)
    if request.param == "labels":
        chosen = torch.multinomial((logits / 3).softmax(dim=1), 1, generator=draw)[:, 0]
        return logits, torch.nn.functional.one_hot(chosen, 5).float()
    votes = torch.multinomial((logits / 3).softmax(dim=1), 12, replacement=True, generator=draw)
    return logits, torch.nn.functional.one_hot(votes, 5).float().mean(dim=1)


def test_it_is_the_best_of_a_grid(scored: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, truth = scored
    grid = [0.5 * 1.01**step for step in range(300)]
    best = min(grid, key=lambda t: cross_entropy(logits, truth, t))
    found = fit_temperature(logits, truth)
    assert found == pytest.approx(best, rel=0.011)
    assert cross_entropy(logits, truth, found) <= cross_entropy(logits, truth, best) + 1e-12
    assert found > 1.5, "scores that are three times as sure as the truth is are softened"


def test_the_slope_is_zero_there(scored: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, truth = scored
    found, step = fit_temperature(logits, truth), 1e-4
    slope = (cross_entropy(logits, truth, found + step) - cross_entropy(logits, truth, found - step)) / (2 * step)
    assert abs(slope) < 1e-6


def test_the_class_stays_and_kl_and_nll_agree(scored: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, truth = scored
    before = score(logits.softmax(dim=1), truth)
    after = score((logits / fit_temperature(logits, truth)).softmax(dim=1), truth)
    assert after["accuracy"] == before["accuracy"]
    assert after["nll"] < before["nll"]
    assert after["kl"] - before["kl"] == pytest.approx(after["nll"] - before["nll"], abs=1e-6)


def test_scaled_scores_scale_the_temperature(scored: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, truth = scored
    assert fit_temperature(2 * logits, truth) == pytest.approx(2 * fit_temperature(logits, truth), rel=1e-6)
    assert fit_temperature(logits + 7, truth) == pytest.approx(fit_temperature(logits, truth), rel=1e-6)


def test_a_model_that_is_always_right_or_always_wrong_stays_in_range() -> None:
    logits = 3 * torch.eye(4)
    assert fit_temperature(logits, torch.eye(4)) == pytest.approx(LOWEST)
    assert fit_temperature(logits, torch.eye(4).roll(1, 0)) == pytest.approx(HIGHEST)


def test_wrong_input() -> None:
    with pytest.raises(DataError, match="differ in shape"):
        fit_temperature(torch.zeros(3, 4), torch.eye(3))
    with pytest.raises(DataError, match="row 1 is not"):
        fit_temperature(torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]), torch.eye(2))
