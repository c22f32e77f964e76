"""The library in three words: `fit` tunes a model, `load` brings it back, and the model predicts.

>>> import hybridcascade as hc
>>> model = hc.fit("photos/", classes=["awe", "fear"], backbone="nano", out="runs/mine")  # doctest: +SKIP
>>> model.predict("holiday/").save("predictions.csv")                                     # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybridcascade.calibration import Calibration, calibrate
from hybridcascade.compose import TunedParts, load_parts, plain_view_of, save_parts, train
from hybridcascade.config import TrainConfig
from hybridcascade.data.sources import PictureSource, drop_unreadable, open_source
from hybridcascade.engine.folder import RunFolder
from hybridcascade.errors import CheckpointError, ClassListError, SettingsError
from hybridcascade.evaluation.full import FullScores, full_score
from hybridcascade.evaluation.metrics import score
from hybridcascade.inference import collect_pictures, pick_device, predict_pictures, stream_pictures
from hybridcascade.predictions import Predictions
from hybridcascade.recipes import build_config

__all__ = ["TunedModel", "fit", "load"]

logger = logging.getLogger(__name__)


class TunedModel:
    """A tuned model: predicts, is measured, is saved. Made by `fit` and `load`.

    Attributes:
        classes: K class names, the order of every distribution.
        method: registry key of the method that tuned it.
        folder: run folder it is saved in, or None.
        device: where it predicts.
    """

    def __init__(self, parts: TunedParts, folder: Path | None = None, device: str = "auto") -> None:
        self._parts = parts
        self.classes = parts.classes
        self.method = parts.method_name
        self.folder = folder
        self.device = pick_device(device)
        self._view = plain_view_of(parts.method.backbone)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"TunedModel(method={self.method!r}, classes={list(self.classes)}, folder={str(self.folder)!r})"

    def predict(
        self, inputs: Any, batch_size: int = 64, workers: int = 0, strict: bool = False, allow_outside: bool = False
    ) -> Predictions:
        """Predict pictures; one that cannot be read becomes a row with the reason.

        Args:
            inputs: a path (picture, folder, zip, manifest), a Pillow picture, a uint8 array `[H, W, 3]` or
                `[N, H, W, 3]`, or a list that mixes them.
            batch_size: pictures in a forward pass.
            workers: decoding processes.
            strict: raise at the first picture that cannot be read.
            allow_outside: a manifest may point to pictures outside its own folder.

        Raises:
            DataError: nothing there, no picture, or an id twice.
            PictureError: with `strict`, the first picture that cannot be read.
        """
        source = collect_pictures(inputs, allow_outside)
        return predict_pictures(
            self._parts.method, self._view, source, self.classes, batch_size, workers, strict, self.device,
            self._temperature,
        )  # fmt: skip

    def stream(
        self, inputs: Any, batch_size: int = 64, workers: int = 0, strict: bool = False, allow_outside: bool = False
    ) -> Iterator[Predictions]:
        """Predict as `predict` does, but yield batch after batch, so that memory does not grow."""
        source = collect_pictures(inputs, allow_outside)
        yield from stream_pictures(
            self._parts.method, self._view, source, self.classes, batch_size, workers, strict, self.device,
            self._temperature,
        )  # fmt: skip

    def predict_proba(self, inputs: Any, **options: Any) -> NDArray[np.float32]:
        """Return only the distributions, float32 `[N, K]`; arguments as in `predict`."""
        return self.predict(inputs, **options).probabilities

    def evaluate(
        self, data: Any, split: str | None = None, batch_size: int = 64, workers: int = 0,
        strict: bool = False, allow_outside: bool = False, format: str = "auto", make_split: str | None = None,
    ) -> dict[str, float]:  # fmt: skip
        """Measure the model on labelled pictures; classes are matched by name.

        Args:
            data: a folder per class, a manifest with labels, votes or probabilities, a zip of either, or a
                `PictureSource` with labels.
            split: rows of a manifest to use; None means all.
            batch_size: pictures in a forward pass.
            workers: decoding processes.
            strict: raise at the first picture that cannot be read, instead of leaving it out.
            allow_outside: a manifest may point to pictures outside its own folder.
            format: layout of a published data set, as `--format` takes it.
            make_split: rule for data without a split, such as `hash:0.8`.

        Returns:
            accuracy, macro_f1, ece, kl, nll, brier; see `evaluation.metrics.score`.

        Raises:
            ClassListError: the data has a class that the model does not have; both lists are in the message.
            DataError: a picture has no label.
        """
        source = self._labelled(data, split, allow_outside, format, make_split)
        return score(*self._predicted_and_true(source, batch_size, workers, strict))

    def evaluate_fully(
        self, data: Any, split: str | None = None, batch_size: int = 64, workers: int = 0,
        strict: bool = False, allow_outside: bool = False, format: str = "auto", make_split: str | None = None,
    ) -> FullScores:  # fmt: skip
        """Measure the model in every way: also distribution metrics, each class, the confusion matrix.

        Arguments and errors as in `evaluate`; `FullScores.metrics` is what `evaluate` returns.
        """
        source = self._labelled(data, split, allow_outside, format, make_split)
        probabilities, truth, labels = self._predicted_and_true(source, batch_size, workers, strict)
        return full_score(probabilities, truth, self.classes, labels)

    def _predicted_and_true(
        self, source: PictureSource, batch_size: int, workers: int, strict: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Predict labelled data: distributions and truth `[N, K]`, labels `[N]` where all are stated."""
        source, _ = drop_unreadable(source, strict)
        if self.calibration is not None and self.calibration.fingerprint == source.fingerprint():
            logger.warning(
                "%s: these pictures chose the temperature; measure a calibrated model on others", source.name
            )
        truth = source.targets(self.classes)
        stated = all(sample.label is not None for sample in source.samples)
        labels = source.labels(self.classes) if stated else None
        predictions = predict_pictures(
            self._parts.method, self._view, source, self.classes, batch_size, workers, True, self.device,
            self._temperature,
        )  # fmt: skip
        return torch.from_numpy(predictions.probabilities), truth, labels

    @property
    def calibration(self) -> Calibration | None:
        """How the model was calibrated on labelled pictures; None for a model that was not."""
        return self._parts.calibration

    @property
    def _temperature(self) -> float:
        return 1.0 if self.calibration is None else self.calibration.temperature

    def calibrate(
        self, data: Any, split: str | None = None, batch_size: int = 64, workers: int = 0,
        strict: bool = False, allow_outside: bool = False, format: str = "auto", make_split: str | None = None,
    ) -> Calibration:  # fmt: skip
        """Fit a temperature on labelled pictures: supervised calibration, which `save` keeps with the model.

        The class that comes first does not change, only how sure the model is. An earlier temperature is replaced.
        Take pictures that the model did not learn from, and measure it on others.

        Args:
            data: labelled pictures, as for `evaluate`; those without a label or votes are passed over.
            split: rows of a manifest to use; None means all.
            batch_size: pictures in a forward pass.
            workers: decoding processes.
            strict: raise at the first picture that cannot be read, instead of leaving it out.
            allow_outside: a manifest may point to pictures outside its own folder.
            format: layout of a published data set, as `--format` takes it.
            make_split: rule for data without a split, such as `hash:0.7,0.1`.

        Raises:
            DataError: no such split, or no label in it.
            ClassListError: the data has a class that the model does not have.
        """
        source = self._labelled(data, split, allow_outside, format, make_split)
        made = calibrate(
            self._parts.method, self._view, source, self.classes, split, batch_size, workers, strict, self.device
        )
        self._parts = dataclasses.replace(self._parts, calibration=made)
        return made

    def uncalibrate(self) -> None:
        """Forget the temperature: the model is as sure as its training made it."""
        self._parts = dataclasses.replace(self._parts, calibration=None)

    def save(self, path: str | PathLike[str], overwrite: bool = False) -> Path:
        """Save the model in a folder of its own, which `load` needs and nothing else.

        Raises:
            OutputExistsError: the folder holds something; `overwrite` replaces a run of this package.
        """
        folder = RunFolder.create(Path(path), overwrite)
        save_parts(folder.model, self._parts)
        self.folder = folder.path
        return folder.path

    def keep(self) -> Path:
        """Save the model in the run folder that it was loaded from, in place of the one there, whole or not at all.

        Raises:
            SettingsError: it was made in memory; `save` makes a folder.
        """
        if self.folder is None:
            raise SettingsError("this model has no run folder yet: save it with model.save(PATH)")
        inner = self.folder / "model"
        save_parts(inner if inner.is_dir() else self.folder, self._parts)
        return self.folder

    def info(self) -> dict[str, Any]:
        """Return what the model is: method, settings, classes, backbone, texts, learned quantities."""
        backbone = self._parts.method.backbone
        return {
            "method": self.method,
            "settings": dict(self._parts.settings),
            "classes": list(self.classes),
            "seed": self._parts.seed,
            "backbone": backbone.name,  # type: ignore[union-attr]
            "texts": [t.text for t in self._parts.texts.texts],
            "learned": self._parts.method.learned(),
            "calibration": None if self.calibration is None else self.calibration.as_dict(),
            "folder": None if self.folder is None else str(self.folder),
        }

    def _labelled(
        self, data: Any, split: str | None, allow_outside: bool, form: str, make_split: str | None
    ) -> PictureSource:
        if isinstance(data, PictureSource):
            return data
        source = open_source(data, self.classes, split, allow_outside, form=form, make_split=make_split)
        if all(s.label is not None or s.votes is not None for s in source.samples):
            return source
        found = open_source(data, None, split, allow_outside, form=form, make_split=make_split)
        unknown = [name for name in found.classes or () if name not in self.classes]
        if unknown:
            raise ClassListError(
                f"{os.fspath(data)}: has the classes {', '.join(found.classes or ())}; the model has "
                f"{', '.join(self.classes)}. Not in the model: {', '.join(unknown)}"
            )
        return source


def fit(
    data: Any = None,
    classes: Sequence[str] | str | PathLike[str] | None = None,
    method: str = "hybrid_cascade",
    backbone: str = "nano",
    out: str | PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = False,
    **options: Any,
) -> TunedModel:
    """Tune a model to your classes; labels are not needed.

    Args:
        data: training pictures: a path (folder, folder per class, zip, manifest), a `PictureSource`, or a list
            of paths, Pillow pictures and arrays. Methods that learn from texts alone need none.
        classes: names, or a file that lists them; None takes the names that the data brings.
        method: registry key, see `hybridcascade info methods`.
        backbone: `nano`, `MODEL/TAG`, `MODEL@FILE` or `hf-hub:ORG/NAME`.
        out: run folder to make; None keeps the model in memory only.
        seed: of everything drawn at random.
        progress: show progress bars on stderr, where that is a terminal.
        **options: further fields of `config.TrainConfig`: `descriptions`, `epochs`, `lr`, `schedule`,
            `view`, `device`, `strict`, `resume`, `overwrite`, `text={"epochs": 100}`,
            `image={"batch_size": 32}`, `settings={"prompts": 8}` ... To learn from votes or labels too:
            `use_labels=True`, with `space="mikels8"`, `prior="wheel_polarity"`, `shots=16` ...

    Raises:
        SettingsError: an unknown or contradicting option.
        DataError: the data cannot be used.
        OutputExistsError: `out` holds something.
    """
    is_path = data is None or isinstance(data, str | PathLike)
    source = None if is_path else data if isinstance(data, PictureSource) else collect_pictures(data)
    values: Mapping[str, Any] = {
        "data": (os.fspath(data) if data is not None else None) if is_path else f"<{type(data).__name__}>",
        "classes": os.fspath(classes) if isinstance(classes, PathLike) else _plain_classes(classes),
        "method": method, "backbone": backbone, "out": None if out is None else os.fspath(out), "seed": seed,
        **options,
    }  # fmt: skip
    run = train(build_config(TrainConfig, values), source, progress)
    return TunedModel(run.parts, run.folder, str(values.get("device", "auto")))


def load(path: str | PathLike[str], device: str = "auto") -> TunedModel:
    """Load a tuned model from its run folder; nothing else is needed and nothing is downloaded.

    Args:
        path: run folder of `fit` or `hybridcascade train`, or the folder that `TunedModel.save` made.
        device: where to predict: auto, cpu, cuda or mps.

    Raises:
        CheckpointError: there is no model, or it is damaged.
    """
    folder = Path(path)
    if folder.is_file():
        raise CheckpointError(f"{str(path)!r} is a file; expected the run folder that `hybridcascade train` made")
    return TunedModel(load_parts(folder), folder, device)


def _plain_classes(classes: Sequence[str] | str | PathLike[str] | None) -> list[str] | str | None:
    return classes if classes is None or isinstance(classes, str) else [str(name) for name in classes]  # type: ignore[union-attr]
