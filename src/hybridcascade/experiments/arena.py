"""An arena: everything that the methods of one comparison share for one seed.

The truth of the test pictures is in it, in fields of their own; only the evaluation after training reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybridcascade.backbone.clip import ClipBackbone
from hybridcascade.backbone.loading import load_backbone
from hybridcascade.data.emotions import MIKELS8, EmotionSpace
from hybridcascade.data.sources import MemorySource, PictureSource
from hybridcascade.encoded import EncodedTexts, choose_texts, encode_texts
from hybridcascade.errors import SettingsError, UnknownNameError
from hybridcascade.experiments.kinds import ArenaMaker, SandboxSpec
from hybridcascade.experiments.text_set import TextSet
from hybridcascade.inference import pick_device
from hybridcascade.sandbox.dataset import SandboxData, make_split
from hybridcascade.sandbox.render import Domain
from hybridcascade.sandbox.texts import CLASSES, TEMPLATES, descriptions
from hybridcascade.sandbox.world import bayes_ceiling, draw_votes

__all__ = ["Arena", "class_shares", "sandbox_arena"]


@dataclass(frozen=True)
class Arena:
    """What all rows of one seed share.

    Attributes:
        name: in tables.
        classes: K class names.
        backbone: frozen CLIP whose text tower is dropped; each row tunes a copy of its own.
        texts: encoded texts by kind, `"templates"` and `"descriptions"` (where there are none: the templates).
        train: unlabelled training pictures, N of them.
        train_targets: distributions `[N, K]` for methods that learn from targets, or None.
        test: pictures of the target domain, M of them, without labels.
        test_truth: true distributions `[M, K]` of the test pictures.
        test_labels: their classes, int64 `[M]`, where they are known apart from the distributions.
        clean_test: pictures like the test pictures, without the shift, or None where there is no shift.
        clean_truth: their true distributions.
        clean_labels: their classes.
        validation: pictures that may choose, or None.
        ceiling: metrics of the best possible predictor, where known.
        words: which data and which model, for the caption of a table.
        space: emotion space of the classes, where they are of one.
        other_targets: further targets of the training pictures by kind, `[N, K]` each.
    """

    name: str
    classes: tuple[str, ...]
    backbone: ClipBackbone
    texts: Mapping[str, EncodedTexts]
    train: PictureSource
    train_targets: Tensor | None
    test: PictureSource
    test_truth: Tensor
    test_labels: Tensor | None = None
    clean_test: PictureSource | None = None
    clean_truth: Tensor | None = None
    clean_labels: Tensor | None = None
    validation: PictureSource | None = None
    ceiling: Mapping[str, float] | None = None
    words: str = ""
    space: EmotionSpace | None = None
    other_targets: Mapping[str, Tensor] = field(default_factory=dict)

    def targets(self, kind: str = "default") -> Tensor:
        """Return the targets `[N, K]` of the training pictures.

        Args:
            kind: `"default"`, or a key of `other_targets`.

        Raises:
            SettingsError: this arena has none, or none of that kind.
        """
        if kind != "default":
            if kind not in self.other_targets:
                raise UnknownNameError(f"kind of targets in arena {self.name!r}", kind, self.other_targets)
            return self.other_targets[kind]
        if self.train_targets is None:
            raise SettingsError(f"arena {self.name!r} has no targets: only label-free methods can be compared in it")
        return self.train_targets


def class_shares(
    classes: Sequence[str], present: Sequence[str] | None = None, imbalance: float = 1.0, seed: int = 0
) -> NDArray[np.float64] | None:
    """Return how frequent each class of the training pictures is.

    Args:
        classes: K names.
        present: the classes that occur; None for all.
        imbalance: share of the most frequent over that of the rarest class, 1 or above; the shares between fall
            in equal ratios, as in long-tailed benchmarks (Cui et al., CVPR 2019).
        seed: draws which class is how frequent.

    Returns:
        `[K]`, summing to 1, 0 for absent classes; None when nothing was asked for: then the data's own shares stay.

    Raises:
        UnknownNameError: a present class is none of `classes`.
    """
    if present is None and imbalance == 1.0:
        return None
    names = list(classes) if present is None else list(dict.fromkeys(present))
    for name in names:
        if name not in classes:
            raise UnknownNameError("class in classes_present", name, classes)
    rank = np.random.default_rng((seed, 77)).permutation(len(names))
    weights = imbalance ** (-rank / max(len(names) - 1, 1))
    shares = np.zeros(len(classes))
    shares[[list(classes).index(name) for name in names]] = weights / weights.sum()
    return shares


def sandbox_arena(
    spec: SandboxSpec, backbone: str = "nano", precision: str = "auto", device: str = "auto", with_clean: bool = True,
    text_sets: Sequence[TextSet] = (),
) -> ArenaMaker:  # fmt: skip
    """Load the model and encode the texts of the sandbox; the result makes the arena of a seed.

    Args:
        spec: sizes, domain, class shares, targets.
        backbone: CLIP weights.
        precision: of the frozen weights.
        device: where to encode the texts and to train.
        with_clean: also make the test pictures without the shift, for the share of it that is recovered.
        text_sets: further texts, under their keys.

    Raises:
        UnknownNameError: a present class is none of the sandbox's.
    """
    class_shares(CLASSES, spec.classes_present)  # a wrong name stops before the weights are loaded
    more = {one.key(): one.build(CLASSES) for one in text_sets}
    clip = load_backbone(backbone, precision, str(pick_device(device)))
    texts = {
        "templates": choose_texts(CLASSES, "zero_shot", "templates", TEMPLATES),
        "descriptions": choose_texts(CLASSES, "lafter", "descriptions", TEMPLATES, descriptions()),
    }
    encoded = {kind: encode_texts(clip, rows, None) for kind, rows in (texts | more).items()}
    clip.drop_text()

    def make(seed: int) -> Arena:
        return _make_sandbox(spec, seed, clip, encoded, with_clean)

    return make


def _make_sandbox(
    spec: SandboxSpec, seed: int, backbone: ClipBackbone, texts: Mapping[str, EncodedTexts], with_clean: bool
) -> Arena:
    domain: Domain = "clean" if spec.domain == "clean" else "shifted"
    shares = class_shares(CLASSES, spec.classes_present, spec.imbalance, seed)
    train = make_split("train", spec.train_pictures, domain, seed, spec.severity, shares)
    test = make_split("test", spec.test_pictures, domain, seed, spec.severity)
    clean = make_split("test", spec.test_pictures, "clean", seed) if with_clean and domain == "shifted" else None
    targets = _sandbox_targets(train, spec.votes, seed)
    return Arena(
        name=f"sandbox ({spec.domain})",
        classes=CLASSES,
        backbone=backbone,
        texts=texts,
        train=_source(train),
        train_targets=targets[spec.targets],
        test=_source(test),
        test_truth=torch.from_numpy(test.posterior),
        test_labels=torch.from_numpy(test.emotions),
        clean_test=None if clean is None else _source(clean),
        clean_truth=None if clean is None else torch.from_numpy(clean.posterior),
        clean_labels=None if clean is None else torch.from_numpy(clean.emotions),
        ceiling=bayes_ceiling(),
        words=_sandbox_words(spec, backbone),
        space=MIKELS8,
        other_targets=targets,
    )


def _source(data: SandboxData) -> MemorySource:
    return MemorySource(data.images, data.ids)


def _sandbox_targets(train: SandboxData, votes: int, seed: int) -> dict[str, Tensor]:
    """Targets by kind, float32 `[N, K]`, rows sum to 1."""
    counts = draw_votes(train.posterior, votes, seed)
    return {
        "labels": torch.nn.functional.one_hot(torch.from_numpy(train.emotions), len(CLASSES)).float(),
        "votes": torch.from_numpy(counts / votes).float(),
        "posterior": torch.from_numpy(train.posterior).float(),
    }


def _sandbox_words(spec: SandboxSpec, backbone: ClipBackbone) -> str:
    strength = f", severity {spec.severity:g}" if spec.domain == "shifted" and spec.severity != 1 else ""
    shares = [f"only {', '.join(spec.classes_present)}"] if spec.classes_present else []
    shares += [f"classes {spec.imbalance:g}:1"] if spec.imbalance != 1 else []
    drawn = f" ({'; '.join(shares)})" if shares else ""
    return (
        f"Generated pictures ({spec.domain} sandbox{strength}): {spec.train_pictures} unlabelled training{drawn} and "
        f"{spec.test_pictures} test pictures a seed. Model: {backbone.name}, small and trained on generated pictures."
    )
