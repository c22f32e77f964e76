"""LaFTer step by step against an implementation that shares nothing with it but its starting values.

The reference walks the vision tower layer by layer on plain tensors, with AdamW from torch; only the
noise of the text stage is drawn as documented, from (seed, "text", step).
"""

import copy

import pytest
import torch
from torch.nn import functional

from hybridcascade.methods.lafter import Lafter
from hybridcascade.methods.parts import seeded_generator

SMOOTHING, LR, DECAY = 0.1, 5e-3, 0.01


class NaiveTower:
    """CLIP's vision tower on tensors copied out of the model; LayerNorms are leaves that train."""

    def __init__(self, visual):
        self.state = {k: v.detach().clone().float() for k, v in visual.state_dict().items()}
        self.blocks = len(visual.transformer.resblocks)
        self.heads = visual.transformer.resblocks[0].attn.num_heads
        self.activation = copy.deepcopy(visual.transformer.resblocks[0].mlp.gelu)
        self.patch = visual.conv1.kernel_size[0]
        self.norms = [k for k in self.state if k.split(".")[-2:][0] in ("ln_pre", "ln_1", "ln_2", "ln_post")]
        for key in self.norms:
            self.state[key].requires_grad_()

    def norm(self, x, name):
        mean = x.mean(dim=-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
        normal = (x - mean) / torch.sqrt(variance + 1e-5)
        return normal * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def attention(self, x, name):
        weight, bias = self.state[f"{name}.in_proj_weight"], self.state[f"{name}.in_proj_bias"]
        q, k, v = (x @ weight.T + bias).chunk(3, dim=-1)
        outputs = []
        size = q.shape[-1] // self.heads
        for head in range(self.heads):
            part = slice(head * size, (head + 1) * size)
            scores = q[..., part] @ k[..., part].transpose(1, 2) / size**0.5
            outputs.append(scores.softmax(dim=-1) @ v[..., part])
        joined = torch.cat(outputs, dim=-1)
        return joined @ self.state[f"{name}.out_proj.weight"].T + self.state[f"{name}.out_proj.bias"]

    def mlp(self, x, name):
        hidden = self.activation(x @ self.state[f"{name}.c_fc.weight"].T + self.state[f"{name}.c_fc.bias"])
        return hidden @ self.state[f"{name}.c_proj.weight"].T + self.state[f"{name}.c_proj.bias"]

    def __call__(self, images, prompts=None):
        patches = functional.conv2d(images, self.state["conv1.weight"], stride=self.patch).flatten(2).transpose(1, 2)
        cls = self.state["class_embedding"].expand(images.shape[0], 1, -1)
        x = torch.cat([cls, patches], dim=1) + self.state["positional_embedding"]
        x = self.norm(x, "ln_pre")
        if prompts is not None:
            x = torch.cat([x[:, :1], prompts.expand(images.shape[0], -1, -1), x[:, 1:]], dim=1)
        for block in range(self.blocks):
            name = f"transformer.resblocks.{block}"
            x = x + self.attention(self.norm(x, f"{name}.ln_1"), f"{name}.attn")
            x = x + self.mlp(self.norm(x, f"{name}.ln_2"), f"{name}.mlp")
        return self.norm(x[:, 0], "ln_post") @ self.state["proj"]


def naive_cross_entropy(logits, labels):
    """Mean over rows of CE to (1 - s) one-hot + s / K."""
    total = 0.0
    classes = logits.shape[1]
    for row, label in zip(logits, labels, strict=True):
        logs = row - torch.logsumexp(row, dim=0)
        target = torch.full((classes,), SMOOTHING / classes)
        target[label] += 1 - SMOOTHING
        total = total - (target * logs).sum()
    return total / len(labels)


@pytest.fixture
def method(backbone, world):
    return Lafter(backbone=backbone, **world.arguments())


def step_ours(method, phase, optimiser, batch, step):
    optimiser.zero_grad()
    loss = method.training_loss(phase, batch, step).loss
    loss.backward()
    optimiser.step()
    return loss.item()


def open_phase(method, phase):
    method.requires_grad_(False)
    named = dict(method.named_parameters())
    chosen = [named[name].requires_grad_() for name in sorted(method.trainable_names(phase))]
    return torch.optim.AdamW(chosen, lr=LR, weight_decay=DECAY)


def test_both_phases_match_step_by_step(method, world):
    tower = NaiveTower(method.backbone.visual)
    head = method.head.weight.detach().clone().requires_grad_()
    prompts = method.prompts.tokens[0].detach().clone().requires_grad_()
    assert prompts.shape == (1, 50, method.backbone.width)
    assert prompts.abs().max() <= 0.0625

    ours = open_phase(method, "text")
    theirs = torch.optim.AdamW([head], lr=LR, weight_decay=DECAY)
    for step in range(4):
        noise = torch.randn(world.texts.features.shape, generator=seeded_generator(3, "text", step))
        theirs.zero_grad()
        loss = naive_cross_entropy((world.texts.features + 0.1 * noise) @ head.T, world.texts.labels)
        loss.backward()
        theirs.step()
        assert step_ours(method, "text", ours, world.texts, step) == pytest.approx(loss.item(), abs=1e-4)
        torch.testing.assert_close(method.head.weight, head, rtol=1e-4, atol=1e-4)

    teacher = head.detach().clone()
    method.begin_phase("image", world.plain_batches())
    ours = open_phase(method, "image")
    norms = [tower.state[key] for key in tower.norms]
    theirs = torch.optim.AdamW([head, prompts, *norms], lr=LR, weight_decay=DECAY)
    seen = set()
    for step, rows in enumerate(
        [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 0, 1, 2], [3, 4, 5, 6, 7], [0, 1, 2, 3, 4]]
    ):
        batch = world.unlabeled(rows)
        theirs.zero_grad()
        with torch.no_grad():
            features = tower(batch.plain)  # live LayerNorms, no prompts
            labels = (features / features.norm(dim=1, keepdim=True) @ teacher.T).argmax(dim=1)
        seen.update(labels.tolist())
        loss = naive_cross_entropy(tower(batch.strong, prompts) @ head.T, labels)
        loss.backward()
        theirs.step()
        assert step_ours(method, "image", ours, batch, step) == pytest.approx(loss.item(), abs=1e-4)

    assert len(seen) > 1  # the teacher tells classes apart, so a wrong label would show
    torch.testing.assert_close(method.head.weight, head, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(method.prompts.tokens[0], prompts, rtol=1e-4, atol=1e-4)
    state = method.backbone.visual.state_dict()
    for key in tower.norms:
        torch.testing.assert_close(state[key].float(), tower.state[key], rtol=1e-4, atol=1e-4, msg=key)
    with torch.no_grad():
        torch.testing.assert_close(
            method(world.plain).logits, tower(world.plain, prompts) @ head.T, rtol=1e-4, atol=1e-4
        )


def test_teacher_follows_the_live_layer_norms_and_not_the_head(method, world):
    method.begin_phase("image", world.plain_batches())
    before = method.pseudo_labels(world.plain)
    with torch.no_grad():
        method.head.weight.neg_()
    assert torch.equal(method.pseudo_labels(world.plain), before)
    with torch.no_grad():
        for name in method.backbone.layer_norm_names()[-2:]:
            method.backbone.get_parameter(name).neg_()
    assert not torch.equal(method.pseudo_labels(world.plain), before)


def test_noise_depends_on_seed_and_step_only(method, world):
    torch.manual_seed(1)
    first = method.training_loss("text", world.texts, 5).loss
    torch.manual_seed(2)
    assert torch.equal(first, method.training_loss("text", world.texts, 5).loss)
    assert not torch.equal(first, method.training_loss("text", world.texts, 6).loss)
