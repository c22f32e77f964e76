"""The hand-written kernels against their formulas, and their gradients against autograd and finite differences."""

import copy

import pytest
import torch
from open_clip.transformer import LayerNorm, QuickGELU, ResidualAttentionBlock
from torch import nn

from hybridcascade.backbone.blocks import run_block, run_block_for_cls
from hybridcascade.backbone.kernels import frozen_quick_mlp, packed_attention

BATCH, LENGTH, HEADS, WIDTH = 2, 9, 2, 4
GROUPS = [(), (3,), (2, 3)]


def naive_attention(packed, heads, gated):
    """Token by token: which columns does it see, in which softmax."""
    batch, length, _ = packed.shape
    query, key, value = packed.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    end = 1 + sum(count for count, _ in gated)
    own = [0, *range(end, length)]
    rows = []
    for token in range(length):
        row = scores[:, :, token]
        if token not in own:
            rows.append((row.softmax(-1).unsqueeze(-1) * value).sum(2))
            continue
        mixed = (row[..., own].softmax(-1).unsqueeze(-1) * value[:, :, own]).sum(2)
        start = 1
        for count, gate in gated:
            part = list(range(start, start + count))
            mixed = mixed + gate.view(1, -1, 1) * (row[..., part].softmax(-1).unsqueeze(-1) * value[:, :, part]).sum(2)
            start += count
        rows.append(mixed)
    return torch.stack(rows, dim=1).flatten(2)


def attention_inputs(counts, dtype):
    draw = torch.Generator().manual_seed(4)
    packed = torch.randn(BATCH, LENGTH, 3 * HEADS * WIDTH, generator=draw).to(dtype).requires_grad_()
    gates = [torch.randn(HEADS, generator=draw).to(dtype).requires_grad_() for _ in counts]
    return packed, gates


@pytest.mark.parametrize("counts", GROUPS)
def test_attention_equals_its_formula(counts):
    packed, gates = attention_inputs(counts, torch.float64)
    gated = list(zip(counts, gates, strict=True))
    found, expected = packed_attention(packed, HEADS, gated), naive_attention(packed, HEADS, gated)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(5))
    ours, theirs = (torch.autograd.grad((out * weights).sum(), [packed, *gates]) for out in (found, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("counts", GROUPS)
def test_attention_gradients_match_finite_differences(counts):
    packed, gates = attention_inputs(counts, torch.float64)
    assert torch.autograd.gradcheck(
        lambda packed, *gates: packed_attention(packed, HEADS, list(zip(counts, gates, strict=True))), (packed, *gates)
    )


@pytest.mark.parametrize("counts", GROUPS)
def test_attention_in_bf16_is_as_exact_as_autograd(counts):
    packed, gates = attention_inputs(counts, torch.float32)
    gated = list(zip(counts, gates, strict=True))
    expected = torch.autograd.grad(naive_attention(packed, HEADS, gated).square().sum(), packed)[0]
    low = packed.detach().bfloat16().requires_grad_()
    errors = [
        (torch.autograd.grad(run(low, HEADS, gated).float().square().sum(), low)[0].float() - expected).norm()
        for run in (packed_attention, naive_attention)
    ]
    assert errors[0] < 1.5 * errors[1]
    assert errors[0] < 0.03 * expected.norm()


def test_mlp_equals_its_formula_and_finite_differences():
    torch.manual_seed(0)
    fc, proj = nn.Linear(3, 7).double().requires_grad_(False), nn.Linear(7, 3).double().requires_grad_(False)
    tokens = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    found = frozen_quick_mlp(tokens, fc, proj)
    torch.testing.assert_close(found, proj(QuickGELU()(fc(tokens))))
    assert torch.autograd.gradcheck(lambda tokens: frozen_quick_mlp(tokens, fc, proj), tokens)


def make_block(frozen=True):
    torch.manual_seed(1)
    block = ResidualAttentionBlock(8, HEADS, act_layer=QuickGELU, norm_layer=LayerNorm).double().eval()
    for parameter in block.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter)).requires_grad_(not frozen)
    return block


@pytest.mark.parametrize("grad", [True, False])
def test_block_equals_open_clips(grad):
    block = make_block()
    tokens = torch.randn(2, 6, 8, dtype=torch.float64, requires_grad=grad)
    torch.testing.assert_close(run_block(block, tokens), block(tokens))


def test_a_block_that_trains_gets_all_its_gradients():
    ours = make_block(frozen=False)
    theirs = copy.deepcopy(ours)
    tokens = torch.randn(2, 6, 8, dtype=torch.float64)
    run_block(ours, tokens).square().sum().backward()
    theirs(tokens).square().sum().backward()
    for (name, own), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert own.grad.abs().max() > 0, name
        torch.testing.assert_close(own.grad, other.grad)


@pytest.mark.parametrize("counts", GROUPS)
def test_the_block_for_cls_gives_cls_of_the_whole_block(counts):
    block = make_block()
    tokens = torch.randn(2, LENGTH, 8, dtype=torch.float64, requires_grad=True)
    gates = [torch.randn(HEADS, dtype=torch.float64, requires_grad=True) for _ in counts]
    gated = list(zip(counts, gates, strict=True))
    alone, whole = run_block_for_cls(block, tokens, gated), run_block(block, tokens, gated)[:, :1]
    torch.testing.assert_close(alone, whole)
    ours, theirs = (torch.autograd.grad(out.square().sum(), [tokens, *gates]) for out in (alone, whole))
    torch.testing.assert_close(ours, theirs)
