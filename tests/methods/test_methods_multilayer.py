"""The multi-layer method: its parameters, its schedule, and what each segment has to do with the others."""

import itertools
import logging
from types import SimpleNamespace

import pytest
import torch
from conftest import PICTURES, tiny_backbone
from torch.nn import functional
from torch.utils.data import DataLoader

from hybridcascade.backbone.clip import ClipBackbone
from hybridcascade.cascade.losses import neighbour_consistency
from hybridcascade.engine.folder import RunFolder
from hybridcascade.engine.run import run_phases
from hybridcascade.errors import SettingsError, UnknownNameError
from hybridcascade.methods.multilayer import MultiLayer
from hybridcascade.methods.settings import default_phases, method_settings

SEGMENTS = {  # names of what trains of each segment, from 1
    number: {f"prompts.tokens.{number - 1}"}
    | {f"reader.alignments.{number - 1}.{part}" for part in ("ln_weight", "ln_bias", "projection")}
    for number in (1, 2, 3)
}
WARM_UP = {"head.weight", "head.bias", "prompts.tokens.3"}
REST = {"reader.alignments.3.ln_weight", "reader.alignments.3.ln_bias", "reader.aggregation.raw_sigma", "fusion.scores"}


def build(backbone, world, **settings):
    return MultiLayer(backbone=backbone, **world.arguments(), **settings)


def layer_norms(backbone):
    """All of the tower's but the last, which only the teacher passes."""
    return {f"backbone.{n}" for n in backbone.layer_norm_names() if ".ln_post." not in n}


# -- parameters ---------------------------------------------------------------------------------------


def real_shape(layers, width, heads):
    """A tower of the real sizes with whatever weights its constructor draws."""
    vision = {"layers": layers, "width": width, "head_width": width // heads, "patch_size": 32, "image_size": 224}
    description = tiny_backbone(1, 0).describe() | {"embed_dim": 512, "vision_cfg": vision}
    return ClipBackbone.from_description(description)


def counts(method):
    named = dict(method.named_parameters())
    return {g.name: sum(named[n].numel() for n in g.parameters) for g in method.parameter_groups("image")}


@pytest.mark.parametrize("earlier", ["replaced", "kept"])
def test_new_parameters_on_a_vit_b_are_49160(earlier):
    backbone = real_shape(12, 768, 12)
    texts = functional.normalize(torch.randn(8, 512), dim=1)
    method = MultiLayer(
        backbone=backbone, text_features=texts, text_labels=torch.arange(8), class_count=8, earlier_prompts=earlier
    )
    found = counts(method)
    known = {name for name in found if name == "head" or name == "class_bias" or name.startswith("alignment_")}
    new = {name: count for name, count in found.items() if name not in known | {"layer_norms"}}
    assert new == {f"prompts_{s}": 16 * 768 for s in (1, 2, 3, 4)} | {"nga": 4, "segment_weights": 4}
    assert sum(new.values()) == 49_160
    assert sum(new.values()) < 0.001 * sum(p.numel() for p in backbone.parameters())


@pytest.mark.parametrize(
    ("depth", "segments", "taps"),
    [(12, [(1, 4), (5, 8), (9, 11), (12, 12)], 12), (24, [(1, 8), (9, 16), (17, 22), (23, 24)], 24)],
)
def test_segments_and_where_their_prompts_enter(depth, segments, taps, world):
    method = build(tiny_backbone(depth, 0), world, prompts=2)
    assert [(stage[0], stage[-1]) for stage in method.plan.stages] == segments
    assert len(method.plan.taps) == taps
    entries = method.prompts.spec().entries
    assert [(e.after_block + 1, e.tokens, e.replace) for e in entries] == [(low, 2, True) for low, _ in segments]
    assert not any(
        e.replace for e in build(tiny_backbone(depth, 0), world, earlier_prompts="kept").prompts.spec().entries
    )


def test_learning_rates_are_those_of_the_documents(deep_backbone, deep_world):
    lr = default_phases("multilayer")["image"].lr
    rates = {g.name: lr * g.lr_scale for g in build(deep_backbone, deep_world).parameter_groups("image")}
    assert [rates[f"prompts_{s}"] for s in (1, 2, 3, 4)] == pytest.approx([1e-4] * 4)
    assert rates["nga"] == pytest.approx(1e-5)
    assert rates["head"] == pytest.approx(5e-4)


# -- prediction ---------------------------------------------------------------------------------------


def naive_logits(method, images):
    """Each segment by hand, from plain taps: LayerNorm, Gaussian sum, projection, cosine, fusion."""
    taps = method.backbone.forward_taps(images, taps=range(1, 13), prompts=method.prompts).cls
    weight, bias, projection = method.backbone.cls_projection_init()
    classes = functional.normalize(method.head.weight, dim=1)
    rows, start = [], 0
    for size in (4, 4, 3, 1):
        block = functional.layer_norm(taps[:, start : start + size], taps.shape[-1:], weight, bias)
        distance = torch.arange(size, 0, -1)
        gauss = torch.exp(-(distance**2) / (2 * 1.5**2))
        feature = (gauss[None, :, None] / gauss.sum() * block).sum(dim=1) @ projection
        rows.append(method.backbone.logit_scale / 2 * functional.normalize(feature, dim=1) @ classes.T)
        start += size
    return torch.stack(rows, dim=1)


def test_prediction_equals_the_segments_by_hand(deep_backbone, deep_world):
    method = build(deep_backbone, deep_world, sigma=1.5, fusion_gap=2.0, sinkhorn_epsilon=2.0, predict_views=1).eval()
    with torch.no_grad():
        found, expected = method(deep_world.plain), naive_logits(method, deep_world.plain)
    torch.testing.assert_close(found.stage_logits, expected)
    weights = torch.tensor([0.0, 0.0, 0.0, 2.0]).exp()
    torch.testing.assert_close(found.logits, ((weights / weights.sum())[None, :, None] * expected).sum(dim=1))


def test_last_segment_starts_as_clips_own_path(deep_backbone, deep_world):
    """But for the prompts, which neutral ones leave out."""
    method = build(deep_backbone, deep_world, prompt_init="neutral", sinkhorn_epsilon=2.0, predict_views=1).eval()
    with torch.no_grad():
        own = functional.normalize(deep_backbone.encode_image(deep_world.plain), dim=1)
        expected = deep_backbone.logit_scale / 2 * own @ functional.normalize(method.head.weight, dim=1).T
        torch.testing.assert_close(method(deep_world.plain).stage_logits[:, -1], expected, atol=1e-4, rtol=1e-4)


def test_prompts_start_at_the_mean_cls_token_of_where_they_enter(deep_backbone, deep_world):
    method = build(deep_backbone, deep_world, prompts=2)
    drawn = [tokens.detach().clone() for tokens in method.prompts.tokens]
    method.begin_phase("image", deep_world.plain_batches())
    entering, tower = [], deep_backbone.visual
    hooks = [
        tower.transformer.resblocks[number].register_forward_pre_hook(lambda _, given: entering.append(given[0][:, 0]))
        for number in (0, 4, 8, 11)
    ]
    with torch.no_grad():
        deep_backbone.encode_image(deep_world.plain)
    for hook in hooks:
        hook.remove()
    for tokens, draw, cls in zip(method.prompts.tokens, drawn, entering, strict=True):
        torch.testing.assert_close(tokens - draw, cls.mean(dim=0).expand_as(draw), rtol=1e-4, atol=1e-5)
        assert float((draw[:, 0] - draw[:, 1]).abs().min()) > 0, "alike in all, they would stay alike"
    with pytest.raises(SettingsError, match="prompt_init=cls needs plain pictures"):
        build(deep_backbone, deep_world).begin_phase("image", None, deep_world.targets)


def test_views_are_averaged_in_evaluation_only(deep_backbone, deep_world):
    method = build(deep_backbone, deep_world, predict_views=2).eval()
    one, mirrored = (build_logits(method, x) for x in (deep_world.plain, deep_world.plain.flip(-1)))
    with torch.no_grad():
        torch.testing.assert_close(method(deep_world.plain).logits, (one + mirrored) / 2)


def build_logits(method, images):
    with torch.no_grad():
        weights = method.fusion.weights()
        return torch.einsum("s,bsk->bk", weights, method._stage_logits(images)).log_softmax(dim=1)


def test_neighbours_consistency_is_the_kl_of_each_pair():
    logits = torch.randn(5, 4, 3, dtype=torch.float64, requires_grad=True)
    found = neighbour_consistency(logits)
    p = logits.detach().softmax(dim=2)
    expected = [(p[:, s + 1] * (p[:, s + 1] / p[:, s]).log()).sum(dim=1).mean() for s in range(3)]
    torch.testing.assert_close(found.detach(), torch.stack(expected).float())
    found[1].backward()
    assert logits.grad[:, 1].abs().sum() > 0
    assert logits.grad[:, [0, 2, 3]].abs().sum() == 0  # the deeper side of the pair is the teacher


# -- what takes part ----------------------------------------------------------------------------------


def test_closed_segments_have_no_part_in_fusion_and_loss(deep_backbone, deep_world):
    method = build(deep_backbone, deep_world, fusion_start="uniform")
    method.begin_phase("image", deep_world.plain_batches())
    batch = deep_world.unlabeled([0, 1, 2, 3])
    groups = {group.name for group in method.parameter_groups("image")}
    method.groups_opened("image", frozenset(groups - {"prompts_1", "prompts_2"}))
    report, prediction = method.training_loss("image", batch, 0), method(batch.strong)
    torch.testing.assert_close(prediction.stage_weights, torch.tensor([0, 0, 0.5, 0.5]))
    target = method.teacher_rows("labels", batch.index)
    logs = prediction.stage_logits.log_softmax(dim=-1)
    fit = -(target * prediction.logits.log_softmax(dim=-1)).sum(dim=1).mean()
    single = -(target * logs[:, 2]).sum(dim=1).mean() / 3
    pair = (logs[:, 3].exp() * (logs[:, 3] - logs[:, 2])).sum(dim=1).mean() / 3
    torch.testing.assert_close(report.loss, fit + single + 0.1 * pair)
    report.loss.backward()
    method.groups_opened("image", frozenset(groups))
    assert method(batch.strong).stage_weights.tolist() == pytest.approx([0.25] * 4)


def test_unknown_targets_are_labelled_by_the_teacher(deep_backbone, deep_world):
    method = build(deep_backbone, deep_world)
    targets = deep_world.targets.clone()
    targets[1] = 0
    method.begin_phase("image", deep_world.plain_batches(), targets)
    batch = deep_world.with_targets([0, 1])
    object.__setattr__(batch, "known", torch.tensor([True, False]))
    found = method._target(batch)
    one_hot = functional.one_hot(deep_world.targets[0].argmax(), 4)
    torch.testing.assert_close(found[0], 0.2 * one_hot + 0.8 * deep_world.targets[0])
    assert torch.equal(found[1], method.teacher_rows("labels", torch.tensor([1]))[0])
    with pytest.raises(SettingsError, match="needs plain pictures"):
        build(deep_backbone, deep_world).begin_phase("image", None, targets)


def test_wrong_settings_are_named():
    with pytest.raises(UnknownNameError, match="replaced"):
        method_settings("multilayer", {"earlier_prompts": "replace"})
    with pytest.raises(SettingsError, match="unfreeze_share"):
        method_settings("multilayer", {"unfreeze_share": 1.0})


# -- the schedule in training -------------------------------------------------------------------------


class Pictures(torch.utils.data.Dataset):
    """The world's pictures for the engine, in order."""

    def __init__(self, world):
        self.world = world

    def __len__(self):
        return PICTURES

    def __getitem__(self, row):
        return row


def train(method, world, folder=None, epochs=5, stop=None, **options):
    """Train as the engine does; returns the values of all parameters at each epoch's start and at the end."""
    seen, begin, loss = [], method.begin_epoch, method.training_loss

    def remember():
        seen.append({name: value.detach().clone() for name, value in method.named_parameters()})

    def begin_epoch(phase, epoch, plain):
        begin(phase, epoch, plain)
        if phase == "image":
            remember()

    def training_loss(phase, batch, step):
        if phase == "image" and step == stop:
            raise KeyError("stopped")
        return loss(phase, batch, step)

    method.begin_epoch, method.training_loss = begin_epoch, training_loss
    loader = DataLoader(Pictures(world), 6, shuffle=True, collate_fn=world.unlabeled)
    numbers = SimpleNamespace(lr=5e-3, weight_decay=0.1, schedule="none", warmup_epochs=0.0, milestones=(), gamma=0.1)
    phases = {
        "text": SimpleNamespace(**vars(numbers) | {"epochs": 3}),
        "image": SimpleNamespace(**vars(numbers) | {"epochs": epochs}),
    }
    run_phases(
        method, phases, world.texts, loader, world.plain_batches(), folder=folder, accelerator="cpu", progress=False,
        **options,
    )  # fmt: skip
    remember()
    return seen


def moved(seen):
    pairs = itertools.pairwise(seen)
    return [{name for name in one if not torch.equal(one[name], two[name])} for one, two in pairs]


def test_which_parameters_move_in_which_epoch(deep_backbone, deep_world, caplog):
    method = build(deep_backbone, deep_world, prompts=2)
    with caplog.at_level(logging.INFO, "hybridcascade"):
        seen = train(method, deep_world, epochs=8)
    third, second, first = WARM_UP | SEGMENTS[3], WARM_UP | SEGMENTS[3] | SEGMENTS[2], set()
    first = second | SEGMENTS[1]
    everything = first | REST | layer_norms(deep_backbone)
    assert moved(seen) == [WARM_UP, third, second, first, *[everything] * 4]
    assert everything == method.trainable_names("image")
    told = [r.getMessage() for r in caplog.records if getattr(r, "remark", False)]
    assert len(told) == 5
    assert told[0] == "phase image: from epoch 1, warm-up: head (lr 0.005), class_bias (lr 0.005), prompts_4 (lr 0.001)"
    assert told[4].startswith("phase image: from epoch 5, everything: alignment_4")


def test_without_progressive_everything_moves_from_the_start(deep_backbone, deep_world):
    method = build(deep_backbone, deep_world, prompts=2, progressive=False)
    assert method.unfreezing("image") == ()
    assert moved(train(method, deep_world, epochs=1)) == [method.trainable_names("image")]


# 2 steps an epoch: in the epochs of segment 2, of segment 3 and of everything
@pytest.mark.parametrize("stop", [5, *(pytest.param(step, marks=pytest.mark.slow) for step in (3, 9))])
def test_a_resume_in_the_middle_is_bit_equal_and_the_saved_model_is_the_same(
    stop, tmp_path, make_deep_backbone, deep_world
):
    whole = build(make_deep_backbone(), deep_world, prompts=2)
    train(whole, deep_world, RunFolder.create(tmp_path / "whole"), epochs=8)
    cut = build(make_deep_backbone(), deep_world, prompts=2)
    with pytest.raises(KeyError, match="stopped"):
        train(cut, deep_world, RunFolder.create(tmp_path / "cut"), epochs=8, stop=stop)
    resumed = build(make_deep_backbone(), deep_world, prompts=2)
    train(resumed, deep_world, RunFolder.open(tmp_path / "cut"), epochs=8, resume=True)
    ours, theirs = whole.state_dict(), resumed.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    loaded = build(make_deep_backbone(seed=9), deep_world, prompts=2)
    loaded.load_artifact_state(whole.artifact_state())
    with torch.no_grad():
        assert torch.equal(loaded.eval()(deep_world.plain).logits, whole.eval()(deep_world.plain).logits)
