"""What the options of learning from labels must be like, told before torch is loaded."""

from __future__ import annotations

from hybridcascade.config_use import at_least, one_of
from hybridcascade.data.emotions import EmotionSpace, find_space
from hybridcascade.data.priors import DEFAULT_EPSILON, DEFAULT_SIGMA, GEOMETRIC_PRIORS, PRIORS
from hybridcascade.errors import SettingsError

__all__ = ["TARGETS", "check_calibration", "check_prior_numbers", "check_targets", "prior_name", "space_of"]

TARGETS: dict[str, str] = {
    "auto": "votes where a picture has them, else its label through the prior",
    "votes": "votes alone",
    "labels": "labels through the prior, also where there are votes",
}
"""Sources of targets. A test holds them equal to the data room's, which needs torch."""


def prior_name(prior: str | None, space: str | None) -> str:
    """Return the prior that is meant: with an emotion space `wheel_polarity`, else the bare label."""
    return prior or ("none" if space is None else "wheel_polarity")


def space_of(space: str | None, ring: str | None) -> EmotionSpace | None:
    """Return the emotion space that is meant, None where none is.

    Raises:
        SettingsError: a ring without a space, or a space that cannot be read.
    """
    if space is None:
        if ring is not None:
            raise SettingsError("--ring needs the emotion space it belongs to: --space ekman6, or a YAML file")
        return None
    return find_space(space, ring)


def check_prior_numbers(sigma: float, epsilon: float) -> None:
    """Raise `SettingsError` when the width or the floor of a prior cannot be."""
    if not sigma > 0:
        raise SettingsError(f"prior_sigma must be above 0, got {sigma}")
    at_least("prior_epsilon", epsilon, 0)


def check_targets(
    learns: bool, targets: str, space: str | None, ring: str | None, prior: str | None, prior_sigma: float,
    prior_epsilon: float, vote_smoothing: float, shots: int | None, label_share: float | None,
) -> None:  # fmt: skip
    """Raise `SettingsError` when the options of learning from labels cannot work; `learns` says whether it does."""
    one_of("source of targets", targets, TARGETS)
    if prior is not None:
        one_of("prior", prior, PRIORS)
    check_prior_numbers(prior_sigma, prior_epsilon)
    at_least("vote_smoothing", vote_smoothing, 0)
    at_least("shots", shots, 1)
    if label_share is not None and not 0 < label_share <= 1:
        raise SettingsError(f"label_share must be above 0 and at most 1, got {label_share}")
    if shots is not None and label_share is not None:
        raise SettingsError("--shots and --label_share contradict each other: choose one")
    given = {
        "targets": targets != "auto", "prior": prior is not None, "prior_sigma": prior_sigma != DEFAULT_SIGMA,
        "prior_epsilon": prior_epsilon != DEFAULT_EPSILON, "vote_smoothing": vote_smoothing != 0,
        "shots": shots is not None, "label_share": label_share is not None,
    }  # fmt: skip
    found = space_of(space, ring)
    if not learns:
        if idle := [f"--{name}" for name, is_given in given.items() if is_given]:
            raise SettingsError(f"{', '.join(idle)}: these are about learning from labels; add --use_labels")
        return
    name = prior_name(prior, space)
    if name not in GEOMETRIC_PRIORS or targets == "votes":
        return
    if found is None:
        raise SettingsError(f"prior {name!r} needs an emotion space: --space mikels8, or a YAML file")
    found.matrix("steps" if name == "wheel" else "polarity")  # says what ring or polarity is missing


def check_calibration(calibrate: str | None, split: str | None, data: str | None) -> None:
    """Raise `SettingsError` when a run would be calibrated on nothing, or on pictures that it learns from."""
    if calibrate is None:
        return
    if data is None:
        raise SettingsError("--calibrate fits a temperature on a split of the data: say where it is with --data")
    if split is None or split == calibrate:
        raise SettingsError(
            f"--calibrate {calibrate} needs pictures that the run does not learn from: name the training pictures "
            "too, such as --split train"
        )
