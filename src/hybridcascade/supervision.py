"""Which targets a training run learns from, by its configuration: sources, prior, few shots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from hybridcascade.config import TrainConfig
from hybridcascade.config_targets import prior_name, space_of
from hybridcascade.data.emotions import EmotionSpace
from hybridcascade.data.pictures import PictureSource
from hybridcascade.data.priors import prior_matrix
from hybridcascade.data.targets import Targets, make_targets
from hybridcascade.methods.base import Method
from hybridcascade.methods.registry import method_entry

__all__ = ["choose_targets", "give_geometry"]


def choose_targets(
    config: TrainConfig, source: PictureSource, classes: Sequence[str]
) -> tuple[PictureSource, Targets | None]:
    """Make the targets that a configuration asks for.

    A method that only learns from targets gets the pictures that have one; a method with a teacher keeps
    the others too and labels them itself.

    Args:
        config: of the run.
        source: training pictures.
        classes: K names.

    Returns:
        The pictures to train on, and their targets; None where the run learns from no labels.

    Raises:
        DataError: no picture has a target.
        SettingsError: the prior does not go with the classes.
    """
    if not config.learns_from_labels:
        return source, None
    kind = prior_name(config.prior, config.space)
    prior = None
    if config.targets != "votes":
        space = space_of(config.space, config.ring)
        prior = prior_matrix(kind, classes, space, config.prior_sigma, config.prior_epsilon)
    targets = make_targets(
        source, classes, config.targets, prior, config.vote_smoothing, config.shots, config.label_share, config.seed
    )
    if config.prior is not None and not targets.counts()["label"]:
        unused = f"the prior {config.prior!r} is not used: no target is from a label; --targets labels takes the labels"
        targets = replace(targets, remarks=(*targets.remarks, unused))
    if method_entry(config.method).images == "targets" and not bool(targets.known.all()):
        rows = targets.rows
        origins = tuple(targets.origins[row] for row in rows)
        part = Targets(targets.distribution[rows], targets.known[rows], origins, targets.remarks)
        return source.take(rows), part
    return source, targets


def give_geometry(
    method: Method, settings: Mapping[str, Any], classes: Sequence[str], space: EmotionSpace | None
) -> None:
    """Tell a method how its classes lie to each other, where its settings `wheel` or `polarity_gate` ask for it.

    Args:
        method: freshly built.
        settings: its numbers.
        classes: K names.
        space: emotion space that holds them, or None: then the method says what it misses when it labels.

    Raises:
        UnknownNameError: a class is not in the space.
    """
    if space is None or not (settings.get("wheel") or settings.get("polarity_gate")):
        return
    near = None if space.ring is None else torch.from_numpy(prior_matrix("wheel", classes, space))
    polarity = space.polarity
    signs = None if polarity is None else torch.tensor([polarity[space.classes[space.index(c)]] for c in classes])
    method.set_geometry(near, signs)
