import copy

import open_clip
import pytest
import torch
from open_clip.model import convert_weights_to_lp
from torch.nn import functional as F

from hybridcascade.backbone.clip import ClipBackbone
from hybridcascade.backbone.precision import PRECISIONS
from hybridcascade.errors import BackboneError, SettingsError

PRECISION_NAMES = ["fp32", "bf16", "fp16"]


def open_clip_own(tiny_file, precision):
    """open_clip's model by its own public factory, from the same file."""
    return open_clip.create_model("ViT-tiny", pretrained=str(tiny_file), precision=precision).eval()


def reference_block(block, x):
    """One pre-norm transformer block written out, in float32."""
    heads, (batch, _, width) = block.attn.num_heads, x.shape
    normed = F.layer_norm(x, (width,), block.ln_1.weight, block.ln_1.bias)
    q, k, v = (normed @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).split(width, dim=-1)
    out = torch.zeros_like(x)
    for b in range(batch):
        for h in range(heads):
            part = slice(h * width // heads, (h + 1) * width // heads)
            scores = q[b][:, part] @ k[b][:, part].T / (width // heads) ** 0.5
            out[b, :, part] = scores.softmax(-1) @ v[b][:, part]
    x = x + out @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
    normed = F.layer_norm(x, (width,), block.ln_2.weight, block.ln_2.bias)
    hidden = normed @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias
    hidden = hidden * torch.sigmoid(1.702 * hidden) if hasattr(block, "quick") else F.gelu(hidden)
    return x + hidden @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias


def reference_tokens(visual, x):
    """Tokens after the embedding and after every block."""
    size = visual.patch_size[0]
    patches = F.unfold(x, size, stride=size).transpose(1, 2) @ visual.conv1.weight.flatten(1).T
    tokens = torch.cat([visual.class_embedding.expand(len(x), 1, -1), patches], dim=1) + visual.positional_embedding
    tokens = F.layer_norm(tokens, tokens.shape[-1:], visual.ln_pre.weight, visual.ln_pre.bias)
    seen = [tokens]
    for block in visual.transformer.resblocks:
        seen.append(reference_block(block, seen[-1]))
    return seen


@pytest.mark.parametrize("precision", PRECISION_NAMES)
@pytest.mark.parametrize("grad", [False, True])
def test_encode_image_equals_open_clip_exactly(load_tiny, tiny_file, pictures, precision, grad):
    ours, theirs = load_tiny(precision), open_clip_own(tiny_file, precision)
    theirs.requires_grad_(False)  # with gradients, open_clip's attention takes another kernel
    with torch.set_grad_enabled(grad):
        expected = theirs.encode_image(pictures.to(PRECISIONS[precision]))
        assert torch.equal(ours.encode_image(pictures), expected)
        assert torch.equal(ours.forward_taps(pictures, (5, 12)).image, expected.float())
    assert ours.encode_image(pictures).dtype == PRECISIONS[precision]


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_taps_equal_a_naive_layer_by_layer_forward(load_tiny, pictures, trained, quick_gelu):
    backbone = load_tiny(model="ViT-tiny-quickgelu" if quick_gelu else "ViT-tiny")
    if trained:  # any trained parameter switches to the faster block
        backbone.visual.ln_pre.weight.requires_grad_(True)
    visual = copy.deepcopy(backbone.visual)
    if quick_gelu:
        for block in visual.transformer.resblocks:
            block.quick = True
    seen = reference_tokens(visual, pictures)
    final = F.layer_norm(seen[-1][:, 0], (64,), visual.ln_post.weight, visual.ln_post.bias) @ visual.proj
    taps = backbone.forward_taps(pictures, (1, 5, 6, 12), patch_mean=True, patches=True)
    assert taps.image.requires_grad == trained
    torch.testing.assert_close(taps.image, final, atol=2e-5, rtol=1e-4)
    for place, block in enumerate((1, 5, 6, 12)):
        torch.testing.assert_close(taps.cls[:, place], seen[block][:, 0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(taps.patches[:, place], seen[block][:, 1:], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(taps.patch_mean[:, place], seen[block][:, 1:].mean(1), atol=2e-5, rtol=1e-4)


def test_shapes_and_dtypes(load_tiny, pictures):
    backbone = load_tiny("bf16")
    taps = backbone.forward_taps(pictures, (3, 12), patch_mean=True, patches=True)
    assert taps.cls.shape == (3, 2, 64)
    assert taps.cls.dtype == torch.float32
    assert taps.image.shape == (3, 48)
    assert taps.image.dtype == torch.float32
    assert taps.patch_mean.shape == (3, 2, 64)
    assert taps.patch_mean.dtype == torch.float32
    assert taps.patches.shape == (3, 2, 16, 64)
    bare = backbone.forward_taps(pictures)
    assert bare.cls.shape == (3, 0, 64)
    assert bare.patch_mean is None
    assert bare.patches is None


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.05), ("fp16", 0.006)])
def test_precisions_agree(load_tiny, pictures, precision, tolerance):
    """Relative error of the feature: bf16 keeps 8 bits, fp16 11, and 12 blocks add up their rounding."""
    exact, low = load_tiny("fp32"), load_tiny(precision)
    for backbone in (exact, low):
        backbone.visual.ln_pre.weight.requires_grad_(True)
    for tracked in (False, True):
        with torch.set_grad_enabled(tracked):
            expected, found = (b.forward_taps(pictures, (6, 12)) for b in (exact, low))
        for a, b in ((expected.image, found.image), (expected.cls, found.cls)):
            assert (a - b).norm() / a.norm() < tolerance
            assert F.cosine_similarity(a, b, dim=-1).min() > 1 - tolerance**2


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_matrices_are_stored_in_the_compute_dtype_and_layer_norms_in_fp32(load_tiny, precision):
    backbone = load_tiny(precision)
    norms = set(backbone.layer_norm_names())
    for name, parameter in backbone.named_parameters():
        kept = name in norms or "embedding" in name
        assert parameter.dtype == (torch.float32 if kept else PRECISIONS[precision]), name
        assert not parameter.requires_grad


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_layer_norms_train_in_fp32_and_match_the_reference_gradient(load_tiny, pictures, precision):
    backbone = load_tiny(precision)
    reference = copy.deepcopy(load_tiny("fp32").visual)
    for name in backbone.layer_norm_names():
        backbone.get_parameter(name).requires_grad_(True)
        reference.get_parameter(name.removeprefix("visual.")).requires_grad_(True)
    weights = torch.randn(3, 48, generator=torch.Generator().manual_seed(2))
    (backbone.forward_taps(pictures).image * weights).sum().backward()
    last = reference_tokens(reference, pictures)[-1][:, 0]
    final = F.layer_norm(last, (64,), reference.ln_post.weight, reference.ln_post.bias) @ reference.proj
    (final * weights).sum().backward()
    for name in backbone.layer_norm_names():
        found = backbone.get_parameter(name).grad
        expected = reference.get_parameter(name.removeprefix("visual.")).grad
        assert found.dtype == torch.float32
        error = (found - expected).norm() / expected.norm()
        assert error < (1e-4 if precision == "fp32" else 0.15), (name, error)


def test_no_graph_below_the_first_trained_parameter(tiny, pictures):
    frozen = tiny.forward_taps(pictures, (6,))
    assert not frozen.image.requires_grad
    tiny.visual.transformer.resblocks[5].ln_1.weight.requires_grad_(True)
    taps = tiny.forward_taps(pictures, (5, 6))
    assert taps.image.requires_grad
    below, above = (tiny.forward_taps(pictures, (block,)).cls for block in (5, 6))
    assert not below.requires_grad
    assert above.requires_grad
    taps.image.sum().backward()
    trained = [name for name, p in tiny.named_parameters() if p.grad is not None]
    assert trained == ["visual.transformer.resblocks.5.ln_1.weight"]


def test_layer_norm_names_are_all_layer_norms_of_the_tower(tiny):
    blocks = [f"visual.transformer.resblocks.{i}.{ln}" for i in range(12) for ln in ("ln_1", "ln_2")]
    expected = {f"{n}.{k}" for n in ("visual.ln_pre", *blocks, "visual.ln_post") for k in ("weight", "bias")}
    assert set(tiny.layer_norm_names()) == expected
    assert len(tiny.layer_norm_names()) == len(expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cls_projection_init_gives_the_image_feature_from_the_last_cls(load_tiny, pictures, precision):
    backbone = load_tiny(precision)
    weight, bias, proj = backbone.cls_projection_init()
    assert weight.dtype == bias.dtype == proj.dtype == torch.float32
    taps = backbone.forward_taps(pictures, (12,))
    feature = F.layer_norm(taps.cls[:, 0], (64,), weight, bias) @ proj
    torch.testing.assert_close(feature, taps.image, atol=1e-5 if precision == "fp32" else 0.05, rtol=1e-4)
    proj.zero_()
    assert backbone.visual.proj.abs().sum() > 0  # a copy


def test_stays_in_eval_mode(tiny):
    tiny.train()
    assert not any(module.training for module in tiny.modules())


@pytest.mark.parametrize("precision", PRECISION_NAMES)
def test_description_rebuilds_the_tower(load_tiny, pictures, precision):
    import json

    backbone = load_tiny(precision)
    state = torch.random.get_rng_state()
    rebuilt = ClipBackbone.from_description(json.loads(json.dumps(backbone.describe())))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not rebuilt.has_text
    assert not torch.equal(rebuilt.encode_image(pictures), backbone.encode_image(pictures))
    rebuilt.load_state_dict(backbone.state_dict())
    assert torch.equal(rebuilt.encode_image(pictures), backbone.encode_image(pictures))
    assert rebuilt.describe() == backbone.describe()
    assert [(n, p.dtype) for n, p in rebuilt.named_parameters()] == [
        (n, p.dtype) for n, p in backbone.named_parameters()
    ]
    assert (rebuilt.mean, rebuilt.std, rebuilt.image_size) == (backbone.mean, backbone.std, 32)


def test_state_dict_holds_the_vision_tower_and_its_input_map(tiny):
    others = {key for key in tiny.state_dict() if not key.startswith("visual.")}
    assert others == {"input_scale", "input_shift"}


@pytest.mark.parametrize("broken", [{}, {"format": 99}, {"format": 1, "precision": "fp32"}])
def test_wrong_descriptions_are_refused(broken):
    with pytest.raises(BackboneError, match="description"):
        ClipBackbone.from_description(broken)


@pytest.mark.parametrize("taps", [(0,), (13,), (5, 5), (6, 5)])
def test_wrong_taps_say_the_valid_range(tiny, pictures, taps):
    with pytest.raises(SettingsError, match="ascend within 1 to 12"):
        tiny.forward_taps(pictures, taps)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "depth", "width", "heads", "grid", "embed"),
    [
        ("ViT-B-32", 12, 768, 12, (7, 7), 512),
        ("ViT-B-16", 12, 768, 12, (14, 14), 512),
        ("ViT-L-14", 24, 1024, 16, (16, 16), 768),
    ],
)
def test_real_architectures_give_the_right_counts_shapes_and_plans(name, depth, width, heads, grid, embed):
    from hybridcascade.backbone.plans import stage_plan

    torch.manual_seed(0)
    config = open_clip.get_model_config(name)
    dtype = torch.bfloat16
    visual = open_clip.model._build_vision_tower(config["embed_dim"], config["vision_cfg"], False, dtype)
    convert_weights_to_lp(visual, dtype=dtype)
    backbone = ClipBackbone(
        visual,
        name=name,
        vision_cfg=config["vision_cfg"],
        quick_gelu=False,
        precision="bf16",
        logit_scale=100.0,
        weights_hash="",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        interpolation="bicubic",
        resize_mode="shortest",
    )
    assert (backbone.depth, backbone.width, backbone.heads) == (depth, width, heads)
    assert (backbone.patch_grid, backbone.embed_dim, backbone.image_size) == (grid, embed, 224)
    plan = stage_plan("hybrid", depth)
    pictures = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        taps = backbone.forward_taps(pictures, plan.taps, patch_mean=True, patches=True)
        assert torch.equal(taps.image, visual(pictures.to(dtype)).float())
    assert taps.cls.shape == (2, len(plan.taps), width)
    assert taps.patches.shape == (2, len(plan.taps), grid[0] * grid[1], width)
    assert plan.sizes == ((3, 2, 3) if depth == 12 else (6, 4, 6))
    assert len(backbone.layer_norm_names()) == 2 * (2 * depth + 2)
