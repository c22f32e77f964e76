import math

import pytest
import torch

from hybridcascade.cascade.aggregation import (
    FixedAggregation,
    FreeAggregation,
    GaussianAggregation,
    inverse_softplus,
    make_aggregation,
    stage_mask,
)
from hybridcascade.errors import SettingsError, UnknownNameError

SIZES = (3, 2, 3)


def naive_stages(blocks, sizes, weight):
    """Loop reference: `weight(stage, l, d)` with l from 1 to d."""
    out = torch.zeros(blocks.shape[0], len(sizes), blocks.shape[2], dtype=blocks.dtype)
    position = 0
    for stage, d in enumerate(sizes):
        for layer in range(1, d + 1):
            for b in range(blocks.shape[0]):
                out[b, stage] += weight(stage, layer, d) * blocks[b, position]
            position += 1
    return out


def naive_gaussian(sigmas):
    def weight(stage, layer, d):
        raw = [math.exp(-((d - k + 1) ** 2) / (2 * sigmas[stage] ** 2)) for k in range(1, d + 1)]
        return raw[layer - 1] / sum(raw)

    return weight


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
def test_gaussian_matches_the_formula(sigma):
    blocks = torch.randn(4, 8, 16)
    made = GaussianAggregation(SIZES, sigma)
    with torch.no_grad():
        made.raw_sigma[1] = inverse_softplus(0.7)
    expected = naive_stages(blocks, SIZES, naive_gaussian([sigma, 0.7, sigma]))
    torch.testing.assert_close(made(blocks), expected)


def test_gaussian_weights_by_hand():
    weights = GaussianAggregation((2,), 1.0).weights()[0]
    ratio = math.exp(-2.0) / math.exp(-0.5)  # distances 2 and 1
    torch.testing.assert_close(weights, torch.tensor([ratio, 1.0]) / (1 + ratio))


def test_gaussian_per_layer_has_a_sigma_for_each_block():
    made = GaussianAggregation((2, 1), 1.0, per_layer=True)
    assert made.raw_sigma.shape == (3,)
    with torch.no_grad():
        made.raw_sigma[0] = inverse_softplus(2.0)
    raw = torch.tensor([math.exp(-4 / 8), math.exp(-1 / 2)])
    torch.testing.assert_close(made.weights()[0, :2], raw / raw.sum())


def test_gaussian_does_not_underflow_for_a_tiny_sigma():
    weights = GaussianAggregation((4,), 0.01).weights()
    torch.testing.assert_close(weights, torch.tensor([[0.0, 0, 0, 1]]))


def test_gaussian_sigma_gradient_by_finite_differences():
    made = GaussianAggregation(SIZES, 1.3).double()
    made.mask = made.mask.bool()
    blocks = torch.randn(3, 8, 5, dtype=torch.float64)
    probe = torch.randn(3, 3, 5, dtype=torch.float64)

    def value():
        return float((made(blocks) * probe).sum())

    (made(blocks) * probe).sum().backward()
    step = 1e-6
    for stage in range(3):
        with torch.no_grad():
            made.raw_sigma[stage] += step
            up = value()
            made.raw_sigma[stage] -= 2 * step
            down = value()
            made.raw_sigma[stage] += step
        assert made.raw_sigma.grad[stage].item() == pytest.approx((up - down) / (2 * step), rel=1e-5)
        assert abs(made.raw_sigma.grad[stage].item()) > 1e-6


def test_sigma_stays_positive_through_softplus():
    made = GaussianAggregation(SIZES, 1.0)
    torch.testing.assert_close(made.sigma(), torch.ones(3))
    with torch.no_grad():
        made.raw_sigma.fill_(-5.0)
    assert (made.sigma() > 0).all()
    assert torch.isfinite(made.weights()).all()


def test_single_block_stages_declare_nothing():
    for made in (GaussianAggregation((1, 1)), FreeAggregation((1, 1)), FixedAggregation(SIZES, "mean")):
        assert list(made.parameters()) == []
    torch.testing.assert_close(GaussianAggregation((1, 1)).weights(), torch.eye(2))


def test_free_starts_as_cascade_clip_has_it():
    made = FreeAggregation(SIZES)
    expected = torch.tensor([math.exp(-2), math.exp(-0.5), 1.0])
    torch.testing.assert_close(made.weights()[0, :3], expected)
    blocks = torch.randn(2, 8, 4)
    reference = naive_stages(blocks, SIZES, lambda s, layer, d: math.exp(-((d - layer) ** 2) / 2))
    torch.testing.assert_close(made(blocks), reference)


def test_mean_and_last():
    blocks = torch.randn(2, 8, 4)
    torch.testing.assert_close(
        make_aggregation("mean", SIZES)(blocks), naive_stages(blocks, SIZES, lambda s, layer, d: 1 / d)
    )
    torch.testing.assert_close(
        make_aggregation("last", SIZES)(blocks), naive_stages(blocks, SIZES, lambda s, layer, d: float(layer == d))
    )


def test_mask_and_names():
    assert stage_mask((1, 2)).tolist() == [[True, False, False], [False, True, True]]
    with pytest.raises(SettingsError, match="at least one block"):
        stage_mask((2, 0))
    with pytest.raises(SettingsError, match="positive sigma"):
        GaussianAggregation(SIZES, 0.0)
    with pytest.raises(UnknownNameError, match="Did you mean 'mean'"):
        make_aggregation("meen", SIZES)


def test_stage_weights_for_reports():
    table = make_aggregation("mean", (2, 1)).stage_weights()
    assert table == [[0.5, 0.5], [1.0]]
