"""Dassl configurations that our trainers cannot follow, refused before anything is loaded."""

from __future__ import annotations

import dataclasses
from typing import Any

from hybridcascade.config import PRECISIONS, TEXT_MODES, VIEWS, one_of
from hybridcascade.engine.schedules import SCHEDULES
from hybridcascade.errors import SettingsError
from hybridcascade.integrations.dassl.schedule import epoch_factor
from hybridcascade.integrations.keys import backbone_name, check_nodes, read_method
from hybridcascade.methods.settings import PhaseDefaults, default_phases

__all__ = ["check_configuration", "text_numbers"]


def check_configuration(trainer: str, cfg: Any) -> None:
    """Refuse what a trainer cannot do.

    Args:
        trainer: name of one of our trainers.
        cfg: the whole Dassl configuration.

    Raises:
        SettingsError: a value that cannot work here; the message says what to set.
        UnknownNameError: a key or name that nothing reads.
    """
    check_nodes(cfg)
    own = cfg.LABEL_FREE
    _demand(cfg.TEST.FINAL_MODEL == "last_step", "TEST.FINAL_MODEL", cfg.TEST.FINAL_MODEL, "last_step",
            "best_val chooses on labels, and on the test labels where there is no validation split")  # fmt: skip
    _demand(cfg.DATALOADER.K_TRANSFORMS == 1, "DATALOADER.K_TRANSFORMS", cfg.DATALOADER.K_TRANSFORMS, 1,
            "the plain and the strong view are made already")  # fmt: skip
    _demand(not cfg.OPTIM.STAGED_LR, "OPTIM.STAGED_LR", cfg.OPTIM.STAGED_LR, False,
            "the method says which parameters train with which share of OPTIM.LR")  # fmt: skip
    _demand(not cfg.MODEL.INIT_WEIGHTS, "MODEL.INIT_WEIGHTS", cfg.MODEL.INIT_WEIGHTS, "''",
            "weights are named in MODEL.BACKBONE.NAME: nano, MODEL/TAG or MODEL@FILE")  # fmt: skip
    _demand(not cfg.MODEL.HEAD.NAME, "MODEL.HEAD.NAME", cfg.MODEL.HEAD.NAME, "''", "the method brings its head")
    _demand(cfg.OPTIM.LR > 0, "OPTIM.LR", cfg.OPTIM.LR, "a number above 0", "AdamW starts near 1e-3")
    _demand(cfg.OPTIM.MAX_EPOCH >= 1, "OPTIM.MAX_EPOCH", cfg.OPTIM.MAX_EPOCH, "at least 1", "")
    backbone_name(cfg.MODEL.BACKBONE.NAME)
    one_of("LABEL_FREE.PRECISION", own.PRECISION, PRECISIONS)
    one_of("LABEL_FREE.TEXT_MODE", own.TEXT_MODE, TEXT_MODES)
    if own.VIEW:
        one_of("LABEL_FREE.VIEW", own.VIEW, VIEWS)
    if own.TEXT_SCHEDULE is not None:
        one_of("LABEL_FREE.TEXT_SCHEDULE", own.TEXT_SCHEDULE, SCHEDULES)
    if own.TEXT_MODE == "descriptions" and not own.DESCRIPTIONS:
        raise SettingsError("LABEL_FREE.TEXT_MODE is descriptions: name the file in LABEL_FREE.DESCRIPTIONS")
    epoch_factor(0, cfg.OPTIM)
    text_numbers(read_method(trainer, cfg, 12).method if _plain_plan(cfg) else "lafter", cfg)


def text_numbers(method: str, cfg: Any) -> PhaseDefaults | None:
    """Return the numbers of the text phase: the method's, with `LABEL_FREE.TEXT_*` laid over; None without one.

    Raises:
        SettingsError: numbers are set for a phase that the method does not have, or are out of range.
    """
    own = cfg.LABEL_FREE
    pairs = {"epochs": own.TEXT_EPOCHS, "lr": own.TEXT_LR, "weight_decay": own.TEXT_WEIGHT_DECAY,
             "schedule": own.TEXT_SCHEDULE}  # fmt: skip
    given = {name: value for name, value in pairs.items() if value is not None}
    phases = default_phases(method)
    if "text" not in phases:
        if given:
            raise SettingsError(f"method {method!r} has no text phase: leave out LABEL_FREE.TEXT_*")
        return None
    numbers = dataclasses.replace(phases["text"], **given)
    if numbers.epochs < 0 or not numbers.lr > 0 or not numbers.weight_decay >= 0:
        raise SettingsError(f"LABEL_FREE.TEXT_*: expected epochs >= 0, lr > 0, weight decay >= 0, got {given}")
    return numbers


def _demand(fits: bool, key: str, found: object, wanted: object, why: str) -> None:
    if not fits:
        raise SettingsError(f"{key}: expected {wanted} with this trainer, found {found!r}{': ' if why else ''}{why}")


def _plain_plan(cfg: Any) -> bool:
    """Whether the keys can be checked before the depth of the tower is known: without a stage plan."""
    keys = (cfg.HYBRID_CASCADE.STAGE_BOUNDARIES, cfg.HYBRID_CASCADE.EXTRACTION_INDICES, cfg.MULTI_LAYER_PROMPT.SEGMENTS)
    return all(key is None for key in keys)
