"""The configuration keys of our Dassl trainers: each changes the built method, contradictions are errors.

Needs no Dassl: the keys are read from any mapping.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from hybridcascade.errors import SettingsError, UnknownNameError
from hybridcascade.integrations.keys import NODES, backbone_name, check_nodes, extend_cfg, read_method


def stages(method) -> list[list[int]]:
    return [list(stage) for stage in method.plan.stages]


def sigmas(method) -> list[float]:
    values = (flat(value) for name, value in method.learned().items() if "sigma" in name)
    return [round(value, 5) for group in values for value in group]


def flat(value):
    return [x for part in value for x in flat(part)] if isinstance(value, list) else [value]


HYBRID_KEYS = {
    "boundaries as lists": (
        {"STAGE_BOUNDARIES": [[3, 4], [5, 6, 7]]},
        lambda m: stages(m),
        [[5, 6, 7], [8, 9], [10, 11]],
        [[3, 4], [5, 6, 7]],
    ),
    "indices alone": (
        {"EXTRACTION_INDICES": [7, 8, 9, 10]},
        lambda m: stages(m),
        [[5, 6, 7], [8, 9], [10, 11]],
        [[7], [8, 9], [10]],
    ),
    "last blocks and indices": (
        {"STAGE_BOUNDARIES": [4, 8], "EXTRACTION_INDICES": [3, 4, 5, 6, 7, 8]},
        lambda m: stages(m),
        [[5, 6, 7], [8, 9], [10, 11]],
        [[3, 4], [5, 6, 7, 8]],
    ),
    "ranges and indices": (
        {"STAGE_BOUNDARIES": [[2, 4], [5, 6]], "EXTRACTION_INDICES": [2, 3, 4, 5, 6]},
        lambda m: stages(m),
        [[5, 6, 7], [8, 9], [10, 11]],
        [[2, 3, 4], [5, 6]],
    ),
    "sigma": ({"NGA_INIT_SIGMA": 2.5}, lambda m: set(sigmas(m)), {1.0}, {2.5}),
    "consistency": ({"CONSISTENCY_LOSS_WEIGHT": 0.7}, lambda m: m.settings.consistency, 0.1, 0.7),
    "method": ({"METHOD": "hybrid_cascade_seed"}, lambda m: m.name, "hybrid_cascade", "hybrid_cascade_seed"),
}


@pytest.mark.parametrize("name", HYBRID_KEYS)
def test_keys_of_hybrid_cascade_change_the_method(name: str, cfg, build):
    keys, look, before, after = HYBRID_KEYS[name]
    assert look(build("HybridCascadeLaFTer")) == before
    cfg.HYBRID_CASCADE.update(keys)
    assert look(build("HybridCascadeLaFTer")) == after


OTHER_KEYS = {
    "NGA sigma": ("HybridCascadeLaFTer", "NGA", {"INIT_SIGMA": 0.5}, lambda m: set(sigmas(m)), {1.0}, {0.5}),
    "NGA sigma of a segment": ("MultiLayerLaFTer", "NGA", {"INIT_SIGMA": 0.5}, lambda m: set(sigmas(m)), {1.0}, {0.5}),
    "sigma a layer": (
        "HybridCascadeLaFTer",
        "NGA",
        {"PER_LAYER": True},
        lambda m: len(sigmas(m)),
        2 * 3,
        2 * (3 + 2 + 2),
    ),
    "aggregation": ("HybridCascadeLaFTer", "NGA", {"AGGREGATION": "mean"}, lambda m: sigmas(m) == [], False, True),
    "alpha": ("HybridCascadeLaFTer", "CONSISTENCY_LOSS", {"ALPHA": 0.3}, lambda m: m.settings.consistency, 0.1, 0.3),
    "alpha of segments": (
        "MultiLayerLaFTer",
        "CONSISTENCY_LOSS",
        {"ALPHA": 0.3},
        lambda m: m.settings.consistency,
        0.1,
        0.3,
    ),
    "segments": (
        "MultiLayerLaFTer",
        "MULTI_LAYER_PROMPT",
        {"SEGMENTS": [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]]},
        lambda m: stages(m),
        [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11], [12]],
        [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]],
    ),
    "prompt tokens": (
        "MultiLayerLaFTer",
        "MULTI_LAYER_PROMPT",
        {"NUM_TOKENS": 3},
        lambda m: sum(p.numel() for p in m.prompts.parameters()),
        4 * 16 * 32,
        4 * 3 * 32,
    ),
    "earlier prompts": (
        "MultiLayerLaFTer",
        "MULTI_LAYER_PROMPT",
        {"EARLIER": "kept"},
        lambda m: m.settings.earlier_prompts,
        "replaced",
        "kept",
    ),
    "prompt start": (
        "MultiLayerLaFTer",
        "MULTI_LAYER_PROMPT",
        {"INIT": "neutral"},
        lambda m: m.settings.prompt_init,
        "cls",
        "neutral",
    ),
    "prompt rate": (
        "MultiLayerLaFTer",
        "MULTI_LAYER_PROMPT",
        {"LR": 5e-5},
        lambda m: rate(m, "prompts"),
        pytest.approx(1e-4),
        pytest.approx(5e-5),
    ),
    "NGA rate": (
        "MultiLayerLaFTer",
        "NGA",
        {"LR": 2e-5},
        lambda m: rate(m, "nga"),
        pytest.approx(1e-5),
        pytest.approx(2e-5),
    ),
    "not progressive": (
        "MultiLayerLaFTer",
        "MULTI_LAYER_PROMPT",
        {"PROGRESSIVE": False},
        lambda m: len(m.unfreezing("image")) > 1,
        True,
        False,
    ),
    "unfreezing": (
        "MultiLayerLaFTer",
        "MULTI_LAYER_PROMPT",
        {"UNFREEZE_SHARE": 0.9},
        lambda m: m.unfreezing("image")[-1].start,
        0.5,
        0.9,
    ),
    "another setting": (
        "LaFTer",
        "LABEL_FREE",
        {"SETTINGS": ["preset=custom", "prompts=7"]},
        lambda m: sum(p.numel() for p in m.prompts.parameters()),
        50 * 32,
        7 * 32,
    ),
}


def rate(method, group: str) -> float:
    return next(5e-4 * g.lr_scale for g in method.parameter_groups("image") if g.name.startswith(group))


@pytest.mark.parametrize("name", OTHER_KEYS)
def test_the_other_keys_change_the_method(name: str, cfg, build):
    trainer, node, keys, look, before, after = OTHER_KEYS[name]
    assert look(build(trainer)) == before
    cfg[node].update(keys)
    assert look(build(trainer)) == after


WRONG = {
    "stages against indices": (
        "HybridCascadeLaFTer",
        {"HYBRID_CASCADE": {"STAGE_BOUNDARIES": [[5, 6], [7, 8]], "EXTRACTION_INDICES": [5, 6, 7]}},
        r"STAGE_BOUNDARIES = .* and .*EXTRACTION_INDICES = \[5, 6, 7\] contradict",
    ),
    "last blocks alone": (
        "HybridCascadeLaFTer",
        {"HYBRID_CASCADE": {"STAGE_BOUNDARIES": [7, 9, 12]}},
        "say which blocks are read",
    ),
    "block 0": ("HybridCascadeLaFTer", {"HYBRID_CASCADE": {"EXTRACTION_INDICES": [0, 1]}}, "counted from 1"),
    "block 13": ("HybridCascadeLaFTer", {"HYBRID_CASCADE": {"STAGE_BOUNDARIES": [[11, 12, 13]]}}, "blocks 1 to 12"),
    "gap": ("HybridCascadeLaFTer", {"HYBRID_CASCADE": {"EXTRACTION_INDICES": [5, 7]}}, r"blocks \[6\]"),
    "outside the plan": (
        "HybridCascadeLaFTer",
        {"HYBRID_CASCADE": {"EXTRACTION_INDICES": [4, 5]}},
        r"blocks \[4\] are in no",
    ),
    "two sigmas": (
        "HybridCascadeLaFTer",
        {"HYBRID_CASCADE": {"NGA_INIT_SIGMA": 1.0}, "NGA": {"INIT_SIGMA": 2.0}},
        "contradict each other",
    ),
    "two weights": (
        "HybridCascadeLaFTer",
        {"HYBRID_CASCADE": {"CONSISTENCY_LOSS_WEIGHT": 0.1}, "CONSISTENCY_LOSS": {"ALPHA": 0.2}},
        "contradict each other",
    ),
    "out of range": ("HybridCascadeLaFTer", {"NGA": {"INIT_SIGMA": -1.0}}, r"NGA.INIT_SIGMA: expected sigma in \(0"),
    "wrong type": ("HybridCascadeLaFTer", {"CONSISTENCY_LOSS": {"ALPHA": "much"}}, "to be a float"),
    "unknown key": ("HybridCascadeLaFTer", {"NGA": {"SIGMA": 1.0}}, "Did you mean 'INIT_SIGMA'"),
    "unknown method": (
        "HybridCascadeLaFTer",
        {"HYBRID_CASCADE": {"METHOD": "hybrid"}},
        "Did you mean 'hybrid_cascade'",
    ),
    "the other trainer's": ("LaFTer", {"NGA": {"INIT_SIGMA": 1.0}}, "MultiLayerLaFTer and HybridCascadeLaFTer would"),
    "no such part": (
        "HybridCascadeLaFTer",
        {"HYBRID_CASCADE": {"METHOD": "hybrid_cascade_seed"}, "NGA": {"PER_LAYER": True}},
        "has no setting 'sigma_per_layer'",
    ),
    "settings as text": ("LaFTer", {"LABEL_FREE": {"SETTINGS": "prompts=3"}}, "must be a list"),
    "settings against preset": ("LaFTer", {"LABEL_FREE": {"SETTINGS": ["prompts=3"]}}, "contradicts preset"),
    "rate without base": ("MultiLayerLaFTer", {"NGA": {"LR": 1e-5}, "OPTIM": {}}, "and OPTIM.LR beside it"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_errors_that_name_the_key(name: str):
    trainer, keys, message = WRONG[name]
    with pytest.raises(SettingsError, match=message):
        read_method(trainer, keys, 12)


def test_two_keys_may_say_the_same_thing():
    keys = {"HYBRID_CASCADE": {"NGA_INIT_SIGMA": 2.0}, "NGA": {"INIT_SIGMA": 2.0}}
    assert read_method("HybridCascadeLaFTer", keys, 12).given == {"sigma": 2.0}


def test_the_documents_stages_fit_any_depth():
    plan = read_method("HybridCascadeLaFTer", {"HYBRID_CASCADE": {"EXTRACTION_INDICES": list(range(9, 25))}}, 24)
    assert plan.settings["plan"] == (tuple(range(9, 15)), tuple(range(15, 19)), tuple(range(19, 25)))


def test_extend_cfg_adds_what_is_missing_and_keeps_what_is_there(cfg):
    assert {name: dict(cfg[name]) for name in NODES} == NODES
    check_nodes(cfg)
    own = type(cfg)(NGA=type(cfg)(INIT_SIGMA=3.0))
    extend_cfg(own)
    assert own.NGA.INIT_SIGMA == 3.0
    assert own.HYBRID_CASCADE.METHOD == "hybrid_cascade"
    own.LABEL_FREE.SETTINGS.append("x=1")
    assert NODES["LABEL_FREE"]["SETTINGS"] == [], "configurations share no list"
    own.NGA.INIT_SIGNA = 1.0
    with pytest.raises(UnknownNameError, match="Did you mean 'INIT_SIGMA'"):
        check_nodes(own)
    with pytest.raises(SettingsError, match="extend_cfg"):
        check_nodes({"NGA": {}})


def test_backbone_names_of_coop_and_ours():
    assert backbone_name("ViT-B/32") == "ViT-B-32/openai"
    assert backbone_name("nano") == "nano"
    for wrong in ("RN50", ""):
        with pytest.raises(SettingsError, match="vision transformer"):
            backbone_name(wrong)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("dassl", r"needs Dassl, which is not installed.*KaiyangZhou/Dassl.pytorch"),
        ("gdown", r"needs the package 'gdown'"),
    ],
)
def test_a_missing_dassl_is_explained(missing: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path):
    """A stand-in Dassl that imports gdown; one of the two cannot be imported."""
    (tmp_path / "dassl").mkdir()
    (tmp_path / "dassl" / "__init__.py").write_text("")
    (tmp_path / "dassl" / "engine.py").write_text("import gdown")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "dassl"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "hybridcascade.integrations.dassl", raising=False)
    before = set(sys.modules)
    try:
        with pytest.raises(ImportError, match=message) as caught:
            __import__("hybridcascade.integrations.dassl")
    finally:
        for name in set(sys.modules) - before:  # the stand-in must not be taken for the real one later
            if name.partition(".")[0] == "dassl":
                del sys.modules[name]
    assert caught.value.name == missing


def test_the_guide_names_every_key_and_its_example_is_accepted():
    page = (Path(__file__).parents[2] / "docs" / "coming_from.md").read_text(encoding="utf-8")
    named = re.findall(r"`([A-Z_.]+)`", page)
    shown = {name.rpartition(".")[2] for name in named}
    assert [f"{node}.{key}" for node, keys in NODES.items() for key in keys if key not in shown] == []
    block = re.search(r"```yaml\n# hybrid.yaml\n(.*?)```", page, re.DOTALL)
    example = yaml.safe_load(block[1])
    choice = read_method(example["TRAINER"]["NAME"], example, 12)
    assert choice.given["plan"] == ((5, 6, 7), (8, 9), (10, 11, 12))
    assert backbone_name(example["MODEL"]["BACKBONE"]["NAME"]) == "ViT-B-32/openai"
