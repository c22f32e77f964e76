"""Which targets a training run learns from, by its configuration: sources, prior, few shots."""

from __future__ import annotations

from collections.abc import Sequence

from hybridcascade.config import TrainConfig
from hybridcascade.config_targets import prior_name, space_of
from hybridcascade.data.pictures import PictureSource
from hybridcascade.data.priors import prior_matrix
from hybridcascade.data.targets import Targets, make_targets
from hybridcascade.methods.registry import method_entry

__all__ = ["choose_targets"]


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
    if method_entry(config.method).images == "targets" and not bool(targets.known.all()):
        rows = targets.rows
        origins = tuple(targets.origins[row] for row in rows)
        part = Targets(targets.distribution[rows], targets.known[rows], origins, targets.remarks)
        return source.take(rows), part
    return source, targets
