"""Where a run came from: versions, commit, seed, data, command. Needs no torch."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["collect_provenance", "git_state"]

_PACKAGES = {
    "hybridcascade": "hybridcascade",
    "torch": "torch",
    "torchvision": "torchvision",
    "open_clip": "open_clip_torch",
    "lightning": "lightning",
}


def collect_provenance(
    *,
    seed: int,
    dataset: str | Mapping[str, Any] | None = None,
    command: Sequence[str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Collect what is needed to know how a run was made.

    Args:
        seed: the run's seed.
        dataset: fingerprint of the training data, or a mapping of several.
        command: the words of the command line; None means this process's.
        extra: further plain values, such as the hash of the weights.

    Returns:
        Plain values for JSON: `package`, `versions`, `git` (`{"commit", "dirty"}` or None), `python`,
        `platform`, `seed`, `dataset`, `command`, `date` (UTC, ISO 8601) and what `extra` adds.
    """
    return {
        "package": "hybridcascade",
        "versions": {name: _version(distribution) for name, distribution in _PACKAGES.items()},
        "git": git_state(Path(__file__).resolve()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "seed": seed,
        "dataset": dict(dataset) if isinstance(dataset, Mapping) else dataset,
        "command": shlex.join(sys.argv if command is None else command),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **(extra or {}),
    }


def git_state(file: Path) -> dict[str, Any] | None:
    """Commit of the repository that tracks `file`.

    Asked of a *tracked* file, because an installed copy often lies below a repository of somebody else
    (a virtual environment in a project), whose commit would say nothing.

    Args:
        file: a source file.

    Returns:
        `{"commit": hex, "dirty": bool}`, or None without git, a repository, or a commit.
    """
    if _git(file, "ls-files", "--error-unmatch", file.name) is None:
        return None
    commit = _git(file, "rev-parse", "HEAD")
    status = _git(file, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None or status is None else {"commit": commit, "dirty": bool(status)}


def _git(file: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(file.parent), *words], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):  # no git here, or a very slow disk: provenance is not worth a stop
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
