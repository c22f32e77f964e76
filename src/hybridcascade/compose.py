"""The composition root: the one place where a configuration becomes parts and the parts become a run.

    configuration -> pictures, classes -> texts -> backbone -> method -> loaders -> engine -> saved model

Parts get plain values and other parts, never the configuration.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybridcascade.backbone.clip import ClipBackbone
from hybridcascade.backbone.loading import load_backbone
from hybridcascade.cachedir import feature_cache_folder, text_cache_folder
from hybridcascade.calibration import Calibration, calibrate, open_calibration
from hybridcascade.config import TrainConfig
from hybridcascade.config_targets import space_of
from hybridcascade.data.classes import read_classes
from hybridcascade.data.loaders import image_loader, target_loader, unlabeled_loader
from hybridcascade.data.sources import PictureSource, UnreadablePicture, drop_unreadable, open_source
from hybridcascade.data.targets import Targets
from hybridcascade.data.texts import LabeledText
from hybridcascade.data.views import plain_view, strong_view
from hybridcascade.encoded import EncodedTexts, choose_texts, encode_texts
from hybridcascade.engine.artifact import load_model, save_model
from hybridcascade.engine.feature_store import FeatureStore
from hybridcascade.engine.folder import RunFolder
from hybridcascade.engine.memory import keep_freed_memory
from hybridcascade.engine.records import PhaseRecord
from hybridcascade.engine.run import run_phases
from hybridcascade.engine.watching import EpochWatch
from hybridcascade.errors import CheckpointError, ClassListError
from hybridcascade.methods.base import Method
from hybridcascade.methods.registry import method_entry
from hybridcascade.methods.settings import PhaseDefaults, default_view, method_settings
from hybridcascade.run_output import log_file, open_folder
from hybridcascade.stored_features import feature_layout, feature_table, stored_data
from hybridcascade.supervision import choose_targets, give_geometry
from hybridcascade.watching import make_watch

__all__ = [
    "TunedParts",
    "TunedRun",
    "build_method",
    "load_parts",
    "plain_view_of",
    "save_parts",
    "train",
    "tune",
]

logger = logging.getLogger(__name__)

_PLAIN_BATCH = 128  # pictures in a forward pass without gradients
_TEXT_FEATURES = "texts.features"  # key in the saved tensors
_ACCELERATORS = {"auto": "auto", "cpu": "cpu", "cuda": "gpu", "mps": "mps"}


@dataclass(frozen=True)
class TunedParts:
    """A method that can predict, with all that predicting needs.

    Attributes:
        method: built and trained.
        method_name: its registry key.
        settings: its own numbers.
        classes: K class names.
        texts: what it learned from.
        seed: of the training.
        calibration: temperature fitted on labelled pictures, None unless that was asked for.
    """

    method: Method
    method_name: str
    settings: Mapping[str, Any]
    classes: tuple[str, ...]
    texts: EncodedTexts
    seed: int
    calibration: Calibration | None = None


@dataclass(frozen=True)
class TunedRun:
    """What `train` gives back.

    Attributes:
        parts: the tuned model.
        records: one a phase.
        pictures: how many pictures it was trained on.
        unreadable: pictures that were left out, with the reason.
        folder: the run folder, or None when nothing was saved.
        targets: what it learned from beside the pictures, or None without labels.
    """

    parts: TunedParts
    records: tuple[PhaseRecord, ...]
    pictures: int
    unreadable: tuple[UnreadablePicture, ...]
    folder: Path | None
    targets: Targets | None = None

    @property
    def remarks(self) -> list[str]:
        """Lines that tell a person what happened."""
        counted = [f"{self.pictures} pictures"] if self.pictures else []
        counted += [f"{len(self.parts.classes)} classes", f"{len(self.parts.texts.texts)} texts"]
        lines = [", ".join(counted)]
        if self.targets is not None:
            made = self.targets.counts()
            parts = (f"{made['votes']} from votes", f"{made['label']} from labels", f"{made['none']} pictures without")
            lines += [f"targets: {', '.join(parts)}", *self.targets.remarks]
        for record in self.records:
            loss = f", last loss {record.history[-1].loss:.4f}" if record.history else ""
            lines.append(f"{record.phase} phase {record.status}: {record.epochs} epochs, {record.seconds:.1f} s{loss}")
        if self.parts.calibration is not None:
            lines.append(self.parts.calibration.words)
        if self.unreadable:
            lines.append(f"could not be read and were left out: {len(self.unreadable)}")
            lines += [f"  {u.reason}" if u.id in u.reason else f"  {u.id}: {u.reason}" for u in self.unreadable]
        return lines

    def summary(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        phases = [
            {"phase": r.phase, "epochs": r.epochs, "steps": r.steps, "status": r.status, "seconds": round(r.seconds, 2)}
            for r in self.records
        ]
        return {
            "method": self.parts.method_name,
            "classes": list(self.parts.classes),
            "pictures": self.pictures,
            "texts": len(self.parts.texts.texts),
            "targets": None if self.targets is None else self.targets.counts(),
            "phases": phases,
            "calibration": None if self.parts.calibration is None else self.parts.calibration.as_dict(),
            "unreadable": [{"id": u.id, "reason": u.reason} for u in self.unreadable],
        }


def train(config: TrainConfig, source: PictureSource | None = None, progress: bool = False) -> TunedRun:
    """Run a whole configuration: read, encode, tune, save.

    Args:
        config: what to do.
        source: the pictures, when they are not at `config.data`.
        progress: show progress bars on stderr, where that is a terminal.

    Raises:
        HybridCascadeError: of the kind that fits; nothing is saved that is not whole.
    """
    keep_freed_memory()
    entry = method_entry(config.method)
    given = source is not None
    source = _open_training_source(config) if source is None else source
    classes = _choose_classes(config, source)
    check = open_calibration(config, classes, given)
    texts = choose_texts(classes, config.method, config.text_mode, config.templates, config.descriptions)
    source, unreadable = (None, []) if source is None else drop_unreadable(source, config.strict)
    source, targets = (None, None) if source is None else choose_targets(config, source, classes)
    backbone = load_backbone(config.backbone, config.precision, str(_device(config.device)))
    encoded = encode_texts(backbone, texts, text_cache_folder(config.text_cache))
    backbone.drop_text()
    settings = dataclasses.asdict(method_settings(config.method, config.settings))
    method = build_method(config.method, backbone, encoded, len(classes), config.seed, settings)
    give_geometry(method, settings, classes, space_of(config.space, config.ring))
    parts = TunedParts(method, config.method, settings, classes, encoded, config.seed)
    folder = open_folder(config, classes, source, backbone)
    with log_file(folder):
        records = tune(
            method, config.phases(), encoded, source if entry.images != "none" else None,
            targets=None if targets is None else targets.distribution,
            view=config.view or default_view(config.method), folder=folder, seed=config.seed, resume=config.resume,
            progress=progress, workers=config.workers, device=config.device, devices=config.devices,
            gradient_clip=config.gradient_clip, accumulate=config.accumulate,
            features=FeatureStore(feature_cache_folder(config.feature_cache), config.feature_gb),
            watch=make_watch(
                source if entry.images != "none" else None, backbone, config.watch, config.choose_epoch == "criterion"
            ),
        )  # fmt: skip
    if check is not None:
        view, device = plain_view_of(backbone), _device(config.device)
        made = calibrate(
            method, view, check, classes, config.calibrate, _PLAIN_BATCH, config.workers, config.strict, device
        )
        parts = dataclasses.replace(parts, calibration=made)
    if folder is not None:
        save_parts(folder.model, parts)
    count = 0 if source is None else len(source)
    return TunedRun(parts, tuple(records), count, tuple(unreadable), None if folder is None else folder.path, targets)


def tune(
    method: Method, phases: Mapping[str, PhaseDefaults], texts: EncodedTexts, source: PictureSource | None, *,
    targets: Tensor | None = None, view: str = "none", folder: RunFolder | None = None, seed: int = 0,
    resume: bool = False, progress: bool = False, workers: int = 0, device: str = "auto", devices: int = 1,
    gradient_clip: float | None = None, accumulate: int = 1, features: FeatureStore | None = None,
    watch: EpochWatch | None = None,
) -> list[PhaseRecord]:  # fmt: skip
    """Build the loaders of a method and let the engine run its phases: those that `phases` has numbers for.

    Args:
        method: freshly built; trained in place.
        phases: numbers of each of its phases; with `heads` among them that phase runs on stored features, before
            the image phase or, without numbers for that, in its place.
        texts: for the text phase.
        source: training pictures, or None for a method that needs none; labels are not passed on.
        targets: target distributions by row `[N, K]`, for methods that learn from labels; a row of zeros has
            no target.
        view: name of the strong view.
        folder: run folder, or None to keep nothing on disk.
        seed: of order, augmentation and noise.
        resume: go on from the checkpoints in `folder`.
        progress: show progress bars on stderr, where that is a terminal.
        workers: decoding processes.
        device: auto, cpu, cuda or mps.
        devices: how many of them.
        gradient_clip: largest norm of the gradient, or None.
        accumulate: batches an optimiser step.
        features: where the features of a heads phase are kept; None keeps them in memory.
        watch: measures each epoch without labels, and may choose among them.
    """
    training: Any = None
    plain_pictures = stored = None
    backbone, order = _backbone_of(method), method.phases_with(phases)
    if source is not None:
        method.to(_device(device))
        plain_pictures = image_loader(source.unlabeled(), plain_view_of(backbone), _PLAIN_BATCH, workers=workers)
        method.fit_input(plain_pictures)
    if source is not None and "image" in order:
        plain, strong = plain_view_of(backbone), _strong_view_of(backbone, view)
        batch = min(phases["image"].batch_size, len(source))
        bare = source.unlabeled()
        if targets is not None:
            known = targets.sum(dim=1) > 0
            training = target_loader(bare, targets, plain, strong, batch, seed, workers=workers, known=known)
        else:
            training = unlabeled_loader(bare, plain, strong, batch, seed, workers=workers)
    if source is not None and "heads" in order:
        needs, store = method.feature_needs(), features or FeatureStore()
        table = feature_table(backbone, needs, source, plain_view_of(backbone), store, _device(device), workers)
        backbone.stored_layout = feature_layout(backbone, needs)
        batch = min(phases["heads"].batch_size, len(source)) if "heads" in phases else len(source)
        stored = stored_data(table, source.ids, batch, seed, targets)
    return run_phases(
        method, phases, texts.batch, training, plain_pictures, targets, folder, seed, resume, progress,
        _ACCELERATORS[device], devices, gradient_clip, accumulate, stored=stored,
        callbacks=() if watch is None else (watch,),
    )  # fmt: skip


def build_method(
    name: str, backbone: ClipBackbone, texts: EncodedTexts, class_count: int, seed: int, settings: Mapping[str, Any]
) -> Method:
    """Build a method by name around a backbone.

    Args:
        name: registry key.
        backbone: frozen; the method owns it from now on.
        texts: encoded texts of the classes.
        class_count: K.
        seed: of random starts and noise.
        settings: the method's own numbers, complete.
    """
    batch = texts.batch
    kind = method_entry(name).load()
    extra = {"text_kinds": texts.kinds} if kind.takes_text_kinds else {}
    make: Callable[..., Method] = kind
    return make(
        backbone=backbone, text_features=batch.features, text_labels=batch.labels, class_count=class_count,
        seed=seed, **extra, **settings,
    )  # fmt: skip


def plain_view_of(backbone: ClipBackbone) -> Any:
    """Return the evaluation view of a backbone's weights: Pillow picture -> float `[3, H, W]`."""
    return plain_view(backbone.image_size, backbone.mean, backbone.std, backbone.interpolation, backbone.resize_mode)


def save_parts(folder: Path, parts: TunedParts) -> None:
    """Save a tuned model, whole or not at all; see `engine.artifact`."""
    from hybridcascade import __version__

    backbone = _backbone_of(parts.method)
    description = {
        "created_with": f"hybridcascade {__version__}",
        "method": parts.method_name,
        "settings": dict(parts.settings),
        "classes": list(parts.classes),
        "seed": parts.seed,
        "backbone": backbone.describe(),
        "texts": [list(t) for t in parts.texts.texts],
        "calibration": None if parts.calibration is None else parts.calibration.as_dict(),
    }
    save_model(folder, parts.method.artifact_state() | {_TEXT_FEATURES: parts.texts.features}, description)


def load_parts(path: str | Path) -> TunedParts:
    """Load what `save_parts` saved, from a run folder or its `model` folder; nothing is downloaded.

    Raises:
        CheckpointError: there is no model, or it is damaged or of another kind.
    """
    keep_freed_memory()
    place = Path(path)
    if not place.is_dir():
        raise CheckpointError(
            f"there is no run folder at {str(path)!r}; `hybridcascade train ... --out {path}` makes one"
        )
    state, description = load_model(place / "model" if (place / "model").is_dir() else place)
    try:
        features = state.pop(_TEXT_FEATURES)
        texts = EncodedTexts(tuple(LabeledText(*row) for row in description["texts"]), features)
        classes, seed = tuple(description["classes"]), int(description["seed"])
        settings = dataclasses.asdict(method_settings(description["method"], description["settings"]))
        backbone = ClipBackbone.from_description(description["backbone"])
        method = build_method(description["method"], backbone, texts, len(classes), seed, settings)
    except KeyError as error:
        raise CheckpointError(f"the model in {str(path)!r} lacks {error}: it was saved by another version") from error
    method.load_artifact_state(state)
    method.requires_grad_(False)
    made = description.get("calibration")
    calibration = None if made is None else Calibration.from_dict(made)
    return TunedParts(method.eval(), description["method"], settings, classes, texts, seed, calibration)


def _open_training_source(config: TrainConfig) -> PictureSource | None:
    if config.data is None:
        return None
    classes = read_classes(config.classes) if config.learns_from_labels and config.classes else None
    return open_source(
        config.data, classes, config.split, config.allow_outside, form=config.format, make_split=config.make_split
    )


def _choose_classes(config: TrainConfig, source: PictureSource | None) -> tuple[str, ...]:
    if config.classes:
        return read_classes(config.classes)
    if source is None or not source.classes:
        where = f"{config.data!r} names no classes" if config.data else "no classes were named"
        raise ClassListError(f"{where}: say them with --classes classes.txt or --classes awe,fear")
    return tuple(source.classes)


def _device(name: str) -> torch.device:
    from hybridcascade.inference import pick_device

    return pick_device(name)


def _backbone_of(method: Method) -> ClipBackbone:
    backbone = method.backbone
    if not isinstance(backbone, ClipBackbone):
        raise TypeError(f"method {type(method).__name__} must hold its ClipBackbone as `backbone`")
    return backbone


def _strong_view_of(backbone: ClipBackbone, name: str) -> Any:
    return strong_view(name, backbone.image_size, backbone.mean, backbone.std, backbone.interpolation)
