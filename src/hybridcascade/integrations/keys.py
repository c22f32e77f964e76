"""The configuration keys of our Dassl trainers: what there is, what each does, which contradict each other.

Keys are upper case in nodes at the top level of the configuration, because Dassl's `clean_cfg` deletes every
node below `TRAINER` whose name is not the trainer's. A key left at None keeps the method's own number. Needs
neither Dassl nor torch.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from hybridcascade.errors import SettingsError, UnknownNameError
from hybridcascade.methods.settings import SETTINGS, method_settings

__all__ = ["METHODS", "NODES", "MethodChoice", "backbone_name", "check_nodes", "extend_cfg", "read_method"]

NODES: dict[str, dict[str, Any]] = {
    "LABEL_FREE": {
        "PRECISION": "auto",
        "TEXT_MODE": "auto",
        "TEMPLATES": "",
        "DESCRIPTIONS": "",
        "TEXT_CACHE": "auto",
        "VIEW": "",
        "TEXT_EPOCHS": None,
        "TEXT_LR": None,
        "TEXT_WEIGHT_DECAY": None,
        "TEXT_SCHEDULE": None,
        "SETTINGS": [],
        "EXPORT": False,
    },
    "HYBRID_CASCADE": {
        "METHOD": "hybrid_cascade",
        "STAGE_BOUNDARIES": None,
        "EXTRACTION_INDICES": None,
        "NGA_INIT_SIGMA": None,
        "CONSISTENCY_LOSS_WEIGHT": None,
    },
    "MULTI_LAYER_PROMPT": {
        "SEGMENTS": None,
        "NUM_TOKENS": None,
        "EARLIER": None,
        "INIT": None,
        "LR": None,
        "PROGRESSIVE": None,
        "UNFREEZE_SHARE": None,
    },
    "NGA": {"INIT_SIGMA": None, "PER_LAYER": None, "AGGREGATION": None, "LR": None},
    "CONSISTENCY_LOSS": {"ALPHA": None},
}
"""Our nodes with their keys and defaults; None is the method's own number."""

METHODS: dict[str, tuple[str, ...]] = {
    "LaFTer": ("lafter",),
    "MultiLayerLaFTer": ("multilayer",),
    "HybridCascadeLaFTer": ("hybrid_cascade", "hybrid_cascade_seed"),
}
"""Name of a trainer -> methods it can run, the first one unless `HYBRID_CASCADE.METHOD` says otherwise."""

_MEANINGS: dict[str, dict[str, str]] = {
    "LaFTer": {},
    "MultiLayerLaFTer": {
        "MULTI_LAYER_PROMPT.NUM_TOKENS": "prompts",
        "MULTI_LAYER_PROMPT.EARLIER": "earlier_prompts",
        "MULTI_LAYER_PROMPT.INIT": "prompt_init",
        "MULTI_LAYER_PROMPT.LR": "prompt_lr_scale",
        "MULTI_LAYER_PROMPT.PROGRESSIVE": "progressive",
        "MULTI_LAYER_PROMPT.UNFREEZE_SHARE": "unfreeze_share",
        "NGA.INIT_SIGMA": "sigma",
        "NGA.LR": "nga_lr_scale",
        "NGA.AGGREGATION": "aggregation",
        "CONSISTENCY_LOSS.ALPHA": "consistency",
    },
    "HybridCascadeLaFTer": {
        "HYBRID_CASCADE.NGA_INIT_SIGMA": "sigma",
        "HYBRID_CASCADE.CONSISTENCY_LOSS_WEIGHT": "consistency",
        "NGA.INIT_SIGMA": "sigma",
        "NGA.PER_LAYER": "sigma_per_layer",
        "NGA.AGGREGATION": "aggregation",
        "CONSISTENCY_LOSS.ALPHA": "consistency",
    },
}
"""Key -> setting of the method, where a key is one number."""

_RATES = frozenset({"MULTI_LAYER_PROMPT.LR", "NGA.LR"})
"""Learning rates as such; the method wants their share of `OPTIM.LR`."""

_PLAN_KEYS: dict[str, tuple[str, str | None]] = {
    "MultiLayerLaFTer": ("MULTI_LAYER_PROMPT.SEGMENTS", None),
    "HybridCascadeLaFTer": ("HYBRID_CASCADE.STAGE_BOUNDARIES", "HYBRID_CASCADE.EXTRACTION_INDICES"),
}
"""Keys that give the stage plan: the stages, and the blocks that are read."""

_BACKBONES = {"ViT-B/32": "ViT-B-32/openai", "ViT-B/16": "ViT-B-16/openai", "ViT-L/14": "ViT-L-14/openai"}

_ALWAYS = frozenset({"HYBRID_CASCADE.METHOD"})  # has a value in every configuration, so it cannot be "set by mistake"


@dataclass(frozen=True)
class MethodChoice:
    """What the keys of a configuration choose.

    Attributes:
        method: registry key.
        settings: the method's own numbers, complete.
        given: those that the configuration set.
    """

    method: str
    settings: dict[str, Any]
    given: dict[str, Any]


def extend_cfg(cfg: Any) -> None:
    """Add our nodes and keys with their defaults to a Dassl configuration; call it before `merge_from_file`.

    Keys that are there already keep their values; `check_nodes` refuses those it does not know.

    Args:
        cfg: yacs `CfgNode`, not frozen (any mapping with such a constructor will do).
    """
    for name, keys in NODES.items():
        if name not in cfg:
            cfg[name] = type(cfg)()
        for key, default in keys.items():
            cfg[name].setdefault(key, list(default) if isinstance(default, list) else default)


def check_nodes(cfg: Mapping[str, Any]) -> None:
    """Check that our nodes are there and hold known keys only.

    Raises:
        SettingsError: `extend_cfg` was not called.
        UnknownNameError: a node has a key that nothing reads.
    """
    for name, keys in NODES.items():
        if name not in cfg or any(key not in cfg[name] for key in keys):
            raise SettingsError(
                f"the configuration has no complete node {name}: call "
                "hybridcascade.integrations.dassl.extend_cfg(cfg) before cfg.merge_from_file(...)"
            )
        for key in cfg[name]:
            if key not in keys:
                raise UnknownNameError(f"key in {name}", str(key), keys)


def read_method(trainer: str, cfg: Mapping[str, Any], depth: int) -> MethodChoice:
    """Read which method a trainer runs and with which numbers.

    Args:
        trainer: name of one of our trainers.
        cfg: configuration with our nodes, or with those of them that are set; `OPTIM.LR` where a key is a rate.
        depth: blocks of the vision tower.

    Raises:
        SettingsError: a value is out of range, contradicts another, or is of a key that this trainer or method
            does not read.
        UnknownNameError: no such key or choice.
    """
    if trainer not in METHODS:
        raise UnknownNameError("trainer", trainer, METHODS)
    flat = {f"{node}.{key}": value for node in NODES for key, value in dict(cfg.get(node) or {}).items()}
    _refuse_unread(trainer, flat)
    method = _chosen_method(trainer, flat)
    given, said_by = _merged(method, _wishes(trainer, flat, cfg, depth))
    try:
        settings = dataclasses.asdict(method_settings(method, given))
    except SettingsError as error:
        keys = ", ".join(sorted(set(said_by.values())))
        raise SettingsError(f"{keys}: {error}") from error
    return MethodChoice(method, settings, given)


def _wishes(
    trainer: str, flat: Mapping[str, Any], cfg: Mapping[str, Any], depth: int
) -> Iterator[tuple[str, str, Any]]:
    """Yield key, setting and value of everything that is set."""
    for key, setting in _MEANINGS[trainer].items():
        if flat.get(key) is not None:
            yield key, setting, _share(key, flat[key], cfg) if key in _RATES else flat[key]
    stages_key, blocks_key = _PLAN_KEYS.get(trainer, ("", None))
    plan = _plan(stages_key, flat.get(stages_key), blocks_key, flat.get(blocks_key or ""), depth)
    if plan is not None:
        yield stages_key, "plan", plan
    for setting, value in _extra_settings(flat.get("LABEL_FREE.SETTINGS") or ()).items():
        yield "LABEL_FREE.SETTINGS", setting, value


def _merged(method: str, wishes: Iterable[tuple[str, str, Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings and which key said each; two keys may say the same thing, but not two things."""
    known = typing.get_type_hints(SETTINGS[method][0])
    given: dict[str, Any] = {}
    said_by: dict[str, str] = {}
    for key, setting, value in wishes:
        if setting not in known and key != "LABEL_FREE.SETTINGS":  # there the setting itself was written
            raise SettingsError(f"{key} is set, but method {method!r} has no setting {setting!r}; leave it out")
        if setting in given and given[setting] != value:
            raise SettingsError(
                f"{said_by[setting]} = {given[setting]!r} and {key} = {value!r} contradict each other: "
                f"both are {setting!r} of {method}; set one of them"
            )
        given[setting], said_by[setting] = value, key
    return given, said_by


def backbone_name(written: str) -> str:
    """Return our name of a backbone as CoOp and LaFTer write it (`ViT-B/32`); our own names pass.

    Raises:
        SettingsError: no name, or an architecture that is no vision transformer.
    """
    if written in _BACKBONES:
        return _BACKBONES[written]
    if not written or written.startswith(("RN", "resnet")):
        found = repr(written) if written else "nothing"
        raise SettingsError(
            f"MODEL.BACKBONE.NAME: expected a CLIP vision transformer ({', '.join(_BACKBONES)}, nano, MODEL/TAG or "
            f"MODEL@FILE), found {found}"
        )
    return written


def _refuse_unread(trainer: str, flat: Mapping[str, Any]) -> None:
    """A key that is set and that this trainer does not read would be a wish nobody hears."""
    read = {*_MEANINGS[trainer], *(key for key in _PLAN_KEYS.get(trainer, ()) if key), *_ALWAYS}
    for key, value in flat.items():
        node, _, name = key.partition(".")
        if name not in NODES[node]:
            raise UnknownNameError(f"key in {node}", name, NODES[node])
        if node != "LABEL_FREE" and key not in read and value is not None:
            readers = [other for other in METHODS if key in _MEANINGS[other] or key in _PLAN_KEYS.get(other, ())]
            raise SettingsError(
                f"{key} is set, but the trainer {trainer} does not read it; {' and '.join(readers)} would. "
                "Leave it out or choose another trainer"
            )


def _chosen_method(trainer: str, flat: Mapping[str, Any]) -> str:
    if trainer != "HybridCascadeLaFTer":
        return METHODS[trainer][0]
    method = str(flat.get("HYBRID_CASCADE.METHOD") or METHODS[trainer][0])
    if method not in METHODS[trainer]:
        raise UnknownNameError("HYBRID_CASCADE.METHOD", method, METHODS[trainer])
    return method


def _share(key: str, rate: Any, cfg: Mapping[str, Any]) -> float:
    base = dict(cfg.get("OPTIM") or {}).get("LR")
    if not base or not isinstance(rate, (int, float)):
        raise SettingsError(f"{key}: expected a learning rate, and OPTIM.LR beside it, got {rate!r} and {base!r}")
    return float(rate / base)


def _extra_settings(written: Sequence[str]) -> dict[str, Any]:
    """Read `["key=value", ...]`: the method's other numbers, as `--set` takes them on our command line."""
    if isinstance(written, str):
        raise SettingsError(f"LABEL_FREE.SETTINGS must be a list such as ['prompts=8'], got {written!r}")
    found: dict[str, Any] = {}
    for item in written:
        key, equals, value = str(item).partition("=")
        if not equals:
            raise SettingsError(f"LABEL_FREE.SETTINGS expects 'key=value', got {item!r}")
        found[key.strip()] = yaml.safe_load(value)
    return found


def _plan(stages_key: str, stages: Any, blocks_key: str | None, blocks: Any, depth: int) -> Any:
    """Return the stage plan that boundaries and extracted blocks describe, or None when neither is set.

    Boundaries are a plan's name, lists of blocks (`[[5, 6, 7], [8, 9], [10, 11, 12]]`), first and last blocks
    (`[[5, 7], [8, 9], [10, 12]]`, told apart by the extracted blocks), or the last block of each stage
    (`[7, 9, 12]`, which needs the extracted blocks). Extracted blocks alone keep those blocks of the usual
    stages. Blocks count from 1.
    """
    wanted = None if blocks is None else _whole_numbers(str(blocks_key), blocks)
    if stages is None:
        return None if wanted is None else _kept(wanted, str(blocks_key), depth)
    if isinstance(stages, str):
        plan = _stages(stages, depth)
    elif all(isinstance(stage, int) and not isinstance(stage, bool) for stage in stages):
        plan = _by_last_blocks(stages_key, list(stages), blocks_key, wanted)
    else:
        plan = tuple(_whole_numbers(stages_key, stage) for stage in stages)
        pairs = all(len(stage) == 2 and stage[0] <= stage[1] for stage in plan)
        ranges = tuple(tuple(range(stage[0], stage[-1] + 1)) for stage in plan)
        if pairs and wanted is not None and sorted(wanted) == [block for stage in ranges for block in stage]:
            plan = ranges
    if wanted is not None and sorted(wanted) != [block for stage in plan for block in stage]:
        raise SettingsError(
            f"{stages_key} = {stages!r} and {blocks_key} = {list(wanted)} contradict each other: the stages hold the "
            f"blocks {[block for stage in plan for block in stage]}"
        )
    return _stages(plan, depth)


def _stages(spec: str | Sequence[Sequence[int]], depth: int) -> tuple[tuple[int, ...], ...]:
    # Late, because the room's types need torch, and most configurations have no plan.
    from hybridcascade.backbone.plans import stage_plan

    return stage_plan(spec, depth).stages


def _whole_numbers(key: str, values: Any) -> tuple[int, ...]:
    plain = isinstance(values, (list, tuple)) and all(type(value) is int for value in values)
    if not plain or not values or min(values) < 1:
        raise SettingsError(f"{key} must hold block numbers, counted from 1, got {values!r}")
    return tuple(values)


def _by_last_blocks(
    key: str, lasts: list[int], blocks_key: str | None, wanted: tuple[int, ...] | None
) -> tuple[tuple[int, ...], ...]:
    if wanted is None:
        where = f" in {blocks_key}" if blocks_key else ""
        raise SettingsError(
            f"{key} = {lasts} gives the last block of each stage; say which blocks are read{where}, or write the "
            "stages out: [[5, 6, 7], [8, 9], [10, 11, 12]]"
        )
    if lasts != sorted(set(lasts)) or lasts[-1] != max(wanted):
        raise SettingsError(f"{key} = {lasts} must ascend and end at the last block of {blocks_key}, {max(wanted)}")
    stages, low = [], 0
    for last in lasts:
        stages.append(tuple(block for block in sorted(wanted) if low < block <= last))
        low = last
    return tuple(stages)


def _kept(wanted: tuple[int, ...], key: str, depth: int) -> tuple[tuple[int, ...], ...]:
    usual = _stages("hybrid", depth)
    if outside := sorted(set(wanted) - {block for stage in usual for block in stage}):
        raise SettingsError(
            f"{key}: blocks {outside} are in no stage of the usual plan {[list(stage) for stage in usual]}; "
            "say the stages in HYBRID_CASCADE.STAGE_BOUNDARIES"
        )
    stages = (tuple(block for block in stage if block in wanted) for stage in usual)
    return _stages([stage for stage in stages if stage], depth)
