"""The numbers of every method, without torch, so that a wrong `--set key=value` is answered at once.

One frozen dataclass a method, in `methods/numbers`; its field names are the keywords of the method's
constructor and its defaults are the method's defaults. `default_phases` has the numbers of the training
phases, which are the engine's and not the method's.

"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from hybridcascade.errors import SettingsError, UnknownNameError
from hybridcascade.methods.numbers.base import PhaseDefaults
from hybridcascade.methods.numbers.cascade import HybridCascadeSettings
from hybridcascade.methods.numbers.cascade_clip import CascadeClipSettings
from hybridcascade.methods.numbers.cascade_seed import HybridCascadeSeedSettings
from hybridcascade.methods.numbers.lafter import LafterSettings, TextOnlySettings, ZeroShotSettings
from hybridcascade.methods.numbers.multilayer import MultiLayerSettings
from hybridcascade.methods.numbers.probe import LinearProbeSettings
from hybridcascade.methods.registry import no_heads

__all__ = [
    "HEADS",
    "SETTINGS",
    "CascadeClipSettings",
    "HybridCascadeSeedSettings",
    "HybridCascadeSettings",
    "LafterSettings",
    "LinearProbeSettings",
    "MultiLayerSettings",
    "PhaseDefaults",
    "TextOnlySettings",
    "ZeroShotSettings",
    "default_heads",
    "default_phases",
    "default_view",
    "method_settings",
]

_TEXT_PHASE = PhaseDefaults(epochs=400, lr=5e-4, weight_decay=0.01, batch_size=1)
_IMAGE_PHASE = PhaseDefaults(epochs=50, lr=5e-4, weight_decay=0.01, batch_size=50)
_OWN_TEXT_PHASE = PhaseDefaults(epochs=0, lr=5e-4, weight_decay=0.01, batch_size=1)
_OWN_IMAGE_PHASE = PhaseDefaults(epochs=5, lr=1e-3, weight_decay=0.01, batch_size=50, schedule="cosine")
_DECODER_PHASE = PhaseDefaults(epochs=5, lr=5e-4, weight_decay=0.01, batch_size=50, schedule="cosine")
_SEGMENT_PHASE = PhaseDefaults(epochs=10, lr=5e-4, weight_decay=0.01, batch_size=50)
_OWN_HEADS_PHASE = PhaseDefaults(epochs=10, lr=1e-3, weight_decay=0.01, batch_size=50, schedule="cosine")

SETTINGS: dict[str, tuple[type[Any], dict[str, PhaseDefaults], str]] = {
    "zero_shot": (ZeroShotSettings, {}, "none"),
    "text_only": (TextOnlySettings, {"text": _TEXT_PHASE}, "none"),
    "lafter": (LafterSettings, {"text": _TEXT_PHASE, "image": _IMAGE_PHASE}, "lafter"),
    "hybrid_cascade_seed": (HybridCascadeSeedSettings, {"text": _TEXT_PHASE, "image": _IMAGE_PHASE}, "lafter"),
    "hybrid_cascade": (HybridCascadeSettings, {"text": _OWN_TEXT_PHASE, "image": _OWN_IMAGE_PHASE}, "affect_safe"),
    "cascade_clip": (CascadeClipSettings, {"image": _DECODER_PHASE}, "affect_safe"),
    "multilayer": (MultiLayerSettings, {"text": _OWN_TEXT_PHASE, "image": _SEGMENT_PHASE}, "affect_safe"),
    "linear_probe": (LinearProbeSettings, {}, "none"),
}
"""Settings, phase numbers and strong view of each method; a phase that is solved at once has no numbers."""

HEADS: dict[str, PhaseDefaults] = {"hybrid_cascade": _OWN_HEADS_PHASE, "cascade_clip": _DECODER_PHASE}
"""Numbers of the heads phase of each method that can have one in the image phase's place or before it."""


def _entry(method: str) -> tuple[type[Any], dict[str, PhaseDefaults], str]:
    if method not in SETTINGS:
        raise UnknownNameError("method", method, SETTINGS)
    return SETTINGS[method]


def default_phases(method: str) -> dict[str, PhaseDefaults]:
    """Return the numbers of each phase of `method`, in order; empty for one that trains nothing.

    Raises:
        UnknownNameError: no such method.
    """
    return dict(_entry(method)[1])


def default_heads(method: str) -> PhaseDefaults:
    """Return the numbers of the heads phase of `method`.

    Raises:
        SettingsError: it has none.
    """
    if method not in HEADS:
        raise SettingsError(no_heads(method))
    return HEADS[method]


def default_view(method: str) -> str:
    """Return the strong view that `method` trains on when nothing else is said."""
    return _entry(method)[2]


def method_settings(method: str, given: Mapping[str, Any] | None = None) -> Any:
    """Build the settings of `method` from its defaults and what was given.

    Args:
        method: registry key.
        given: values by field name, as YAML or the command line gives them.

    Returns:
        The method's frozen settings dataclass; `dataclasses.asdict` of it are constructor keywords.

    Raises:
        UnknownNameError: no such method, setting or choice; the message lists the valid ones.
        SettingsError: a value of the wrong type, out of range, or contradicting another.
    """
    kind = _entry(method)[0]
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in (given or {}).items():
        if key not in hints:
            raise UnknownNameError(f"setting of {method}", key, hints)
        values[key] = _as_type(key, value, hints[key])
    return kind(**values)


def _as_type(key: str, value: Any, wanted: Any) -> Any:
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted in (int, float, bool, str):
        if type(value) is not wanted:
            raise SettingsError(f"expected {key} to be a {wanted.__name__}, got {value!r}")
        return value
    if isinstance(value, str):
        return value
    try:  # what is left is a stage plan
        return tuple(tuple(int(block) for block in stage) for stage in value)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"expected {key} to be a plan's name or lists of blocks, got {value!r}") from error
