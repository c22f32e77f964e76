"""Where encoded texts and stored features are kept between runs, when nobody says otherwise. Needs no torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["default_feature_cache", "default_text_cache", "feature_cache_folder", "text_cache_folder"]


def default_text_cache() -> Path:
    """Return `hybridcascade/texts` in the user's cache folder.

    Not the run folder: encoding texts is the one thing that runs share, and since the files are named by a
    hash of texts, tokenizer, weights and precision they can only save time, never change a result.
    """
    return _cache() / "texts"


def default_feature_cache() -> Path:
    """Return `hybridcascade/features` in the user's cache folder, for the same reason.

    The files are named by a hash of pictures, weights and all that decides the features.
    """
    return _cache() / "features"


def _cache() -> Path:
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "hybridcascade"


def text_cache_folder(setting: str) -> Path | None:
    """Return the folder that the setting `text_cache` means: `auto`, `none` (None) or a path."""
    if setting == "none":
        return None
    return default_text_cache() if setting == "auto" else Path(setting)


def feature_cache_folder(setting: str) -> Path | None:
    """Return the folder that the setting `feature_cache` means: `auto`, `none` (None) or a path."""
    if setting == "none":
        return None
    return default_feature_cache() if setting == "auto" else Path(setting)
