"""What `hybridcascade info` says of an emotion space, and the plot of its priors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hybridcascade.data.emotions import SPACES, EmotionSpace, find_space
from hybridcascade.data.priors import GEOMETRIC_PRIORS, PRIORS, prior_matrix
from hybridcascade.engine.atomic import write_text
from hybridcascade.errors import SettingsError

__all__ = ["describe_space", "named_space", "plot_priors"]


def named_space(topic: str, ring: str | None) -> EmotionSpace | None:
    """Return the space that a topic means, by name or YAML file; None where it means something else."""
    if topic in SPACES or topic.lower().endswith((".yaml", ".yml")):
        return find_space(topic, ring)
    if ring is not None:
        raise SettingsError(f"--ring is about an emotion space ({', '.join(SPACES)}, or a YAML file), not {topic!r}")
    return None


def describe_space(space: EmotionSpace) -> dict[str, Any]:
    """Describe a space: its classes, ring and polarity, and what each prior makes of the first label."""
    signs = {1: "pleasant", -1: "unpleasant", 0: "neither"}
    polarity = {name: signs[sign] for name, sign in (space.polarity or {}).items()}
    ring = ", ".join(space.ring or ()) or "none: choose one with --ring"
    described: dict[str, Any] = {
        "space": {"name": space.name, "ring": ring, "notes": space.notes},
        "classes": {name: polarity.get(name, "no polarity") for name in space.classes},
    }
    if space.candidates:
        described["rings (--ring)"] = {name: ", ".join(names) for name, names in space.candidates.items()}
    title = f"{space.classes[0]} by prior (--prior), in %"
    described[title] = {
        kind: ", ".join(f"{100 * share:.1f}" for share in prior_matrix(kind, space.classes, space)[0])
        for kind in _priors_of(space)
    }
    return described


def plot_priors(space: EmotionSpace, path: str) -> Path:
    """Write the heat maps of all priors that the space allows as an SVG file.

    Raises:
        SettingsError: the file's ending is not `.svg`.
    """
    if not path.lower().endswith(".svg"):
        raise SettingsError(f"--plot writes an .svg file, got {path!r}")
    from hybridcascade.evaluation.heatmaps import prior_maps

    priors = {k: prior_matrix(k, space.classes, space).tolist() for k in _priors_of(space) if k != "none"}
    write_text(Path(path), prior_maps(space.classes, priors))
    return Path(path)


def _priors_of(space: EmotionSpace) -> list[str]:
    """Priors that need nothing the space does not have."""
    without = set() if space.ring is not None else set(GEOMETRIC_PRIORS)
    if space.polarity is None:
        without |= {"wheel_polarity", "exclusion"}
    return [kind for kind in PRIORS if kind not in without]
