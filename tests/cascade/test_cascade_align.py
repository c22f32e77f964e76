import torch
from torch import nn

from hybridcascade.cascade.aggregation import make_aggregation
from hybridcascade.cascade.align import CascadeStages, StageAlignment

SIZES = (2, 1, 3)


def made(kind="nga"):
    torch.manual_seed(0)
    start = (torch.randn(8), torch.randn(8), torch.randn(8, 5))
    alignment = StageAlignment(SIZES, *start)
    for parameter in alignment.parameters():  # make the stages differ
        parameter.data += 0.3 * torch.randn_like(parameter)
    return start, alignment, CascadeStages(make_aggregation(kind, SIZES), alignment)


def naive_aligned(alignment, tokens):
    out = []
    position = 0
    for stage, size in enumerate(SIZES):
        norm = nn.LayerNorm(8)
        norm.weight.data, norm.bias.data = alignment.ln_weight[stage].data, alignment.ln_bias[stage].data
        for _ in range(size):
            out.append(norm(tokens[:, position]) @ alignment.projection[stage])
            position += 1
    return torch.stack(out, dim=1)


def test_starts_from_the_given_layer_norm_and_projection():
    weight, bias, projection = torch.randn(8), torch.randn(8), torch.randn(8, 5)
    alignment = StageAlignment(SIZES, weight, bias, projection)
    norm = nn.LayerNorm(8)
    norm.weight.data, norm.bias.data = weight, bias
    tokens = torch.randn(4, 6, 8)
    torch.testing.assert_close(alignment(tokens), norm(tokens) @ projection)
    weight.zero_()
    assert alignment.ln_weight.abs().sum() > 0  # owns its copy


def test_alignment_matches_the_loop():
    _, alignment, _ = made()
    tokens = torch.randn(4, 6, 8)
    torch.testing.assert_close(alignment(tokens), naive_aligned(alignment, tokens))


def test_stages_equal_the_sum_of_aligned_blocks_for_every_aggregation():
    tokens = torch.randn(4, 6, 8)
    for kind in ("nga", "free", "mean", "last"):
        _, alignment, stages = made(kind)
        aligned = naive_aligned(alignment, tokens)
        weights = stages.aggregation.weights()
        expected = torch.stack([sum(weights[s, p] * aligned[:, p] for p in range(6)) for s in range(3)], dim=1)
        torch.testing.assert_close(stages(tokens), expected)


def test_every_parameter_gets_gradient():
    _, _, stages = made("nga")
    stages(torch.randn(4, 6, 8)).square().sum().backward()
    for name, parameter in stages.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
