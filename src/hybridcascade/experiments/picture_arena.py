"""Arenas of real pictures, as they are or shifted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from hybridcascade.backbone.clip import ClipBackbone
from hybridcascade.backbone.loading import load_backbone
from hybridcascade.data.priors import prior_matrix
from hybridcascade.data.shares import take_share
from hybridcascade.data.shifts import hold_pictures, shift_source
from hybridcascade.data.sources import PictureSource
from hybridcascade.data.targets import make_targets
from hybridcascade.encoded import EncodedTexts, choose_texts, encode_texts
from hybridcascade.errors import ClassListError
from hybridcascade.experiments.arena import Arena
from hybridcascade.experiments.kinds import ArenaMaker
from hybridcascade.experiments.picture_kinds import PicturesSpec, ShiftedPicturesSpec
from hybridcascade.experiments.text_set import TextSet
from hybridcascade.inference import pick_device

__all__ = ["pictures_arena"]


def pictures_arena(
    spec: PicturesSpec, backbone: str = "nano", precision: str = "auto", device: str = "auto",
    text_sets: Sequence[TextSet] = (),
) -> ArenaMaker:  # fmt: skip
    """Open the pictures, load the model and encode the texts; the result makes the arena of a seed.

    Args:
        spec: which pictures; a `ShiftedPicturesSpec` shifts those of both splits.
        backbone: CLIP weights, or the model that `spec.weights` are of.
        precision: of the frozen weights.
        device: where to encode the texts and to train.
        text_sets: further texts, under their keys.

    Raises:
        SettingsError: the file of weights is not there.
        DataError: the pictures cannot be opened, or test pictures have no labels.
    """
    file = spec.weights_file()
    source = spec.open()
    if source.classes is None:
        raise ClassListError(f"{spec.data}: the pictures bring no classes; say them with `classes:` in the arena")
    classes = tuple(source.classes)
    train = source.subset(spec.train_split)
    train = take_share(train, spec.train_from, 1.0) if spec.train_from else train
    test = _at_most(source.subset(spec.test_split), spec.test_pictures, seed=0)
    more = {one.key(): one.build(classes) for one in text_sets}
    test.targets(classes)  # a picture without a label stops before the weights are loaded
    clip = load_backbone(backbone if file is None else f"{backbone}@{file}", precision, str(pick_device(device)))
    texts = {
        "templates": choose_texts(classes, "zero_shot", "templates", spec.templates),
        "descriptions": choose_texts(classes, "lafter", "auto", spec.templates, spec.descriptions),
    }
    encoded = {kind: encode_texts(clip, rows, None) for kind, rows in (texts | more).items()}
    clip.drop_text()

    def make(seed: int) -> Arena:
        return _make(spec, seed, clip, encoded, classes, _at_most(train, spec.train_pictures, seed), test)

    return make


def _make(
    spec: PicturesSpec, seed: int, backbone: ClipBackbone, texts: Mapping[str, EncodedTexts],
    classes: tuple[str, ...], train: PictureSource, test: PictureSource,
) -> Arena:  # fmt: skip
    truth, labels = test.targets(classes), test.labels(classes)
    shifted = isinstance(spec, ShiftedPicturesSpec)
    targets = _targets(spec, train, classes)
    return Arena(
        name=Path(spec.data).name + _shift_words(spec),
        classes=classes,
        backbone=backbone,
        texts=texts,
        train=hold_pictures(_shifted(train, spec, seed).unlabeled()),
        train_targets=targets.pop("auto", None),
        test=hold_pictures(_shifted(test, spec, seed).unlabeled()),
        test_truth=truth,
        test_labels=labels,
        clean_test=hold_pictures(test.unlabeled()) if shifted else None,
        clean_truth=truth if shifted else None,
        clean_labels=labels if shifted else None,
        space=spec.emotion_space(),
        words=_words(spec, train, test, backbone.name),
        other_targets=targets,
    )


def _at_most(source: PictureSource, count: int | None, seed: int) -> PictureSource:
    """A draw of `count` pictures, in their order."""
    if count is None or count >= len(source):
        return source
    rows = np.sort(np.random.default_rng((seed, 31)).choice(len(source), count, replace=False))
    return source.take(rows.tolist())


def _targets(spec: PicturesSpec, source: PictureSource, classes: tuple[str, ...]) -> dict[str, Tensor]:
    """Targets of the training pictures by kind, for the rows that learn from them; none where a label is missing."""
    if any(sample.label is None and sample.votes is None for sample in source.samples):
        return {}
    prior = prior_matrix(spec.prior, classes, spec.emotion_space(), spec.prior_sigma, spec.prior_epsilon)
    found = {kind: make_targets(source, classes, kind, prior).distribution for kind in ("auto", "labels")}
    if all(sample.votes is not None for sample in source.samples):
        found["votes"] = make_targets(source, classes, "votes").distribution
    return found


def _words(spec: PicturesSpec, train: PictureSource, test: PictureSource, model: str) -> str:
    counts = f"{len(train)} unlabelled training and {len(test)} test pictures"
    return f"Pictures of {Path(spec.data).name}{_shift_words(spec)}: {counts}. {_model_words(spec, model)}"


def _shifted(source: PictureSource, spec: PicturesSpec, seed: int) -> PictureSource:
    return shift_source(source, spec.shift, spec.severity, seed) if isinstance(spec, ShiftedPicturesSpec) else source


def _shift_words(spec: PicturesSpec) -> str:
    return f" (shifted: {spec.shift}, severity {spec.severity:g})" if isinstance(spec, ShiftedPicturesSpec) else ""


def _model_words(spec: PicturesSpec, model: str) -> str:
    """The name of the model; what the card beside a file of weights says of it, and how to make it again."""
    file = spec.weights_file()
    if file is None:
        own = ", small and trained on generated pictures, never on photographs" if model == "nano" else ""
        return f"Model: {model}{own}."
    try:
        card = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        return f"Model: {card['what']}; made by `{card['command']}`."
    except (OSError, ValueError, KeyError, TypeError):
        return f"Model: weights of the file {file.name}."
