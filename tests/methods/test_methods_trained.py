"""What is declared is what trains, method by method and phase by phase; and what is saved restores it."""

import pytest
import torch

from hybridcascade.errors import CheckpointError, SettingsError
from hybridcascade.methods import catalogue  # noqa: F401  (registers the methods)
from hybridcascade.methods.registry import method_entry

CASES = {
    "text_only": [{}],
    "lafter": [{}, {"preset": "custom", "prompts": 3, "prompt_init": "neutral"}],
    "hybrid_cascade_seed": [
        {},
        {"plan": "cascade_clip", "aggregation": "free"},
        {"plan": ((5, 6), (7, 8)), "aggregation": "mean"},
        {"plan": "last"},
    ],
    "hybrid_cascade": [
        {},
        {"pool": "both", "heads": "per_stage", "adapter_rank": 2, "train_logit_scale": True},
        {"pool": "patch", "train_layer_norms": "last_half", "prompts": 0, "sigma_per_layer": True},
        {"plan": "last", "train_layer_norms": "none", "prompts": 4},
        {"heads": "shared", "class_bias": False, "teacher": "frozen"},
        {"heads": "shared", "train_head": False, "train_layer_norms": "none"},
        {"plan": ((7,), (8,)), "aggregation": "free", "train_head": False, "fairness": 0.1},
        {"plan": "cascade_clip", "stage_loss": 0.0, "consistency": 0.0, "fusion_start": "last", "pool": "cls"},
    ],
    "cascade_clip": [
        {},
        {"aggregation": "free", "readout": "mean", "start": "alone", "prompts": 2, "train_layer_norms": "all"},
        {"plan": "last", "aggregation": "free", "readout": "logsumexp", "teacher": "ema", "labels": "argmax"},
    ],
    "multilayer": [
        {},
        {"earlier_prompts": "kept", "prompts": 3, "aggregation": "free", "fusion_start": "uniform", "labels": "live"},
        {"prompt_init": "neutral", "prompts": 2, "train_layer_norms": False, "class_bias": False, "labels": "argmax"},
        {"plan": ((3, 4, 5), (6, 7)), "head_start": "prototypes", "teacher_source": "text_head", "predict_views": 2},
    ],
    "linear_probe": [{}, {"stages": "all", "pool": "both"}],
}
FLAT = [(name, settings) for name, variants in CASES.items() for settings in variants]


def build(name, backbone, world, settings):
    return method_entry(name).load()(backbone=backbone, **world.arguments(), **settings)


def train_steps(method, phase, world, steps=1, targets=False):
    """Steps of AdamW on everything that is declared; returns names whose value and gradient moved."""
    method.begin_phase(phase, world.plain_batches() if phase != "text" else None, world.targets if targets else None)
    method.requires_grad_(False)
    if phase in method.solves:
        return solve(method, phase)
    named = dict(method.named_parameters())
    declared = [group for group in method.parameter_groups(phase) if group.parameters]
    assert sum(len(group.parameters) for group in declared) == len(method.trainable_names(phase)), "declared twice"
    for name in method.trainable_names(phase):
        named[name].requires_grad_()
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    optimiser = torch.optim.AdamW([named[name] for name in sorted(method.trainable_names(phase))], lr=1e-3)
    make = world.with_targets if targets else world.unlabeled
    moved = set()
    for step in range(steps):
        optimiser.zero_grad()
        batch = world.texts if phase == "text" else make([(step * 5 + i) % 12 for i in range(6)])
        report = method.training_loss(phase, batch, step)
        assert all(not getattr(value, "requires_grad", False) for value in report.scalars.values())
        report.loss.backward()
        for name in named:
            if named[name].grad is not None and bool(named[name].grad.count_nonzero()):
                moved.add(name)
        optimiser.step()
        method.after_step(phase)
    changed = {name for name in named if not torch.equal(before[name], named[name])}
    return moved & changed, changed


def solve(method, phase):
    """What `train_steps` does, for a phase that is solved at once."""
    before = {name: parameter.detach().clone() for name, parameter in method.named_parameters()}
    method.solve(phase)
    changed = {name for name, value in method.named_parameters() if not torch.equal(before[name], value)}
    return changed, changed


@pytest.mark.parametrize(("name", "settings"), FLAT, ids=lambda value: str(value))
def test_what_changed_in_one_step_is_what_is_declared(name, settings, deep_backbone, deep_world):
    method = build(name, deep_backbone, deep_world, settings)
    for phase in method.phases:
        moved, changed = train_steps(method, phase, deep_world, targets=method.needs == "targets")
        assert moved == method.trainable_names(phase), phase
        assert changed == method.trainable_names(phase), phase


@pytest.mark.parametrize("name", ["hybrid_cascade_seed", "hybrid_cascade", "cascade_clip"])
def test_the_same_parameters_train_with_targets(name, deep_backbone, deep_world):
    method = build(name, deep_backbone, deep_world, {})
    moved, _ = train_steps(method, "image", deep_world, targets=True)
    assert moved == method.trainable_names("image")


@pytest.mark.parametrize(("name", "settings"), [("zero_shot", {}), *FLAT], ids=lambda value: str(value))
def test_artifact_restores_the_prediction_exactly(name, settings, deep_backbone, deep_world, make_deep_backbone):
    method = build(name, deep_backbone, deep_world, settings)
    for phase in method.phases:
        train_steps(method, phase, deep_world, targets=method.needs == "targets")
    method.requires_grad_(False)
    state = {key: value.clone() for key, value in method.artifact_state().items()}
    assert not [key for key in state if "teacher" in key]
    # Whoever loads has neither the texts nor the weights: others of the same shape stand in for them.
    arguments = deep_world.arguments() | {"text_features": torch.eye(4, deep_backbone.embed_dim), "seed": 0}
    arguments["text_labels"] = torch.arange(4)
    fresh = method_entry(name).load()(backbone=make_deep_backbone(seed=99), **arguments, **settings)
    method.eval()
    fresh.eval()
    # Attention kernels with and without a graph differ in the last digit, so both predict without one.
    with torch.no_grad():
        ours = method(deep_world.plain)
        assert not torch.equal(fresh(deep_world.plain).logits, ours.logits)
        fresh.load_artifact_state(state)
        theirs = fresh(deep_world.plain)
    assert torch.equal(ours.logits, theirs.logits)
    torch.testing.assert_close(ours.probabilities.sum(dim=1), torch.ones(12))
    assert method.learned() == fresh.learned()
    state.pop(next(iter(state)))
    with pytest.raises(CheckpointError, match="lacks 1 tensors"):
        fresh.load_artifact_state(state)


def test_a_method_that_would_train_nothing_is_an_error(deep_backbone, deep_world):
    settings = {"plan": "last", "train_layer_norms": "none", "prompts": 0, "train_head": False, "class_bias": False}
    with pytest.raises(SettingsError, match="nothing to train"):
        build("hybrid_cascade", deep_backbone, deep_world, settings)


class Forbidden:
    """Stands where a target would be; looking at it fails."""

    def __getattr__(self, attribute):
        raise AssertionError("a label-free method looked at the target")


@pytest.mark.parametrize("name", ["text_only", "lafter", "zero_shot"])
def test_label_free_methods_never_see_targets(name, deep_backbone, deep_world):
    method = build(name, deep_backbone, deep_world, {})
    batch = deep_world.with_targets([0, 1, 2])
    object.__setattr__(batch, "target", Forbidden())
    for phase in method.phases:
        method.begin_phase(phase, deep_world.plain_batches())
        method.training_loss(phase, deep_world.texts if phase == "text" else batch, 0)
    plain = deep_world.unlabeled([0, 1, 2])
    if "image" in method.phases:
        assert torch.equal(method.training_loss("image", plain, 0).loss, method.training_loss("image", batch, 0).loss)


@pytest.mark.parametrize("name", ["lafter", "hybrid_cascade_seed", "hybrid_cascade"])
def test_wrong_kind_of_batch_is_named(name, deep_backbone, deep_world):
    method = build(name, deep_backbone, deep_world, {})
    with pytest.raises(TypeError, match="TextBatch"):
        method.training_loss("text", deep_world.unlabeled([0]), 0)
    method.begin_phase("image", deep_world.plain_batches())
    with pytest.raises(TypeError, match="TextBatch"):
        method.training_loss("image", deep_world.texts, 0)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["lafter", "hybrid_cascade_seed", "hybrid_cascade", "linear_probe"])
def test_low_precision_towers_train_float32_parameters(name, precision, make_deep_backbone, deep_world):
    method = build(name, make_deep_backbone(precision=precision), deep_world, {})
    for phase in method.phases:
        _, changed = train_steps(method, phase, deep_world, targets=method.needs == "targets")
        assert changed == method.trainable_names(phase)
    named = dict(method.named_parameters())
    trained = {name for phase in method.phases for name in method.trainable_names(phase)}
    assert {named[name].dtype for name in trained} == {torch.float32}
    assert method(deep_world.plain).logits.dtype == torch.float32
