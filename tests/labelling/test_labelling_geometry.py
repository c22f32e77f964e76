"""Labels shaped by the geometry of the classes, against loops."""

import pytest
import torch

from hybridcascade.errors import SettingsError
from hybridcascade.labelling.geometry import gate_polarity, spread_to_near

SIGNS = torch.tensor([1, 1, -1, 0, -1])


@pytest.fixture
def labels():
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).softmax(dim=1)


@pytest.fixture
def near():
    return torch.randn(5, 5, generator=torch.Generator().manual_seed(1)).softmax(dim=1)


def test_strength_zero_changes_nothing(labels, near):
    assert torch.equal(spread_to_near(labels, near, 0.0), labels)
    assert torch.equal(gate_polarity(labels, SIGNS, 0.0), labels)


def test_spread_is_a_mixture_of_the_classes_distributions(labels, near):
    found = spread_to_near(labels, near, 0.3)
    for row, label in zip(found, labels, strict=True):
        expected = 0.7 * label
        for k in range(5):
            expected = expected + 0.3 * label[k] * near[k]
        torch.testing.assert_close(row, expected)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(7))


def test_gate_takes_from_the_smaller_side(labels):
    found = gate_polarity(labels, SIGNS, 2.0)
    for row, label in zip(found, labels, strict=True):
        good, bad = float(label[:2].sum()), float(label[[2, 4]].sum())
        weight = (min(good, bad) / max(good, bad)) ** 2
        expected = label.clone()
        for k in (2, 4) if good > bad else (0, 1):
            expected[k] *= weight
        torch.testing.assert_close(row, expected / expected.sum())
        assert (row > 0).all(), "a soft gate forbids nothing"


def test_a_label_of_one_side_only_stays():
    alone = torch.tensor([[0.6, 0.4, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(gate_polarity(alone, SIGNS, 1.5), alone)
    neutral = torch.tensor([[0.0, 0.0, 0.0, 1.0, 0.0]])
    torch.testing.assert_close(gate_polarity(neutral, SIGNS, 1.5), neutral)


def test_wrong_numbers(labels, near):
    with pytest.raises(SettingsError, match=r"wheel in \[0, 1\], got 1.5"):
        spread_to_near(labels, near, 1.5)
    with pytest.raises(SettingsError, match="5 distributions over 5 classes"):
        spread_to_near(labels, near[:4], 0.5)
    with pytest.raises(SettingsError, match="polarity_gate"):
        gate_polarity(labels, SIGNS, -1.0)
    with pytest.raises(SettingsError, match="one polarity for each of 5 classes"):
        gate_polarity(labels, SIGNS[:3], 1.0)
