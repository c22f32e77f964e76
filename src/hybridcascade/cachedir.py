"""Where encoded texts are kept between runs, when nobody says otherwise. Needs no torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["default_text_cache", "text_cache_folder"]


def default_text_cache() -> Path:
    """Return `hybridcascade/texts` in the user's cache folder.

    Not the run folder: encoding texts is the one thing that runs share, and since the files are named by a
    hash of texts, tokenizer, weights and precision they can only save time, never change a result.
    """
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "hybridcascade" / "texts"


def text_cache_folder(setting: str) -> Path | None:
    """Return the folder that the setting `text_cache` means: `auto`, `none` (None) or a path."""
    if setting == "none":
        return None
    return default_text_cache() if setting == "auto" else Path(setting)
