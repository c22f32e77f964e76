"""The kinds of arena on real pictures: what their `arena:` section may say. Importing it imports no torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hybridcascade.config import at_least, check_layout, check_prior_numbers, one_of
from hybridcascade.data.emotions import SPACES, EmotionSpace, find_space
from hybridcascade.data.priors import DEFAULT_EPSILON, DEFAULT_SIGMA, GEOMETRIC_PRIORS, PRIORS, prior_matrix
from hybridcascade.data.texts import DESCRIPTION_SETS, TEMPLATE_SETS, description_file, read_templates
from hybridcascade.errors import SettingsError
from hybridcascade.experiments.kinds import KEYED_WHEN_CHANGED, ArenaKind, register_arena

if TYPE_CHECKING:
    from hybridcascade.data.sources import PictureSource

__all__ = ["SHIFT_NAMES", "PicturesSpec", "ShiftedPicturesSpec"]

SHIFT_NAMES = ("blur", "noise", "fading", "jpeg", "colour_cast", "contrast", "pixelate")
"""Names of `data.shifts.SHIFTS`, here so that a wrong one is told before torch is loaded; a test holds them equal."""


@dataclass(frozen=True)
class PicturesSpec:
    """Keys of `kind: pictures`: real pictures with labels or votes, tuned on one split and tested on another."""

    data: str = ""
    """Folder, zip or manifest with labels or votes of the test pictures."""

    train_split: str = "train"
    """Split of the unlabelled training pictures."""

    test_split: str = "test"
    """Split of the test pictures."""

    train_from: float = 0.0
    """Leave out this share of the training split, by the hash of the picture's id: what a model was trained on."""

    train_pictures: int | None = None
    """At most so many training pictures, another draw for each seed. Left out: all."""

    test_pictures: int | None = None
    """At most so many test pictures, the same for each seed. Left out: all."""

    classes: list[str] | None = None
    """Class names; left out: as the data has them."""

    templates: str | None = None
    """Sentences for the class names: a set of templates or a file; left out: what fits the classes."""

    descriptions: str | None = None
    """JSON file {class: [sentence, ...]}, or a set of the package (mikels8, ekman6_neutral); left out: the templates
    stand in."""

    format: str = "auto"
    """Layout of the data, as `--format` of `train` takes it."""

    make_split: str | None = None
    """Split for data that has none, such as hash:0.8."""

    space: str | None = None
    """Emotion space of the classes, for the prior."""

    ring: str | None = None
    """Ring of a space that has none agreed on."""

    prior: str = "none"
    """What a label stands for in the targets `labels`: none, wheel, wheel_polarity, exclusion or smoothing."""

    prior_sigma: float = field(default=DEFAULT_SIGMA, metadata=KEYED_WHEN_CHANGED)
    """Width of a geometric prior, in steps on the ring."""

    prior_epsilon: float = field(default=DEFAULT_EPSILON, metadata=KEYED_WHEN_CHANGED)
    """Floor of the prior: share that all classes divide among them."""

    weights: str | None = None
    """File of CLIP weights for the recipe's `backbone`, which then names the model alone."""

    def __post_init__(self) -> None:
        if not self.data:
            raise SettingsError("arena: say where the pictures are with `data:`")
        if not 0.0 <= self.train_from < 1.0:
            raise SettingsError(f"train_from must be 0 or above and below 1, got {self.train_from}")
        check_layout(self.format, self.make_split)
        one_of("prior", self.prior, PRIORS)
        space = self.emotion_space()
        if self.prior in GEOMETRIC_PRIORS:
            if space is None:
                raise SettingsError(f"prior {self.prior!r} needs an emotion space: space: mikels8, or a YAML file")
            space.matrix("steps" if self.prior == "wheel" else "polarity")  # says what ring or polarity is missing
        self._check_prior_numbers()
        at_least("train_pictures", self.train_pictures, 1)
        at_least("test_pictures", self.test_pictures, 1)
        if self.classes is not None and (not isinstance(self.classes, list) or not self.classes):
            raise SettingsError(f"classes must be a list of class names, got {self.classes!r}")

    def _check_prior_numbers(self) -> None:
        check_prior_numbers(self.prior_sigma, self.prior_epsilon)
        if self.prior == "smoothing":
            prior_matrix(self.prior, ("one", "other"), None, self.prior_sigma, self.prior_epsilon)

    def emotion_space(self) -> EmotionSpace | None:
        """Return the emotion space that is named, None where none is."""
        if self.space is None and self.ring is not None:
            raise SettingsError("arena: ring needs the emotion space it belongs to: space: ekman6, or a YAML file")
        return None if self.space is None else find_space(self.space, self.ring)

    def open(self) -> PictureSource:
        """Return the pictures of all splits; errors as in `open_source`."""
        from hybridcascade.data.sources import open_source

        return open_source(self.data, self.classes, form=self.format, make_split=self.make_split)

    def fingerprint(self) -> str:
        """Return a hash of the data and of the files that are named: weights, texts, emotion space."""
        digest = hashlib.sha256(self.open().fingerprint().encode())
        if self.weights is not None:
            digest.update(_existing(self.weights).read_bytes())
        if self.descriptions is not None:
            digest.update(_existing(str(description_file(self.descriptions)), _NO_TEXTS).read_bytes())
        if self.templates is not None and self.templates not in TEMPLATE_SETS:
            digest.update("\n".join(read_templates(self.templates)).encode())
        if self.space is not None and self.space not in SPACES:
            digest.update(Path(self.space).read_bytes())
        return digest.hexdigest()

    def weights_file(self) -> Path | None:
        """Return the file of weights, or None for the backbone's own.

        Raises:
            SettingsError: it is not there.
        """
        return None if self.weights is None else _existing(self.weights)


_NO_WEIGHTS = (
    "The weights of the lab are not shipped; make them with python scripts/train_lab.py --data DATA --out FILE"
)
_NO_TEXTS = f"Give a JSON file of descriptions, or a set of the package: {', '.join(DESCRIPTION_SETS)}"


def _existing(file: str, remedy: str = _NO_WEIGHTS) -> Path:
    path = Path(file).expanduser()
    if not path.is_file():
        raise SettingsError(f"arena: expected a file at {file!r}, found none. {remedy}")
    return path


@dataclass(frozen=True)
class ShiftedPicturesSpec(PicturesSpec):
    """Keys of `kind: shifted_pictures`: real pictures, worsened in one named way."""

    shift: str = "blur"
    """How: blur, noise, fading, jpeg, colour_cast, contrast or pixelate."""

    severity: float = 1.0
    """How much, 0 (not at all) or above."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("shift", self.shift, SHIFT_NAMES)
        at_least("severity", self.severity, 0)


register_arena(
    ArenaKind(
        name="pictures",
        spec=PicturesSpec,
        target="hybridcascade.experiments.picture_arena:pictures_arena",
        summary="real pictures with labels or votes for the test",
    )
)
register_arena(
    ArenaKind(
        name="shifted_pictures",
        spec=ShiftedPicturesSpec,
        target="hybridcascade.experiments.picture_arena:pictures_arena",
        summary="real pictures, worsened by a named shift, tested against the same pictures without it",
    )
)
