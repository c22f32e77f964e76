"""Supervised calibration: a temperature fitted on labelled pictures, kept with the model, never without being asked.

Label-free runs stay label-free: nothing here runs unless `train --calibrate SPLIT`, `hybridcascade calibrate` or
`TunedModel.calibrate` asks for it, and what was done is told wherever the model is used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hybridcascade.config import TrainConfig
from hybridcascade.data.loaders import image_loader
from hybridcascade.data.messages import complaint
from hybridcascade.data.sources import PictureSource, drop_unreadable, open_source
from hybridcascade.data.views import PlainView
from hybridcascade.errors import CheckpointError, DataError, SettingsError
from hybridcascade.evaluation.metrics import score
from hybridcascade.evaluation.temperature import HIGHEST, LOWEST, fit_temperature
from hybridcascade.methods.base import Method

__all__ = ["Calibration", "calibrate", "open_calibration"]

_TOLD = ("kl", "nll", "ece", "brier")


@dataclass(frozen=True)
class Calibration:
    """How a model was calibrated; what predicts divides its scores by the temperature.

    Attributes:
        temperature: above 1 makes the model less sure, below 1 surer; which class comes first does not change.
        data: where the labelled pictures were.
        split: their split, or None for all pictures there.
        pictures: how many had a label or votes.
        fingerprint: hash of them, see `PictureSource.fingerprint`.
        before: kl, nll, ece and brier on these pictures without the temperature.
        after: with it. The same pictures chose it, so this is no measurement.
    """

    temperature: float
    data: str
    split: str | None
    pictures: int
    fingerprint: str
    before: Mapping[str, float]
    after: Mapping[str, float]

    @property
    def words(self) -> str:
        """One line for a person; it says so where the temperature is as high or as low as it may be."""
        where = self.data if self.split is None else f"split {self.split!r} of {self.data}"
        change = ", ".join(f"{n.upper()} {self.before[n]:.3f} to {self.after[n]:.3f}" for n in ("kl", "ece"))
        limit = ""
        if self.temperature >= 0.999 * HIGHEST:
            limit = ". That is the highest: on these pictures the model is hardly better than guessing"
        elif self.temperature <= 1.001 * LOWEST:
            limit = ". That is the lowest: on these pictures the model is right throughout, and they may be too few"
        return (
            f"supervised calibration: temperature {self.temperature:.3f}, fitted on the labels of {self.pictures} "
            f"pictures ({where}; {change} on them){limit}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Read what `as_dict` gave.

        Raises:
            CheckpointError: other keys, or a temperature that is not above 0.
        """
        try:
            found = cls(**values)
        except TypeError as error:
            raise CheckpointError(f"the calibration of the saved model cannot be read: {error}") from error
        if not found.temperature > 0:
            raise CheckpointError(f"the saved temperature must be above 0, found {found.temperature}")
        return found


def calibrate(
    method: Method, view: PlainView, source: PictureSource, classes: tuple[str, ...],
    split: str | None = None, batch_size: int = 64, workers: int = 0, strict: bool = False,
    device: torch.device | str = "cpu",
) -> Calibration:  # fmt: skip
    """Fit the temperature of a tuned method on labelled pictures.

    Args:
        method: what predicts; moved to `device` and set to evaluation.
        view: PIL picture -> normalised tensor `[3, H, W]`.
        source: pictures, already those of `split`; those without label and votes are passed over.
        classes: K class names.
        split: for the record.
        batch_size: pictures in a forward pass.
        workers: decoding processes.
        strict: raise at the first picture that cannot be read.
        device: where to compute.

    Raises:
        DataError: no picture has a label or votes.
        ClassListError: a label is none of `classes`.
    """
    labelled, _ = drop_unreadable(_labelled(source), strict)
    truth = labelled.targets(classes)
    method = method.to(device).eval()
    loader = image_loader(labelled.unlabeled(), view, batch_size, workers=workers)
    with torch.inference_mode():
        logits = torch.cat([method(batch.images.to(device)).logits.float().cpu() for batch in loader])
    temperature = fit_temperature(logits, truth)

    def told(divisor: float) -> dict[str, float]:
        scores = score((logits / divisor).softmax(dim=1), truth)
        return {name: scores[name] for name in _TOLD}

    return Calibration(
        temperature, labelled.name, split, len(labelled), labelled.fingerprint(), told(1.0), told(temperature)
    )


def open_calibration(config: TrainConfig, classes: tuple[str, ...], given: bool = False) -> PictureSource | None:
    """Open the pictures that a training run is to be calibrated on; None where none are asked for.

    Before the training, so that a split that is not there, or has no labels, stops nothing that is half done.

    Args:
        config: of the run.
        classes: K names.
        given: the training pictures were handed over, they are not at `config.data`.

    Raises:
        SettingsError: `given`.
        DataError: no such split, or no label in it.
        ClassListError: a label is none of `classes`.
    """
    if config.calibrate is None or config.data is None:
        return None
    if given:
        raise SettingsError("calibrate needs pictures with splits at a path; for others: model.calibrate(labelled)")
    source = _labelled(
        open_source(
            config.data, classes, config.calibrate, config.allow_outside, form=config.format,
            make_split=config.make_split,
        )
    )  # fmt: skip
    source.targets(classes)
    return source


def _labelled(source: PictureSource) -> PictureSource:
    """The pictures that have a label or votes."""
    rows = [row for row, sample in enumerate(source.samples) if sample.label is not None or sample.votes is not None]
    if not rows:
        found = f"none of {len(source)} pictures with either"
        remedy = (
            "Give labelled pictures, or leave the calibration out: without labels the model keeps its own temperature"
        )
        raise DataError(complaint(source.name, "labels or votes to calibrate on", found, remedy))
    return source if len(rows) == len(source) else source.take(rows)
