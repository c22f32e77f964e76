import copy

import pytest
import torch

from hybridcascade.backbone.plans import stage_plan
from hybridcascade.backbone.prompts import PromptEntry, PromptSpec, VisualPrompts
from hybridcascade.errors import BackboneError, SettingsError, UnknownNameError

SHALLOW = PromptSpec.shallow(5)
KEPT = PromptSpec((PromptEntry(0, 3), PromptEntry(4, 2), PromptEntry(8, 4)))
REPLACED = PromptSpec((PromptEntry(2, 3), PromptEntry(4, 2, replace=True), PromptEntry(8, 4, replace=True)))
MIXED = PromptSpec((PromptEntry(0, 3), PromptEntry(4, 2), PromptEntry(8, 4, replace=True)))
SPECS = [SHALLOW, KEPT, REPLACED, MIXED]


def prompts_for(backbone, spec, init="uniform", seed=0):
    return VisualPrompts(spec, backbone.width, backbone.depth, backbone.heads, init=init, seed=seed)


def naive_prompted(backbone, prompts, pictures):
    """Tokens `[CLS, prompts, patches]` after every block, through open_clip's own blocks."""
    tokens, seen, count = backbone.visual._embeds(pictures), {}, 0
    for number, block in enumerate(backbone.visual.transformer.resblocks, start=1):
        for entry, new in zip(prompts.spec().entries, prompts.tokens, strict=True):
            if entry.after_block == number - 1:
                old = [] if entry.replace else [tokens[:, 1 : 1 + count]]
                count = entry.tokens if entry.replace else count + entry.tokens
                patches = tokens[:, -backbone.patch_grid[0] * backbone.patch_grid[1] :]
                tokens = torch.cat([tokens[:, :1], *old, new.expand(len(pictures), -1, -1), patches], dim=1)
        tokens = block(tokens)
        seen[number] = tokens
    final = backbone.visual.ln_post(tokens[:, 0]) @ backbone.visual.proj
    return seen, final


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("grad", [False, True])
def test_uniform_prompts_equal_a_naive_insertion(tiny, pictures, spec, grad):
    prompts = prompts_for(tiny, spec)
    with torch.set_grad_enabled(grad):
        taps = tiny.forward_taps(pictures, (1, 5, 9, 12), prompts, patch_mean=True, patches=True)
        seen, final = naive_prompted(tiny, prompts, pictures)
    torch.testing.assert_close(taps.image, final, atol=2e-5, rtol=1e-4)
    for place, block in enumerate((1, 5, 9, 12)):
        torch.testing.assert_close(taps.cls[:, place], seen[block][:, 0], atol=2e-5, rtol=1e-4)
        # Patches are the last 16 tokens: no prompt column is in them nor in their mean.
        torch.testing.assert_close(taps.patches[:, place], seen[block][:, -16:], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(taps.patch_mean[:, place], seen[block][:, -16:].mean(1), atol=2e-5, rtol=1e-4)
    plain = tiny.forward_taps(pictures).image
    assert (taps.image - plain).abs().max() > 1e-3  # ordinary tokens disturb from the start


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(("precision", "atol"), [("fp32", 1e-5), ("bf16", 0.03), ("fp16", 0.004)])
def test_neutral_prompts_start_without_effect_yet_receive_gradient(load_tiny, pictures, spec, precision, atol):
    backbone = load_tiny(precision)
    prompts = prompts_for(backbone, spec, init="neutral")
    with torch.no_grad():
        plain = backbone.forward_taps(pictures, (5, 12), patch_mean=True)
    taps = backbone.forward_taps(pictures, (5, 12), prompts, patch_mean=True)
    for a, b in ((taps.image, plain.image), (taps.cls, plain.cls), (taps.patch_mean, plain.patch_mean)):
        torch.testing.assert_close(a, b, atol=atol, rtol=atol)
    weights = torch.randn(3, 48, generator=torch.Generator().manual_seed(2))
    (taps.image * weights).sum().backward()
    for name, parameter in prompts.named_parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32
        if precision != "fp16":  # documented: the first gradient of the tokens underflows there
            assert parameter.grad.abs().max() > 0, name
    # No token is left out: each has its own gradient.
    if precision == "fp32":
        assert all((tokens.grad.abs().amax(dim=-1) > 0).all() for tokens in prompts.tokens)


def test_neutral_prompts_learn_to_have_an_effect(tiny, pictures):
    prompts = prompts_for(tiny, SHALLOW, init="neutral")
    optimiser = torch.optim.AdamW(prompts.parameters(), lr=5e-3)
    target = torch.randn(1, 48, generator=torch.Generator().manual_seed(3))
    losses = []
    for _ in range(15):
        optimiser.zero_grad()
        loss = 1 - torch.cosine_similarity(tiny.forward_taps(pictures, (), prompts).image, target).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    assert all(gate.abs().max() > 1e-3 for gate in prompts.gates)


@pytest.mark.parametrize("spec", [SHALLOW, MIXED])
def test_gradients_of_neutral_prompts_match_finite_differences(load_tiny, pictures, spec):
    backbone = load_tiny()
    backbone = copy.deepcopy(backbone).double()
    backbone.compute_dtype = torch.float64
    prompts = prompts_for(backbone, spec, init="neutral").double()
    with torch.no_grad():
        for gate in prompts.gates:
            gate.fill_(0.05)
    weights = torch.randn(3, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def loss():
        # `image` is handed out in float32; in float64 the difference quotient needs the last token itself.
        taps = backbone.forward_taps(pictures.double(), (12,), prompts, patches=True)
        return (taps.patches[:, 0].mean(1) @ backbone.visual.proj * weights).sum()

    loss().backward()
    for name, parameter in prompts.named_parameters():
        flat, grad = parameter.data.view(-1), parameter.grad.reshape(-1)
        spot = int(grad.abs().argmax())
        start, step = flat[spot].item(), 1e-5
        flat[spot] = start + step
        up = loss().item()
        flat[spot] = start - step
        down = loss().item()
        flat[spot] = start
        assert grad[spot].item() == pytest.approx((up - down) / (2 * step), rel=1e-4), name


def test_gated_attention_equals_its_formula(tiny, pictures):
    prompts = prompts_for(tiny, SHALLOW, init="neutral")
    with torch.no_grad():
        prompts.gates[0].uniform_(-0.1, 0.1)
    tokens, live = prompts.enter(tiny.visual._embeds(pictures), 1, ())
    ((count, gate),) = prompts.gated(1, live)
    torch.testing.assert_close(gate, 8 * prompts.gates[0][0])
    block = tiny.visual.transformer.resblocks[0]
    from hybridcascade.backbone.blocks import run_block

    found = run_block(block, tokens, [(count, gate)])
    normed = block.ln_1(tokens)
    q, k, v = (normed @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, dim=-1)
    mixed = torch.zeros_like(q)
    own = [0, *range(1 + count, tokens.shape[1])]
    new = list(range(1, 1 + count))
    for h in range(tiny.heads):
        part = slice(h * 32, (h + 1) * 32)
        score = (q[..., part] @ k[..., part].transpose(1, 2)) / 32**0.5
        for row in range(tokens.shape[1]):
            if row in new:
                mixed[:, row, part] = (score[:, row].softmax(-1)[:, None] @ v[..., part])[:, 0]
                continue
            mixed[:, row, part] = (score[:, row][:, own].softmax(-1)[:, None] @ v[:, own][..., part])[:, 0]
            read = (score[:, row][:, new].softmax(-1)[:, None] @ v[:, new][..., part])[:, 0]
            mixed[:, row, part] += gate[h] * read
    expected = tokens + block.attn.out_proj(mixed)
    expected = expected + block.mlp(block.ln_2(expected))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_parameters_names_shapes_and_start():
    prompts = VisualPrompts(MIXED, 64, 12, 2, init="neutral", seed=3)
    shapes = {name: tuple(p.shape) for name, p in prompts.named_parameters()}
    # Entries 0 and 1 live until block 8, where entry 2 replaces them; entry 2 lives through 9 to 12.
    assert shapes == {
        "tokens.0": (1, 3, 64),
        "tokens.1": (1, 2, 64),
        "tokens.2": (1, 4, 64),
        "gates.0": (8, 2),
        "gates.1": (4, 2),
        "gates.2": (4, 2),
    }
    assert [n for n, _ in VisualPrompts(SHALLOW, 64, 12, 2).named_parameters()] == ["tokens.0"]
    big = VisualPrompts(PromptSpec.shallow(50), 768, 12, 12).tokens[0]
    assert 0.0624 < big.abs().max() <= 0.0625
    assert abs(big.mean()) < 1e-3


def test_seed_decides_the_tokens_and_leaves_the_global_random_state():
    state = torch.random.get_rng_state()
    a, b, c = (VisualPrompts(SHALLOW, 64, 12, 2, seed=seed).tokens[0] for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_specs():
    plan = stage_plan("multilayer", 12)
    staged = PromptSpec.staged(plan, 16)
    assert [e.after_block for e in staged.entries] == [0, 4, 8, 11]
    assert staged.tokens == 64
    assert PromptSpec.from_lists(staged.to_lists()) == staged


def test_wrong_prompts_are_refused(tiny, pictures):
    with pytest.raises(SettingsError, match="ascending, distinct"):
        PromptSpec((PromptEntry(4, 2), PromptEntry(4, 2)))
    with pytest.raises(SettingsError, match="ascending, distinct"):
        PromptSpec(())
    with pytest.raises(SettingsError, match="at least 1 token"):
        PromptSpec.shallow(0)
    with pytest.raises(SettingsError, match="after block 12 change nothing"):
        VisualPrompts(PromptSpec((PromptEntry(12, 1),)), 64, 12, 2)
    with pytest.raises(UnknownNameError, match="Did you mean 'neutral'"):
        VisualPrompts(SHALLOW, 64, 12, 2, init="netural")
    with pytest.raises(SettingsError, match="width 32, this tower has width 64"):
        tiny.forward_taps(pictures, (), VisualPrompts(SHALLOW, 32, 12, 2))


def test_blocks_of_another_kind_refuse_neutral_prompts_and_take_uniform_ones(tiny, pictures):
    from open_clip.transformer import CustomResidualAttentionBlock

    with torch.random.fork_rng():
        tiny.visual.transformer.resblocks[3] = CustomResidualAttentionBlock(64, 2, qk_norm=True).eval()
    assert tiny.forward_taps(pictures, (), prompts_for(tiny, SHALLOW)).image.isfinite().all()
    with pytest.raises(BackboneError, match="CustomResidualAttentionBlock"):
        tiny.forward_taps(pictures, (), prompts_for(tiny, SHALLOW, init="neutral"))
